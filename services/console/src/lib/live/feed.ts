/**
 * The console's one live connection: a WebSocket while it can be had, polling while it can't.
 *
 * Nothing is lost on the way between the two: every connection resumes by sequence, and what can't be
 * resumed is told by `gap` and refetched from the event store from the last known place on.
 */
import type { FeedEvent, ServiceState } from "@/lib/types";
import { merge } from "./log";
import { CLOSE_RENEW, parseFrame, type ServerFrame } from "./protocol";

export type Transport = "connecting" | "live" | "polling" | "offline" | "denied";

export interface FeedSnapshot {
  transport: Transport;
  /** When the server was last heard, in milliseconds of `now()`; null before the first time. */
  heardAt: number | null;
  events: readonly FeedEvent[];
  /** The first page of history has arrived, so an empty list means that there is nothing. */
  loaded: boolean;
  services: Readonly<Record<string, ServiceState>>;
}

export interface Socket {
  send(text: string): void;
  close(): void;
  onopen: (() => void) | null;
  onmessage: ((message: { data: unknown }) => void) | null;
  onclose: ((closed: { code: number }) => void) | null;
}

export interface EventsPage {
  items: FeedEvent[];
  next_cursor: string | null;
  head: string | null;
}

export interface FeedPorts {
  ticket(): Promise<string>;
  open(ticket: string): Socket;
  newest(): Promise<EventsPage>;
  since(after: string): Promise<EventsPage>;
  services(): Promise<ServiceState[]>;
  now(): number;
  later(run: () => void, milliseconds: number): () => void;
  random(): number;
  /** True for an error that a new attempt can't mend (no permission, signed out). */
  final(error: unknown): boolean;
}

export const POLL_MS = 5_000;
export const PING_MS = 2_000;
export const SILENT_MS = 10_000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30_000;

export class LiveFeed {
  private readonly ports: FeedPorts;
  private snapshot: FeedSnapshot = {
    transport: "connecting",
    heardAt: null,
    events: [],
    loaded: false,
    services: {},
  };
  private readonly listeners = new Set<() => void>();
  private readonly eventListeners = new Set<(events: readonly FeedEvent[]) => void>();
  private socket: Socket | null = null;
  private place: { epoch: string; seq: number } | null = null;
  private head: string | null = null;
  private retries = 0;
  private running = false;
  private refetching = false;
  private timers: Record<"retry" | "poll" | "ping", (() => void) | null> = {
    retry: null,
    poll: null,
    ping: null,
  };

  constructor(ports: FeedPorts) {
    this.ports = ports;
  }

  start(): void {
    if (this.running) return;
    this.running = true;
    void this.connect();
  }

  stop(): void {
    this.running = false;
    for (const name of ["retry", "poll", "ping"] as const) this.cancel(name);
    this.dropSocket();
    this.snapshot = { ...this.snapshot, transport: "connecting" };
  }

  read = (): FeedSnapshot => this.snapshot;

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Called with events the feed did not know before, so that pages refetch what these changed. */
  onEvents(listener: (events: readonly FeedEvent[]) => void): () => void {
    this.eventListeners.add(listener);
    return () => this.eventListeners.delete(listener);
  }

  private update(change: Partial<FeedSnapshot>): void {
    this.snapshot = { ...this.snapshot, ...change };
    for (const listener of this.listeners) listener();
  }

  private heard(change: Partial<FeedSnapshot> = {}): void {
    this.update({ ...change, heardAt: this.ports.now() });
  }

  private schedule(name: "retry" | "poll" | "ping", run: () => void, milliseconds: number): void {
    this.cancel(name);
    this.timers[name] = this.ports.later(run, milliseconds);
  }

  private cancel(name: "retry" | "poll" | "ping"): void {
    this.timers[name]?.();
    this.timers[name] = null;
  }

