import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider, useQuery } from "@tanstack/react-query";
import { cleanup, render, screen, waitFor } from "@testing-library/react";
import type { ReactNode } from "react";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { everyDay } from "@/components/bar-chart";
import { eventSummary } from "@/components/event-summary";
import { QueryView } from "@/components/states";
import { shownTransport } from "@/components/transport-badge";
import { LanguageProvider, loadLanguage, translate } from "@/i18n";
import { ApiError } from "@/lib/api";
import { staleAfter } from "@/lib/live/staleness";
import type { FeedEvent } from "@/lib/types";

beforeAll(async () => {
  await loadLanguage("tr");
  // jsdom has no media queries; Mantine asks for the colour scheme.
  window.matchMedia = (query: string) =>
    ({
      matches: false,
      media: query,
      addEventListener: () => {},
      removeEventListener: () => {},
    }) as unknown as MediaQueryList;
});
afterEach(cleanup);

const failure = (status: number) => new ApiError(status, "code", "title", null, "req-1");

function Probe({ answer }: { answer: () => Promise<string[]> }) {
  const query = useQuery({ queryKey: ["probe"], queryFn: answer, retry: false });
  return (
    <>
      <QueryView query={query} empty={(items) => (items.length === 0 ? <p>nothing</p> : null)}>
        {(items) => <p>{items.join(",")}</p>}
      </QueryView>
      <button type="button" onClick={() => void query.refetch()}>
        again
      </button>
    </>
  );
}

function show(children: ReactNode) {
  return render(
    <MantineProvider>
      <LanguageProvider initial="en">
        <QueryClientProvider client={new QueryClient()}>{children}</QueryClientProvider>
      </LanguageProvider>
    </MantineProvider>,
  );
}

const state = () => document.querySelector("[data-state]")?.getAttribute("data-state");

describe("a view", () => {
  it("says that it is loading", () => {
    show(<Probe answer={() => new Promise(() => {})} />);
    expect(state()).toBe("loading");
    expect(screen.getByRole("status").getAttribute("aria-label")).toBe("Loading");
  });

  it("shows its data, or that there is none", async () => {
    const { unmount } = show(<Probe answer={async () => ["a", "b"]} />);
    expect(await screen.findByText("a,b")).toBeTruthy();
    unmount();
    show(<Probe answer={async () => []} />);
    expect(await screen.findByText("nothing")).toBeTruthy();
  });

  it.each([
    [403, "denied"],
    [0, "disconnected"],
    [503, "disconnected"],
    [500, "failed"],
  ])("tells an answer of %d as %s", async (status, expected) => {
    show(<Probe answer={() => Promise.reject(failure(status))} />);
    await waitFor(() => expect(state()).toBe(expected));
  });

  it("keeps old data under a notice when refreshing fails", async () => {
    let fails = false;
    show(<Probe answer={() => (fails ? Promise.reject(failure(503)) : Promise.resolve(["old"]))} />);
    await screen.findByText("old");
    fails = true;
    screen.getByText("again").click();
    await waitFor(() => expect(state()).toBe("stale"));
    expect(screen.getByText("old")).toBeTruthy();
  });
});

describe("the transport badge", () => {
  const t = (key: Parameters<typeof translate>[1], values?: Record<string, string | number>) =>
    translate("en", key, values);
  const shown = (...[transport, age]: [Parameters<typeof shownTransport>[0], number | null]) =>
    shownTransport(transport, age === null ? null : 100_000 - age, 100_000, t, "en-GB").text;

  it.each([
    ["live", 300, "Live 0.3 s"],
    ["polling", 5_000, "Polling 5.0 s"],
    ["live", 42_000, "Stale 42 s"],
    ["polling", 42_000, "Stale 42 s"],
    ["connecting", null, "Connecting"],
    ["connecting", 1_000, "Connecting"],
    ["offline", 5_000, "Disconnected 5.0 s"],
    ["offline", null, "Disconnected"],
    ["denied", 5_000, "No live access"],
  ] as const)("of %s after %s ms reads %s", (transport, age, text) => {
    expect(shown(transport, age)).toBe(text);
  });
});

function event(type: string, data: Record<string, unknown>): FeedEvent {
  return {
    id: "1",
    type,
    source: "s",
    subject: "s",
    time: "2026-11-22T00:00:00Z",
    organisation_id: null,
    causation_id: null,
    trace_id: null,
    data,
  };
}

describe("an event", () => {
  it("is told in the reader's words", () => {
    const sent = event("conversation.reply.sent.v1", { channel: "web" });
    expect(eventSummary(sent, (key, values) => translate("en", key, values))).toBe(
      "A reply was sent on Web chat",
    );
    expect(eventSummary(sent, (key, values) => translate("tr", key, values))).toBe(
      "Bir yanıt gönderildi (Web sohbeti)",
    );
  });

  it.each([
    ["llm.usage_batch.recorded.v1", { attempts: 2, models: { m: 2 } }, "Calls to models were recorded: 2"],
    ["budget.definition.changed.v1", { scope: "api_key" }, "A budget changed (API key)"],
    ["budget.threshold.reached.v1", { kind: "settled", threshold_percent: 50 }, "A budget passed 50 %"],
    [
      "budget.threshold.reached.v1",
      { kind: "forecast", threshold_percent: 100 },
      "A budget will pass its limit at the present rate",
    ],
    ["cache.ttl.changed.v1", { route: null, ttl_seconds: 60 }, "Answers are now kept for 60 s"],
    ["cache.ttl.changed.v1", { route: "best", ttl_seconds: 60 }, "Answers of best are now kept for 60 s"],
  ])("%s says what is in it", (type, data, told) => {
    expect(eventSummary(event(type, data), (key, values) => translate("en", key, values))).toBe(told);
  });

  it("is named by its type when there are no words for it", () => {
    expect(eventSummary(event("x.new.thing.v9", {}), (key) => translate("en", key))).toBe("x.new.thing.v9");
  });

  it.each([
    ["conversation.reply.sent.v1", { conversation_id: "c", bot_id: "b" }, ["messages/c", "conversations/b"]],
    ["conversation.message.received.v1", { bot_id: "b" }, ["conversations/b"]],
    ["bot.lifecycle.changed.v1", {}, ["bots"]],
    ["llm.usage.recorded.v1", {}, ["spend", "budgets"]],
    ["llm.usage_batch.recorded.v1", {}, ["spend", "budgets"]],
    ["budget.threshold.reached.v1", {}, ["budgets"]],
    ["audit.entry.recorded.v1", {}, []],
  ])("%s makes stale what shows it", (type, data, keys) => {
    expect(staleAfter(event(type, data)).map((key) => key.join("/"))).toEqual(keys);
  });
});

describe("the chart", () => {
  it("has a bar for every day of the period", () => {
    const bars = everyDay([{ day: "2026-11-21", nano: 5 }], "2026-11-20", 3);
    expect(bars.map(({ day, nano }) => [day, nano])).toEqual([
      ["2026-11-20", 0],
      ["2026-11-21", 5],
      ["2026-11-22", 0],
    ]);
  });
});
