import { Badge, Tooltip, VisuallyHidden } from "@mantine/core";
import { type Translate, useLocalisation } from "@/i18n";
import { age } from "@/lib/format";
import { useLiveFeed, useNow } from "@/lib/live/context";
import type { Transport } from "@/lib/live/feed";
import classes from "./transport-badge.module.css";

const STALE_AFTER_MS = 12_000;
const COLORS: Record<Transport, string> = {
  live: "teal",
  polling: "yellow",
  connecting: "gray",
  offline: "red",
  denied: "gray",
};

type Shown = { text: string; color: string; stale: boolean };

export function shownTransport(
  transport: Transport,
  heardAt: number | null,
  now: number,
  t: Translate,
  locale: string,
): Shown {
  const color = COLORS[transport];
  if (heardAt === null || transport === "denied")
    return {
      text: t(`live.${transport === "live" || transport === "polling" ? "connecting" : transport}`),
      color,
      stale: false,
    };
  const old = age(now - heardAt, locale);
  const label = t(old.unit === "second" ? "live.seconds" : "live.minutes", { value: old.value });
  if (transport === "offline") return { text: t("live.offlineSince", { age: label }), color, stale: true };
  if (now - heardAt > STALE_AFTER_MS)
    return { text: t("live.stale", { age: label }), color: "orange", stale: true };
  if (transport === "connecting") return { text: t("live.connecting"), color, stale: false };
  return { text: t(`live.${transport}`, { age: label }), color, stale: false };
}

/** How data arrives and how old it is: `Live 0.3 s`, `Polling 5 s`, `Stale 42 s`. */
export function TransportBadge() {
  const { t, locale } = useLocalisation();
  const { transport, heardAt } = useLiveFeed();
  const now = useNow(250);
  const shown = shownTransport(transport, heardAt, now, t, locale);
  return (
    <Tooltip
      label={t(`live.explain.${transport}`)}
      multiline
      w={260}
      events={{ hover: true, focus: true, touch: true }}
    >
      <Badge
        component="button"
        type="button"
        className={classes.badge}
        variant="light"
        color={shown.color}
        size="lg"
        tt="none"
        radius="sm"
        data-transport={transport}
        data-stale={shown.stale || undefined}
        leftSection={<span className={classes.dot} data-transport={transport} aria-hidden />}
      >
        {/* A screen reader hears changes of the transport, not every tick of its age. */}
        <span aria-hidden>{shown.text}</span>
        <VisuallyHidden>
          {t("live.label")}: <span aria-live="polite">{t(`live.explain.${transport}`)}</span>
        </VisuallyHidden>
      </Badge>
    </Tooltip>
  );
}
