import { beforeEach, describe, expect, it } from "vitest";
import { type EventsPage, type FeedPorts, LiveFeed, POLL_MS, SILENT_MS, type Socket } from "@/lib/live/feed";
import { KEPT, merge } from "@/lib/live/log";
import { CLOSE_ACCESS_CHANGED, CLOSE_RENEW } from "@/lib/live/protocol";
import type { FeedEvent, ServiceState } from "@/lib/types";

function event(id: string, at = 0): FeedEvent {
  const time = new Date(1_700_000_000_000 + at).toISOString();
  return {
    id,
    type: "bot.lifecycle.changed.v1",
    source: "bot-worker",
    subject: id,
    time,
    organisation_id: null,
    causation_id: null,
    trace_id: null,
    data: {},
  };
}

class FakeSocket implements Socket {
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: unknown }) => void) | null = null;
  onclose: ((closed: { code: number }) => void) | null = null;
  sent: Record<string, unknown>[] = [];
  closed = false;
  send(text: string) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.closed = true;
  }
  say(...frames: Record<string, unknown>[]) {
    for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
  }
}

/** The outside world by hand: time moves when the test says so. */
class World {
  time = 1_000_000;
  timers: { at: number; run: () => void }[] = [];
  sockets: FakeSocket[] = [];
  refused: unknown = null;
  away: unknown = null;
  stored: FeedEvent[] = [];
  asked: string[] = [];
  pages: EventsPage[] = [];

  ports: FeedPorts = {
    ticket: async () => {
      if (this.refused) throw this.refused;
      return "ticket";
    },
    open: () => {
      const socket = new FakeSocket();
      this.sockets.push(socket);
      return socket;
    },
    newest: async () => {
      if (this.away) throw this.away;
      this.asked.push("newest");
      return { items: [...this.stored].reverse(), next_cursor: null, head: "h0" };
    },
    since: async (after) => {
      if (this.away) throw this.away;
      this.asked.push(after);
      return this.pages.shift() ?? { items: this.stored, next_cursor: null, head: `h${this.asked.length}` };
    },
    services: async () => {
      if (this.away) throw this.away;
      return [{ service: "llm-router", health: "up" } as ServiceState];
    },
    now: () => this.time,
    later: (run, milliseconds) => {
      const timer = { at: this.time + milliseconds, run };
      this.timers.push(timer);
      return () => {
        this.timers = this.timers.filter((other) => other !== timer);
      };
    },
    random: () => 1,
    final: (error) => error === "denied",
  };

  get socket(): FakeSocket {
    const socket = this.sockets.at(-1);
    if (!socket) throw new Error("no socket was opened");
    return socket;
  }

  async settle() {
    for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
  }

  async pass(milliseconds: number) {
    const until = this.time + milliseconds;
    for (;;) {
      await this.settle();
      const next = this.timers.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.timers = this.timers.filter((other) => other !== next);
      this.time = Math.max(this.time, next.at);
      next.run();
    }
    this.time = until;
    await this.settle();
  }
}

const HELLO = { t: "hello", protocol: 1, topics: ["events", "services"] };
const ready = (seq = 0, epoch = "e1") => ({ t: "ready", topic: "events", epoch, seq });
const ev = (found: FeedEvent, seq: number) => ({ t: "ev", topic: "events", seq, event: found });

let world: World;
let feed: LiveFeed;

beforeEach(async () => {
  world = new World();
  feed = new LiveFeed(world.ports);
  feed.start();
  await world.settle();
});

async function live() {
  world.socket.say(HELLO, ready());
  await world.settle();
}

