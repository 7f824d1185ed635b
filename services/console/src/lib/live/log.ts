import type { FeedEvent } from "@/lib/types";

export const KEPT = 500;

/** Newest first, each event once, at most `KEPT`: live and polled events overlap and merge here. */
export function merge(known: readonly FeedEvent[], arrived: readonly FeedEvent[]): readonly FeedEvent[] {
  const ids = new Set(known.map((event) => event.id));
  const fresh = arrived.filter((event) => {
    if (ids.has(event.id)) return false;
    ids.add(event.id);
    return true;
  });
  if (fresh.length === 0) return known;
  return [...fresh, ...known].sort((a, b) => Date.parse(b.time) - Date.parse(a.time)).slice(0, KEPT);
}
