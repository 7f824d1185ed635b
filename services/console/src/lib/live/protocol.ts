/** Frames of the live feed, as observability sends them (its README has the table). */
import type { FeedEvent, ServiceState } from "@/lib/types";

export interface Hello {
  t: "hello";
  protocol: number;
  topics: string[];
}
export interface Snap {
  t: "snap";
  topic: string;
  epoch: string;
  seq: number;
  state?: Record<string, ServiceState>;
}
export interface Ready {
  t: "ready";
  topic: string;
  epoch: string;
  seq: number;
}
export interface EventFrame {
  t: "ev";
  topic: "events";
  seq: number;
  event: FeedEvent;
}
export interface ChangeFrame {
  t: "ev";
  topic: "services";
  epoch: string;
  seq: number;
  changes: Record<string, ServiceState>;
}
export interface Gap {
  t: "gap";
  topic: string;
  epoch: string;
  reason: "overflow" | "expired" | "epoch";
}
export interface Drop {
  t: "drop";
  topic: string;
  reason: string;
}
export interface Pong {
  t: "pong";
  at: number;
}

export type ServerFrame = Hello | Snap | Ready | EventFrame | ChangeFrame | Gap | Drop | Pong;

export const CLOSE_TICKET_REFUSED = 4401;
export const CLOSE_ACCESS_CHANGED = 4410;
export const CLOSE_RENEW = 4411;

export function parseFrame(text: unknown): ServerFrame | null {
  if (typeof text !== "string") return null;
  try {
    const frame: unknown = JSON.parse(text);
    return frame && typeof frame === "object" && "t" in frame ? (frame as ServerFrame) : null;
  } catch {
    return null;
  }
}