describe("the live feed", () => {
  it("subscribes to both topics and is live when the events are ready", async () => {
    await live();
    expect(world.socket.sent).toEqual([
      { t: "sub", topic: "events" },
      { t: "sub", topic: "services" },
    ]);
    expect(feed.read().transport).toBe("live");
    expect(feed.read().loaded).toBe(true);
  });

  it("shows each event once, newest first, and tells listeners of new ones only", async () => {
    const told: string[] = [];
    feed.onEvents((events) => told.push(...events.map(({ id }) => id)));
    world.stored = [event("a", 1)];
    await live();
    world.socket.say(ev(event("a", 1), 1), ev(event("b", 2), 2));
    expect(feed.read().events.map(({ id }) => id)).toEqual(["b", "a"]);
    expect(told).toEqual(["a", "b"]);
  });

  it("resumes after the last sequence it has seen", async () => {
    await live();
    world.socket.say(ev(event("a"), 7));
    world.socket.onclose?.({ code: 1006 });
    await world.pass(1_000);
    world.socket.say(HELLO);
    expect(world.socket.sent[0]).toEqual({ t: "sub", topic: "events", resume: { epoch: "e1", seq: 7 } });
  });

  it("refetches from the last known place, page by page, when told of a gap", async () => {
    await live();
    world.pages = [
      { items: [event("b", 2)], next_cursor: "p2", head: "h5" },
      { items: [event("c", 3)], next_cursor: null, head: "h6" },
    ];
    world.socket.say({ t: "gap", topic: "events", epoch: "e1", reason: "overflow" });
    await world.settle();
    expect(world.asked).toEqual(["newest", "h0", "p2"]);
    expect(feed.read().events.map(({ id }) => id)).toEqual(["c", "b"]);
  });

  it("takes the state of services and then what changes", async () => {
    await live();
    const up = { service: "llm-router", health: "up" };
    world.socket.say({ t: "snap", topic: "services", epoch: "e1", seq: 1, state: { "llm-router": up } });
    world.socket.say({ t: "ev", topic: "services", epoch: "e1", seq: 2, changes: { "bot-worker": up } });
    expect(Object.keys(feed.read().services)).toEqual(["llm-router", "bot-worker"]);
  });

  it("polls while the socket is away and goes live again when it is back", async () => {
    await live();
    world.refused = new Error("503");
    world.socket.onclose?.({ code: 1006 });
    world.stored = [event("b", 2)];
    await world.pass(POLL_MS);
    expect(feed.read().transport).toBe("polling");
    expect(feed.read().events.map(({ id }) => id)).toEqual(["b"]);
    world.refused = null;
    await world.pass(60_000);
    await live();
    expect(feed.read().transport).toBe("live");
    const asked = world.asked.length;
    await world.pass(POLL_MS * 1.5);
    expect(world.asked.length).toBe(asked);
  });

  it("is disconnected when nothing answers, and keeps what it knows", async () => {
    world.stored = [event("a")];
    await live();
    world.refused = world.away = new Error("away");
    world.socket.onclose?.({ code: 1006 });
    await world.pass(POLL_MS);
    expect(feed.read().transport).toBe("offline");
    expect(feed.read().events).toHaveLength(1);
    world.refused = world.away = null;
    await world.pass(POLL_MS);
    expect(feed.read().transport).toBe("polling");
  });

  it("waits longer from one failed attempt to the next", async () => {
    feed.stop();
    const attempts: number[] = [];
    world.ports.ticket = async () => {
      attempts.push(world.time);
      throw new Error("503");
    };
    const other = new LiveFeed(world.ports);
    other.start();
    await world.pass(20_000);
    const pauses = attempts.slice(1).map((time, index) => time - (attempts[index] ?? 0));
    expect(pauses).toEqual([500, 1_000, 2_000, 4_000, 8_000]);
    other.stop();
  });

  it("comes back at once and without polling when asked to renew its ticket", async () => {
    await live();
    const asked = world.asked.length;
    world.socket.onclose?.({ code: CLOSE_RENEW });
    await world.pass(1);
    expect(world.sockets).toHaveLength(2);
    expect(world.asked.length).toBe(asked);
  });

  it("stops asking when access is gone", async () => {
    await live();
    world.refused = world.away = "denied";
    world.socket.onclose?.({ code: CLOSE_ACCESS_CHANGED });
    await world.pass(120_000);
    expect(feed.read().transport).toBe("denied");
    expect(world.sockets).toHaveLength(1);
  });

  it("gives a socket up that has gone silent", async () => {
    await live();
    const first = world.socket;
    await world.pass(SILENT_MS + 5_000);
    expect(first.closed).toBe(true);
    expect(world.sockets.length).toBeGreaterThan(1);
  });

  it("keeps a quiet socket alive by asking", async () => {
    await live();
    const socket = world.socket;
    for (let beat = 0; beat < 10; beat += 1) {
      await world.pass(2_000);
      const ping = socket.sent.at(-1);
      expect(ping?.t).toBe("ping");
      socket.say({ t: "pong", at: ping?.at });
    }
    expect(socket.closed).toBe(false);
    expect(world.time - (feed.read().heardAt ?? 0)).toBeLessThan(2_000);
  });

  it("ignores what is not a frame", async () => {
    await live();
    world.socket.onmessage?.({ data: "nonsense" });
    world.socket.onmessage?.({ data: new Blob() });
    expect(feed.read().transport).toBe("live");
  });

  it("closes everything when it stops", async () => {
    await live();
    feed.stop();
    expect(world.socket.closed).toBe(true);
    expect(world.timers).toEqual([]);
  });
});

describe("merging", () => {
  it("keeps the newest events only", () => {
    const many = Array.from({ length: KEPT + 20 }, (_, index) => event(`e${index}`, index));
    const merged = merge([], many);
    expect(merged).toHaveLength(KEPT);
    expect(merged[0]?.id).toBe(`e${KEPT + 19}`);
  });

  it("gives the same list back when nothing is new", () => {
    const known = [event("a")];
    expect(merge(known, [event("a")])).toBe(known);
  });
});
