import { ActionIcon, Alert, Button, Group, Loader, Stack, Text, TextInput, Title } from "@mantine/core";
import { IconSend2 } from "@tabler/icons-react";
import { useEffect, useRef, useState } from "react";
import { useLocalisation } from "@/i18n";
import { clock } from "@/lib/format";
import type { Bot, WebMessage } from "@/lib/types";
import { useWebChat } from "@/lib/web-chat";
import column from "@/pages/bot.module.css";
import classes from "./messages.module.css";

function Said({ message, name }: { message: WebMessage; name: string }) {
  const { t, locale } = useLocalisation();
  const mine = message.author === "contact";
  return (
    <li className={classes.message} data-direction={mine ? "out" : "in"}>
      <div className={classes.bubble}>{message.text}</div>
      <Text size="xs" c="dimmed" className="numbers">
        {mine ? t("chat.you") : name} ·{" "}
        <time dateTime={message.created_at}>{clock(message.created_at, locale)}</time>
      </Text>
    </li>
  );
}

function Conversation({ bot, onFollow }: { bot: Bot; onFollow: (conversation: string) => void }) {
  const { t } = useLocalisation();
  const chat = useWebChat(bot.id);
  const [text, setText] = useState("");
  const log = useRef<HTMLDivElement>(null);
  const amount = chat.messages.length;
  // biome-ignore lint/correctness/useExhaustiveDependencies: a new message is the reason to scroll
  useEffect(() => {
    if (log.current) log.current.scrollTop = log.current.scrollHeight;
  }, [amount, chat.waiting]);

  const send = async () => {
    const message = text.trim();
    if (!message) return;
    setText("");
    if (!(await chat.send(message))) setText(message);
  };

  if (!chat.session) {
    return (
      <Stack p="md" gap="sm" align="flex-start">
        {chat.error && <Alert color="red">{chat.error.message}</Alert>}
        <Button onClick={chat.start}>{t("chat.start")}</Button>
      </Stack>
    );
  }
  const { conversation } = chat.session;
  return (
    <>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a scrolling region must be reachable by keyboard */}
      <div ref={log} className={classes.log} role="log" aria-label={t("chat.log")} tabIndex={0}>
        <ol className={classes.list}>
          {chat.messages.map((message) => (
            <Said key={message.sequence} message={message} name={bot.name} />
          ))}
        </ol>
        {chat.waiting && (
          <Group gap="xs" mt="sm" role="status">
            <Loader size="xs" type="dots" aria-hidden />
            <Text size="xs" c="dimmed">
              {t("chat.thinking")}
            </Text>
          </Group>
        )}
      </div>
      <Stack gap="xs" p="md" pt="xs">
        {chat.error && (
          <Text size="xs" c="var(--mantine-color-error)" role="alert">
            {t("chat.failed")}
          </Text>
        )}
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void send();
          }}
        >
          <Group gap="xs" wrap="nowrap">
            <TextInput
              flex={1}
              aria-label={t("chat.input")}
              placeholder={t("chat.placeholder")}
              maxLength={4_096}
              value={text}
              onChange={(event) => setText(event.currentTarget.value)}
              data-autofocus
            />
            <ActionIcon type="submit" size="input-sm" aria-label={t("chat.send")} disabled={!text.trim()}>
              <IconSend2 size={18} />
            </ActionIcon>
          </Group>
        </form>
        <Group gap="xs">
          <Button size="compact-xs" variant="subtle" onClick={() => onFollow(conversation)}>
            {t("chat.follow")}
          </Button>
          <Button size="compact-xs" variant="subtle" color="gray" onClick={chat.start}>
            {t("chat.restart")}
          </Button>
        </Group>
      </Stack>
    </>
  );
}

/** A customer's view of the bot, beside what its operator sees. */
export function WebChat({ bot, onFollow }: { bot: Bot; onFollow: (conversation: string) => void }) {
  const { t } = useLocalisation();
  return (
    <section className={`panel ${column.column}`} aria-labelledby="web-chat">
      <div style={{ padding: "var(--mantine-spacing-md)", paddingBottom: "0.25rem" }}>
        <Title order={2} id="web-chat">
          {t("chat.title")}
        </Title>
        <Text size="xs" c="dimmed">
          {bot.web_enabled ? t("chat.lead") : t("chat.closed")}
        </Text>
      </div>
      {bot.web_enabled && <Conversation bot={bot} onFollow={onFollow} />}
    </section>
  );
}
