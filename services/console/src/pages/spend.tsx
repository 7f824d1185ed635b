import { Group, SegmentedControl, SimpleGrid, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { type Bar, BarChart, everyDay } from "@/components/bar-chart";
import { BudgetCard } from "@/components/budget-card";
import { PageTitle } from "@/components/page-title";
import { Empty, QueryView } from "@/components/states";
import { Wide } from "@/components/wide";
import { useLocalisation } from "@/i18n";
import { count, day, money } from "@/lib/format";
import { botsQuery, budgetsQuery, type SpendGroup, spendQuery } from "@/lib/queries";
import type { SpendRow } from "@/lib/types";

export const RANGES = [7, 30, 90] as const;
export type Range = (typeof RANGES)[number];

function total(rows: SpendRow[]): number {
  return rows.reduce((sum, row) => sum + row.cost.nano_usd, 0);
}

interface TableProps {
  rows: SpendRow[];
  head: string;
  name: (key: string | null) => string;
}

function SpendTable({ rows, head, name }: TableProps) {
  const { t, locale } = useLocalisation();
  const whole = total(rows);
  return (
    <Wide width={420}>
      <Table verticalSpacing="xs" horizontalSpacing="md" className="numbers">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>{head}</Table.Th>
            <Table.Th ta="right">{t("spend.cost")}</Table.Th>
            <Table.Th ta="right">{t("spend.share")}</Table.Th>
            <Table.Th ta="right">{t("spend.attempts")}</Table.Th>
            <Table.Th ta="right">{t("spend.tokens")}</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {rows.map((row) => (
            <Table.Tr key={row.key ?? "none"}>
              <Table.Td>{name(row.key)}</Table.Td>
              <Table.Td ta="right" fw={600}>
                {money(row.cost.nano_usd, locale)}
              </Table.Td>
              <Table.Td ta="right">
                {whole ? `${Math.round((row.cost.nano_usd / whole) * 100)} %` : "–"}
              </Table.Td>
              <Table.Td ta="right">
                {count(row.attempts, locale)}
                {row.unknown_attempts > 0 && (
                  <Text span size="xs" c="dimmed" title={t("spend.unknownHint")}>
                    {" "}
                    ({count(row.unknown_attempts, locale)} {t("spend.unknown").toLocaleLowerCase(locale)})
                  </Text>
                )}
              </Table.Td>
              <Table.Td ta="right">
                {count(row.input_tokens, locale)} / {count(row.output_tokens, locale)}
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Wide>
  );
}

function GroupedSpend({
  group,
  days,
  title,
  head,
  name,
}: {
  group: SpendGroup;
  days: Range;
  title: string;
  head: string;
  name: (key: string | null) => string;
}) {
  const { t } = useLocalisation();
  const spend = useQuery(spendQuery(group, days));
  const id = `spend-${group}`;
  return (
    <section className="panel" aria-labelledby={id}>
      <Title order={2} p="md" pb="xs" id={id}>
        {title}
      </Title>
      <QueryView
        query={spend}
        empty={({ items }) =>
          items.length === 0 ? <Empty title={t("spend.empty.title")} text={t("spend.empty.text")} /> : null
        }
      >
        {({ items }) => {
          const rows = [...items].sort((a, b) =>
            group === "day" ? (b.key ?? "").localeCompare(a.key ?? "") : b.cost.nano_usd - a.cost.nano_usd,
          );
          return <SpendTable rows={rows} head={head} name={name} />;
        }}
      </QueryView>
    </section>
  );
}

function Daily({ days }: { days: Range }) {
  const { t, locale } = useLocalisation();
  const spend = useQuery(spendQuery("day", days));
  const first = new Date(Date.now() - (days - 1) * 86_400_000).toISOString().slice(0, 10);
  return (
    <section className="panel" aria-labelledby="spend-total">
      <Group p="md" pb="xs" justify="space-between" align="baseline">
        <Title order={2} id="spend-total">
          {t("spend.total")}
        </Title>
        <Text size="xs" c="dimmed">
          {t("spend.utc")}
        </Text>
      </Group>
      <QueryView query={spend}>
        {({ items }) => {
          const bars: Bar[] = items.flatMap((row) =>
            row.key ? [{ day: row.key, nano: row.cost.nano_usd }] : [],
          );
          return (
            <>
              <Text px="md" pb="sm" fz={28} fw={650} className="numbers">
                {money(total(items), locale)}
              </Text>
              <BarChart bars={everyDay(bars, first, days)} />
            </>
          );
        }}
      </QueryView>
    </section>
  );
}

function Budgets() {
  const { t } = useLocalisation();
  const budgets = useQuery(budgetsQuery);
  return (
    <section className="panel" aria-labelledby="budgets">
      <Title order={2} p="md" pb="xs" id="budgets">
        {t("budgets.title")}
      </Title>
      <QueryView
        query={budgets}
        empty={({ items }) =>
          items.length === 0 ? (
            <Empty title={t("budgets.empty.title")} text={t("budgets.empty.text")} />
          ) : null
        }
      >
        {({ items }) => (
          <SimpleGrid cols={{ base: 1, md: 2, xl: 3 }} p="md" pt="xs">
            {items.map((budget) => (
              <BudgetCard key={budget.id} budget={budget} />
            ))}
          </SimpleGrid>
        )}
      </QueryView>
    </section>
  );
}

export default function Spend() {
  const { t, locale } = useLocalisation();
  const { days = 30 } = useSearch({ from: "/spend" });
  const navigate = useNavigate();
  const bots = useQuery(botsQuery);
  const botName = (id: string | null) =>
    id === null ? t("spend.none") : (bots.data?.items.find((bot) => bot.id === id)?.name ?? id.slice(0, 8));
  return (
    <>
      <PageTitle title={t("spend.title")}>
        <SegmentedControl
          aria-label={t("spend.range")}
          value={String(days)}
          onChange={(value) => void navigate({ to: "/spend", search: { days: Number(value) as Range } })}
          data={RANGES.map((range) => ({ value: String(range), label: t(`spend.range.${range}`) }))}
        />
      </PageTitle>
      <Stack gap="md">
        <Daily days={days} />
        <Budgets />
        <SimpleGrid cols={{ base: 1, lg: 2 }} spacing="md">
          <GroupedSpend
            group="model"
            days={days}
            title={t("spend.byModel")}
            head={t("bots.model")}
            name={(key) => key ?? "–"}
          />
          <GroupedSpend
            group="bot"
            days={days}
            title={t("spend.byBot")}
            head={t("bots.name")}
            name={botName}
          />
        </SimpleGrid>
        <GroupedSpend
          group="day"
          days={days}
          title={t("spend.byDay")}
          head={t("spend.day")}
          name={(key) => (key ? day(key, locale) : "–")}
        />
      </Stack>
    </>
  );
}
