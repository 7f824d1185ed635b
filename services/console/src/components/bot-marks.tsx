import { Badge, Group, Text, VisuallyHidden } from "@mantine/core";
import { IconBrandTelegram, IconMessageCircle } from "@tabler/icons-react";
import { useLocalisation } from "@/i18n";
import type { Bot, BotState } from "@/lib/types";

const COLORS: Record<BotState, string> = {
  running: "teal",
  starting: "kairos",
  stopped: "gray",
  degraded: "yellow",
  quarantined: "orange",
  error: "red",
};

export function BotStateBadge({ bot }: { bot: Bot }) {
  const { t } = useLocalisation();
  return (
    <Badge
      color={COLORS[bot.observed_state]}
      variant="light"
      tt="none"
      miw="max-content"
      title={bot.observed_reason || undefined}
    >
      {t(`botState.${bot.observed_state}`)}
    </Badge>
  );
}

export function ChannelIcon({ channel }: { channel: string }) {
  return channel === "telegram" ? (
    <IconBrandTelegram size={16} aria-hidden />
  ) : (
    <IconMessageCircle size={16} aria-hidden />
  );
}

export function BotChannels({ bot, iconsOnly = false }: { bot: Bot; iconsOnly?: boolean }) {
  const { t } = useLocalisation();
  const channels = [
    ...(bot.telegram_configured ? ["telegram" as const] : []),
    ...(bot.web_enabled ? ["web" as const] : []),
  ];
  if (channels.length === 0)
    return (
      <Text size="sm" c="dimmed">
        {t("bots.noChannel")}
      </Text>
    );
  return (
    <Group gap="xs" wrap="nowrap">
      {channels.map((channel) => (
        <Group key={channel} gap={4} wrap="nowrap">
          <ChannelIcon channel={channel} />
          {iconsOnly ? (
            <VisuallyHidden>{t(`channel.${channel}`)}</VisuallyHidden>
          ) : (
            <Text size="sm">{t(`channel.${channel}`)}</Text>
          )}
        </Group>
      ))}
    </Group>
  );
}
