import type { FeedEvent } from "@/lib/types";

type Key = readonly string[];

function text(event: FeedEvent, field: string): string | null {
  const value = event.data[field];
  return typeof value === "string" ? value : null;
}

/** Which cached answers an event makes stale. */
export function staleAfter(event: FeedEvent): Key[] {
  const { type } = event;
  if (type.startsWith("conversation.")) {
    const conversation = text(event, "conversation_id");
    const bot = text(event, "bot_id");
    const keys: Key[] = [];
    if (conversation) keys.push(["messages", conversation]);
    if (bot) keys.push(["conversations", bot]);
    return keys;
  }
  if (type.startsWith("bot.")) return [["bots"]];
  if (type.startsWith("budget.")) return [["budgets"]];
  if (type.startsWith("llm.usage")) return [["spend"], ["budgets"]];
  return [];
}
