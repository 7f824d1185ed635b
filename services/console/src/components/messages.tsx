import { Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef } from "react";
import { isTextKey, useLocalisation } from "@/i18n";
import { clock } from "@/lib/format";
import { messagesQuery } from "@/lib/queries";
import type { ChatMessage } from "@/lib/types";
import classes from "./messages.module.css";
import { QueryView } from "./states";

function Message({ message }: { message: ChatMessage }) {
  const { t, locale } = useLocalisation();
  const from =
    message.direction === "in"
      ? t("bot.contact")
      : word(`bot.source.${message.source}`, message.source ?? "");
  function word(key: string, fallback: string): string {
    return isTextKey(key) ? t(key) : fallback;
  }
  return (
    <li className={classes.message} data-direction={message.direction}>
      <div className={classes.bubble}>{message.text}</div>
      <Text size="xs" c="dimmed" className="numbers">
        {from} · <time dateTime={message.created_at}>{clock(message.created_at, locale)}</time> ·{" "}
        <span
          data-delivery={message.delivery}
          className={classes.delivery}
          title={message.error ?? undefined}
        >
          {word(`bot.delivery.${message.delivery}`, message.delivery)}
        </span>
        {message.trace_id && (
          <span title={message.trace_id}> · {t("bot.trace", { id: message.trace_id.slice(0, 8) })}</span>
        )}
      </Text>
    </li>
  );
}

function Log({ messages }: { messages: ChatMessage[] }) {
  const { t } = useLocalisation();
  const end = useRef<HTMLDivElement>(null);
  const newest = messages.at(-1)?.id;
  // biome-ignore lint/correctness/useExhaustiveDependencies: a new last message is the reason to scroll
  useEffect(() => {
    const log = end.current;
    if (log) log.scrollTop = log.scrollHeight;
  }, [newest]);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a scrolling region must be reachable by keyboard
    <div ref={end} className={classes.log} role="log" aria-label={t("bot.messages")} tabIndex={0}>
      <ol className={classes.list}>
        {messages.map((message) => (
          <Message key={message.id} message={message} />
        ))}
      </ol>
    </div>
  );
}

/** A conversation as it happens: the live feed says when to fetch what is new. */
export function Messages({ conversationId, last }: { conversationId: string; last: number }) {
  const { t } = useLocalisation();
  const messages = useQuery(messagesQuery(conversationId, last));
  return (
    <QueryView
      query={messages}
      empty={(items) =>
        items.length === 0 ? (
          <Text c="dimmed" size="sm" p="md">
            {t("bot.noMessages")}
          </Text>
        ) : null
      }
    >
      {(items) => <Log messages={items} />}
    </QueryView>
  );
}
