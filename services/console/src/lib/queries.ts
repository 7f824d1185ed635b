/** What pages read, with the keys the live feed makes stale. */
import { keepPreviousData, queryOptions, useMutation, useQueryClient } from "@tanstack/react-query";
import { api, type Page, query } from "./api";
import type { Bot, Budget, ChatMessage, Conversation, NewBot, SpendRow } from "./types";

const BOTS = "/api/bot-worker";
const BUDGETS = "/api/budget-analytics";

export type SpendGroup = "day" | "model" | "bot";

function isoDay(offsetDays: number): string {
  return new Date(Date.now() + offsetDays * 86_400_000).toISOString().slice(0, 10);
}

export const botsQuery = queryOptions({
  queryKey: ["bots"],
  queryFn: ({ signal }) => api<Page<Bot>>(`${BOTS}/bots${query({ limit: 100 })}`, { signal }),
});

export const botQuery = (id: string) =>
  queryOptions({
    queryKey: ["bots", id],
    queryFn: ({ signal }) => api<Bot>(`${BOTS}/bots/${id}`, { signal }),
  });

export const conversationsQuery = (botId: string) =>
  queryOptions({
    queryKey: ["conversations", botId],
    queryFn: ({ signal }) =>
      api<Page<Conversation>>(`${BOTS}/bots/${botId}/conversations${query({ limit: 50 })}`, { signal }),
  });

const MESSAGES_PAGE = 200;

/** `last` is the conversation's latest sequence: reading starts so that the newest page is seen. */
export const messagesQuery = (conversationId: string, last: number) =>
  queryOptions({
    queryKey: ["messages", conversationId],
    queryFn: async ({ signal }) => {
      const items: ChatMessage[] = [];
      let after = Math.max(0, last - MESSAGES_PAGE);
      for (;;) {
        const path = `${BOTS}/conversations/${conversationId}/messages${query({ after, limit: MESSAGES_PAGE })}`;
        const page = await api<Page<ChatMessage>>(path, { signal });
        items.push(...page.items);
        const newest = page.items.at(-1);
        if (!newest || page.items.length < MESSAGES_PAGE) return items.slice(-MESSAGES_PAGE);
        after = newest.sequence;
      }
    },
    placeholderData: keepPreviousData,
  });

/** The last `days` days up to today, by UTC days. */
export const spendQuery = (group: SpendGroup, days: number) =>
  queryOptions({
    queryKey: ["spend", group, days],
    queryFn: ({ signal }) => {
      const range = { group_by: group, from: isoDay(1 - days), to: isoDay(1), limit: 200 };
      return api<Page<SpendRow>>(`${BUDGETS}/spend${query(range)}`, { signal });
    },
    placeholderData: keepPreviousData,
  });

export const budgetsQuery = queryOptions({
  queryKey: ["budgets"],
  queryFn: ({ signal }) =>
    api<Page<Budget>>(`${BUDGETS}/budgets${query({ active: "true", limit: 100 })}`, { signal }),
});

/** Names a bot may ask for: routes first, then the deployments behind them. */
export const modelsQuery = queryOptions({
  queryKey: ["models"],
  queryFn: async ({ signal }) => {
    const [routes, deployments] = await Promise.all(
      ["routes", "deployments"].map((kind) => api<{ name: string }[]>(`/api/llm-router/${kind}`, { signal })),
    );
    return [...new Set([...(routes ?? []), ...(deployments ?? [])].map(({ name }) => name))];
  },
  staleTime: 300_000,
});

export function useCreateBot() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (bot: NewBot) => api<Bot>(`${BOTS}/bots`, { method: "POST", body: bot }),
    onSuccess: () => client.invalidateQueries({ queryKey: ["bots"] }),
  });
}
