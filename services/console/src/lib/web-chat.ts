/** A customer's side of the web chat: sends over REST, reads over a WebSocket or, without one, by asking. */
import { useCallback, useEffect, useRef, useState } from "react";
import { api, query } from "./api";
import type { WebMessage, WebSession } from "./types";

const WEB = "/api/bot-worker/web";
const ASK_EVERY_MS = 2_000;
const ASK_IDLE_MS = 15_000;

export interface WebChatState {
  session: WebSession | null;
  messages: WebMessage[];
  /** The bot owes an answer to the last message. */
  waiting: boolean;
  error: Error | null;
  start: () => void;
  send: (text: string) => Promise<boolean>;
}

function byCount(known: WebMessage[], arrived: WebMessage[]): WebMessage[] {
  const messages = new Map(known.map((message) => [message.sequence, message]));
  for (const message of arrived) messages.set(message.sequence, message);
  return [...messages.values()].sort((a, b) => a.sequence - b.sequence);
}

export function useWebChat(botId: string): WebChatState {
  const [session, setSession] = useState<WebSession | null>(null);
  const [messages, setMessages] = useState<WebMessage[]>([]);
  const [error, setError] = useState<Error | null>(null);
  const sent = useRef(0);
  const last = messages.at(-1);
  const waiting = last?.author === "contact";

  const start = useCallback(() => {
    setError(null);
    setMessages([]);
    sent.current = 0;
    api<WebSession>(`${WEB}/${botId}/sessions`, { method: "POST", body: {} }).then(setSession, setError);
  }, [botId]);

  const token = session?.token;
  const read = useCallback(async () => {
    if (!token) return;
    const page = await api<{ items: WebMessage[] }>(`${WEB}/messages${query({ after: 0, limit: 200 })}`, {
      bearer: token,
    });
    setMessages((known) => byCount(known, page.items));
  }, [token]);

  useEffect(() => {
    if (!token) return;
    const scheme = window.location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(
      `${scheme}://${window.location.host}${WEB}/ws?token=${encodeURIComponent(token)}`,
    );
    socket.onmessage = () => void read().catch(setError);
    return () => {
      socket.onmessage = null;
      socket.close();
    };
  }, [token, read]);

  useEffect(() => {
    if (!token) return;
    const timer = window.setInterval(() => void read().catch(() => {}), waiting ? ASK_EVERY_MS : ASK_IDLE_MS);
    return () => window.clearInterval(timer);
  }, [token, read, waiting]);

  const send = useCallback(
    async (text: string) => {
      if (!token) return false;
      sent.current += 1;
      try {
        await api(`${WEB}/messages`, {
          method: "POST",
          bearer: token,
          body: { sequence: sent.current, text },
        });
        setError(null);
      } catch (failure) {
        // The same count goes out again with the next try, so a message that did arrive is not doubled.
        sent.current -= 1;
        setError(failure as Error);
        return false;
      }
      await read().catch(() => {});
      return true;
    },
    [token, read],
  );

  return { session, messages, waiting, error, start, send };
}
