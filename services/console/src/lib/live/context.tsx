import { useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useContext, useEffect, useState, useSyncExternalStore } from "react";
import type { FeedEvent } from "@/lib/types";
import { browserPorts } from "./browser";
import { type FeedSnapshot, LiveFeed } from "./feed";
import { staleAfter } from "./staleness";

const FeedContext = createContext<LiveFeed | null>(null);
// Consumers of the same event (spend, for one) commit a moment after the feed shows it.
const SETTLE_MS = 700;

export function LiveFeedProvider({ children, feed }: { children: ReactNode; feed?: LiveFeed }) {
  const [current] = useState(() => feed ?? new LiveFeed(browserPorts));
  useEffect(() => {
    current.start();
    return () => current.stop();
  }, [current]);
  useRefetching(current);
  return <FeedContext.Provider value={current}>{children}</FeedContext.Provider>;
}

/** Queries that an event made stale are fetched again, many events in one go. */
function useRefetching(feed: LiveFeed): void {
  const client = useQueryClient();
  useEffect(() => {
    const waiting = new Map<string, readonly string[]>();
    let timer: number | null = null;
    const flush = () => {
      timer = null;
      for (const key of waiting.values()) void client.invalidateQueries({ queryKey: [...key] });
      waiting.clear();
    };
    const take = (events: readonly FeedEvent[]) => {
      for (const event of events) for (const key of staleAfter(event)) waiting.set(key.join("/"), key);
      if (waiting.size > 0 && timer === null) timer = window.setTimeout(flush, SETTLE_MS);
    };
    const stop = feed.onEvents(take);
    return () => {
      stop();
      if (timer !== null) window.clearTimeout(timer);
    };
  }, [client, feed]);
}

function useFeed(): LiveFeed {
  const feed = useContext(FeedContext);
  if (!feed) throw new Error("LiveFeedProvider is missing");
  return feed;
}

export function useLiveFeed(): FeedSnapshot {
  const feed = useFeed();
  return useSyncExternalStore(feed.subscribe, feed.read);
}

/** The time, every so often; one component's own tick. */
export function useNow(everyMs: number): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = window.setInterval(() => setNow(Date.now()), everyMs);
    return () => window.clearInterval(timer);
  }, [everyMs]);
  return now;
}