  private async connect(): Promise<void> {
    let ticket: string;
    try {
      ticket = await this.ports.ticket();
    } catch (error) {
      if (this.running) this.failed(error);
      return;
    }
    if (!this.running) return;
    const socket = this.ports.open(ticket);
    this.socket = socket;
    socket.onmessage = (message) => {
      const frame = parseFrame(message.data);
      if (frame && this.socket === socket) this.take(frame);
    };
    socket.onclose = (closed) => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.cancel("ping");
      if (this.running) this.lost(closed.code);
    };
    this.watchSilence(socket);
  }

  private watchSilence(socket: Socket): void {
    const openedAt = this.ports.now();
    const beat = () => {
      if (this.socket !== socket) return;
      const quietSince = Math.max(openedAt, this.snapshot.heardAt ?? 0);
      if (this.ports.now() - quietSince > SILENT_MS) {
        this.dropSocket();
        this.lost(0);
        return;
      }
      if (this.snapshot.transport === "live") this.send({ t: "ping", at: this.ports.now() });
      this.schedule("ping", beat, PING_MS);
    };
    this.schedule("ping", beat, PING_MS);
  }

  private send(frame: Record<string, unknown>): void {
    this.socket?.send(JSON.stringify(frame));
  }

  private take(frame: ServerFrame): void {
    switch (frame.t) {
      case "hello":
        this.send({ t: "sub", topic: "events", ...(this.place ? { resume: this.place } : {}) });
        this.send({ t: "sub", topic: "services" });
        this.heard();
        break;
      case "snap":
        this.heard(frame.state ? { services: frame.state } : {});
        break;
      case "ready":
        this.ready(frame.topic, frame.epoch, frame.seq);
        break;
      case "ev":
        if (frame.topic === "services")
          this.heard({ services: { ...this.snapshot.services, ...frame.changes } });
        else this.event(frame.event, frame.seq);
        break;
      case "gap":
        this.heard();
        void this.refetch();
        break;
      case "drop":
        this.heard(frame.reason === "denied" && frame.topic === "events" ? { loaded: true } : {});
        break;
      case "pong":
        this.heard();
    }
  }

  private ready(topic: string, epoch: string, seq: number): void {
    if (topic !== "events") {
      this.heard();
      return;
    }
    this.place = { epoch, seq };
    this.retries = 0;
    this.cancel("poll");
    this.heard({ transport: "live" });
    if (!this.snapshot.loaded) void this.refetch();
  }

  private event(event: FeedEvent, seq: number): void {
    if (this.place) this.place = { epoch: this.place.epoch, seq };
    this.heard();
    this.add([event]);
  }

  private add(arrived: readonly FeedEvent[]): void {
    const before = this.snapshot.events;
    const events = merge(before, arrived);
    if (events === before) return;
    this.update({ events });
    const known = new Set(before.map((event) => event.id));
    const fresh = arrived.filter((event) => !known.has(event.id));
    for (const listener of this.eventListeners) listener(fresh);
  }

  /** The connection ended: poll, and try for a socket again with growing pauses. */
  private lost(code: number): void {
    // Asked to come back with a new ticket: nothing is wrong, so do not wait for long.
    const renew = code === CLOSE_RENEW && this.snapshot.transport === "live";
    if (!renew) {
      if (this.snapshot.transport === "live") this.update({ transport: "connecting" });
      void this.poll();
    }
    const step = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.retries);
    this.retries += 1;
    this.schedule("retry", () => void this.connect(), renew ? 0 : step * (0.5 + this.ports.random() / 2));
  }

  private failed(error: unknown): void {
    if (this.ports.final(error)) {
      this.cancel("poll");
      this.update({ transport: "denied", loaded: true });
      return;
    }
    this.lost(0);
  }

  private async poll(): Promise<void> {
    this.cancel("poll");
    try {
      await this.refetchOnce();
      const states = await this.ports.services();
      if (!this.running || this.snapshot.transport === "live") return this.settle();
      const services = Object.fromEntries(states.map((state) => [state.service, state]));
      this.heard({ transport: "polling", services });
    } catch (error) {
      if (!this.running) return;
      if (this.socket === null) this.update({ transport: this.ports.final(error) ? "denied" : "offline" });
    }
    this.settle();
  }

  /** Goes on polling unless a socket has taken over since. */
  private settle(): void {
    if (this.running && !(this.socket && this.snapshot.transport === "live")) {
      this.schedule("poll", () => void this.poll(), POLL_MS);
    }
  }

  private async refetch(): Promise<void> {
    if (this.refetching) return;
    this.refetching = true;
    try {
      await this.refetchOnce();
    } catch {
      // The link is watched on its own; the next gap, reconnect or poll asks again.
      this.schedule("poll", () => void this.poll(), POLL_MS);
    } finally {
      this.refetching = false;
    }
  }

  private async refetchOnce(): Promise<void> {
    if (this.head === null) {
      const page = await this.ports.newest();
      this.head = page.head;
      this.add(page.items);
      this.update({ loaded: true });
      return;
    }
    let cursor: string | null = this.head;
    while (cursor !== null && this.running) {
      const page: EventsPage = await this.ports.since(cursor);
      this.head = page.head ?? this.head;
      this.add(page.items);
      cursor = page.next_cursor;
    }
  }

  private dropSocket(): void {
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close();
  }
}
