import { ApiError, api, query } from "@/lib/api";
import type { ServiceState } from "@/lib/types";
import type { EventsPage, FeedPorts, Socket } from "./feed";

const OPS = "/api/observability";

/** The feed's ports in a browser. */
export const browserPorts: FeedPorts = {
  ticket: async () => (await api<{ ticket: string }>(`${OPS}/tickets`, { method: "POST" })).ticket,
  open: (ticket) => {
    const scheme = window.location.protocol === "https:" ? "wss" : "ws";
    return new WebSocket(`${scheme}://${window.location.host}/ws?ticket=${ticket}`) as Socket;
  },
  newest: () => api<EventsPage>(`${OPS}/events${query({ limit: 100 })}`),
  since: (after) => api<EventsPage>(`${OPS}/events${query({ after, limit: 200 })}`),
  services: async () => (await api<{ services: ServiceState[] }>(`${OPS}/services`)).services,
  now: () => Date.now(),
  later: (run, milliseconds) => {
    const timer = window.setTimeout(run, milliseconds);
    return () => window.clearTimeout(timer);
  },
  random: Math.random,
  final: (error) => error instanceof ApiError && (error.status === 401 || error.status === 403),
};
