import { Anchor, Table } from "@mantine/core";
import { Link } from "@tanstack/react-router";
import { Wide } from "@/components/wide";
import { useLocalisation } from "@/i18n";
import { dayAndTime } from "@/lib/format";
import type { Bot } from "@/lib/types";
import { BotChannels, BotStateBadge } from "./bot-marks";

/** `compact` leaves out what a narrow panel has no room for. */
export function BotsTable({ bots, compact = false }: { bots: Bot[]; compact?: boolean }) {
  const { t, locale } = useLocalisation();
  return (
    <Wide width={compact ? 460 : 680}>
      <Table verticalSpacing="sm" horizontalSpacing="md" highlightOnHover>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>{t("bots.name")}</Table.Th>
            <Table.Th>{t("bots.state")}</Table.Th>
            <Table.Th>{t("bots.mode")}</Table.Th>
            <Table.Th>{t("bots.model")}</Table.Th>
            <Table.Th>{t("bots.channels")}</Table.Th>
            {!compact && <Table.Th>{t("bots.created")}</Table.Th>}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {bots.map((bot) => (
            <Table.Tr key={bot.id}>
              <Table.Td>
                <Anchor component={Link} to={`/bots/${bot.id}`} fw={600} size="sm">
                  {bot.name}
                </Anchor>
              </Table.Td>
              <Table.Td>
                <BotStateBadge bot={bot} />
              </Table.Td>
              <Table.Td>{t(`mode.${bot.mode}`)}</Table.Td>
              <Table.Td ff="monospace" fz="xs">
                {bot.model}
              </Table.Td>
              <Table.Td>
                <BotChannels bot={bot} iconsOnly={compact} />
              </Table.Td>
              {!compact && <Table.Td className="numbers">{dayAndTime(bot.created_at, locale)}</Table.Td>}
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Wide>
  );
}
