import { isTextKey, type Translate } from "@/i18n";
import type { FeedEvent } from "@/lib/types";

/** One line that says what happened, in the reader's words; the type itself for one we have no words for. */
export function eventSummary(event: FeedEvent, t: Translate): string {
  const key = wording(event);
  if (!isTextKey(key)) return event.type;
  const values: Record<string, string | number> = {};
  for (const [name, value] of Object.entries(event.data)) {
    if (typeof value === "string" || typeof value === "number") values[name] = word(name, value, t);
  }
  return t(key, values);
}

/** Most types have one sentence; a limit that was passed and one that will be are two. */
function wording({ type, data }: FeedEvent): string {
  if (type === "budget.threshold.reached.v1" && data.kind === "forecast") return `event.${type}.forecast`;
  if (type === "cache.ttl.changed.v1" && data.route === null) return `event.${type}.all`;
  return `event.${type}`;
}

function word(name: string, value: string | number, t: Translate): string | number {
  const keys = [`${name}.${value}`, `botState.${value}`, `health.${value}`, `budgets.scope.${value}`];
  for (const key of keys) {
    const fits =
      name === "channel" ||
      (name === "scope" && key.startsWith("budgets")) ||
      (name === "to_state" && key.startsWith("bot")) ||
      (name === "to_health" && key.startsWith("health"));
    if (fits && isTextKey(key)) return t(key);
  }
  return value;
}

const DOMAIN_COLORS: Record<string, string> = {
  conversation: "kairos",
  bot: "indigo",
  llm: "grape",
  cache: "grape",
  budget: "green",
  audit: "gray",
  auth: "orange",
  ops: "yellow",
};

export function eventColor(type: string): string {
  return DOMAIN_COLORS[type.split(".")[0] ?? ""] ?? "gray";
}

/** The part of the suite an event is about, in the reader's words. */
export function eventDomain(type: string, t: Translate): string {
  const domain = type.split(".")[0] ?? "";
  const key = `events.type.${domain}`;
  return isTextKey(key) ? t(key) : domain;
}
