import { Anchor, Group, Text, Title, UnstyledButton } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { BotChannels, BotStateBadge, ChannelIcon } from "@/components/bot-marks";
import { Messages } from "@/components/messages";
import { PageTitle } from "@/components/page-title";
import { Empty, QueryView } from "@/components/states";
import { WebChat } from "@/components/web-chat";
import { useLocalisation } from "@/i18n";
import { ApiError } from "@/lib/api";
import { dayAndTime, shortId } from "@/lib/format";
import { botQuery, conversationsQuery } from "@/lib/queries";
import type { Bot, Conversation } from "@/lib/types";
import classes from "./bot.module.css";

function ConversationRow({
  conversation,
  chosen,
  onChoose,
}: {
  conversation: Conversation;
  chosen: boolean;
  onChoose: () => void;
}) {
  const { t, locale } = useLocalisation();
  return (
    <li>
      <UnstyledButton
        className={classes.conversation}
        data-chosen={chosen || undefined}
        aria-current={chosen ? "true" : undefined}
        onClick={onChoose}
      >
        <Group gap="xs" wrap="nowrap">
          <ChannelIcon channel={conversation.channel} />
          <Text size="sm" fw={600} truncate>
            {conversation.channel === "telegram" ? conversation.external_chat_id : shortId(conversation.id)}
          </Text>
        </Group>
        <Text size="xs" c="dimmed" className="numbers">
          {t("bot.messagesCount", { count: conversation.last_sequence })} ·{" "}
          {dayAndTime(conversation.created_at, locale)}
        </Text>
      </UnstyledButton>
    </li>
  );
}

function Conversations({
  botId,
  chosen,
  onChoose,
}: {
  botId: string;
  chosen: string | undefined;
  onChoose: (id: string) => void;
}) {
  const { t } = useLocalisation();
  const conversations = useQuery(conversationsQuery(botId));
  const open = conversations.data?.items.find(({ id }) => id === chosen);
  return (
    <>
      <section className={`panel ${classes.column}`} aria-labelledby="conversations">
        <Title order={2} p="md" pb="xs" id="conversations">
          {t("bot.conversations")}
        </Title>
        <div className={classes.scroll}>
          <QueryView
            query={conversations}
            empty={({ items }) =>
              items.length === 0 ? (
                <Empty title={t("bot.noConversations.title")} text={t("bot.noConversations.text")} />
              ) : null
            }
          >
            {({ items }) => (
              <ul className={classes.list}>
                {items.map((conversation) => (
                  <ConversationRow
                    key={conversation.id}
                    conversation={conversation}
                    chosen={conversation.id === chosen}
                    onChoose={() => onChoose(conversation.id)}
                  />
                ))}
              </ul>
            )}
          </QueryView>
        </div>
      </section>
      <section className={`panel ${classes.column}`} aria-labelledby="messages">
        <Title order={2} p="md" pb="xs" id="messages">
          {t("bot.messages")}
        </Title>
        {chosen ? (
          <Messages conversationId={chosen} last={open?.last_sequence ?? 0} />
        ) : (
          <Text c="dimmed" size="sm" p="md">
            {t("bot.choose")}
          </Text>
        )}
      </section>
    </>
  );
}

function Lead({ bot }: { bot: Bot }) {
  const { t } = useLocalisation();
  return (
    <Group gap="md" mt={4} component="span">
      <BotStateBadge bot={bot} />
      <span>{t(`mode.${bot.mode}`)}</span>
      <span className={classes.model}>{bot.model}</span>
      <BotChannels bot={bot} />
    </Group>
  );
}

export default function BotPage() {
  const { t } = useLocalisation();
  const { botId } = useParams({ from: "/bots/$botId" });
  const { conversation } = useSearch({ from: "/bots/$botId" });
  const navigate = useNavigate();
  const bot = useQuery(botQuery(botId));
  const choose = (id: string) =>
    void navigate({ to: "/bots/$botId", params: { botId }, search: { conversation: id } });
  if (bot.error instanceof ApiError && bot.error.status === 404) {
    return <Empty page title={t("bot.unknown.title")} text={t("bot.unknown.text")} />;
  }
  return (
    <>
      <Anchor component={Link} to="/bots" size="sm">
        ← {t("bot.back")}
      </Anchor>
      <QueryView query={bot}>
        {(found) => (
          <>
            <PageTitle title={found.name} lead={<Lead bot={found} />} />
            <div className={classes.columns}>
              <Conversations botId={botId} chosen={conversation} onChoose={choose} />
              <WebChat bot={found} onFollow={choose} />
            </div>
          </>
        )}
      </QueryView>
    </>
  );
}
