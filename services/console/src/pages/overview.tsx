import { Anchor, Group, SimpleGrid, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { BotsTable } from "@/components/bots-table";
import { EventLine } from "@/components/event-line";
import { PageTitle } from "@/components/page-title";
import { Empty, Loading, QueryView } from "@/components/states";
import { useLocalisation } from "@/i18n";
import { count, money } from "@/lib/format";
import { useLiveFeed } from "@/lib/live/context";
import { botsQuery, budgetsQuery, spendQuery } from "@/lib/queries";
import type { Budget } from "@/lib/types";
import classes from "./overview.module.css";

const LATEST = 6;

function Figure({
  label,
  hint,
  to,
  children,
}: {
  label: string;
  hint: string;
  to: string;
  children: ReactNode;
}) {
  return (
    <Link to={to} className={`panel ${classes.figure}`}>
      <Text size="sm" c="dimmed">
        {label}
      </Text>
      <div className={`${classes.value} numbers`}>{children}</div>
      <Text size="xs" c="dimmed">
        {hint}
      </Text>
    </Link>
  );
}

function tightest(budgets: Budget[]): Budget | undefined {
  return [...budgets].sort((a, b) => a.current.available.nano_usd - b.current.available.nano_usd)[0];
}

function Figures() {
  const { t, locale } = useLocalisation();
  const bots = useQuery(botsQuery);
  const spend = useQuery(spendQuery("day", 1));
  const budgets = useQuery(budgetsQuery);
  const today = spend.data?.items.reduce((sum, row) => sum + row.cost.nano_usd, 0);
  const calls = spend.data?.items.reduce((sum, row) => sum + row.attempts, 0);
  const least = budgets.data ? tightest(budgets.data.items) : undefined;
  const running = bots.data?.items.filter((bot) => bot.observed_state === "running").length;
  const unknown = "–";
  return (
    <section aria-label={t("overview.atAGlance")}>
      <SimpleGrid cols={{ base: 1, xs: 2, lg: 4 }} spacing="md">
        <Figure label={t("overview.spendToday")} hint={t("overview.spendTodayHint")} to="/spend">
          {today === undefined ? unknown : money(today, locale)}
        </Figure>
        <Figure label={t("overview.available")} hint={t("overview.availableHint")} to="/spend">
          {budgets.data === undefined
            ? unknown
            : least
              ? money(least.current.available.nano_usd, locale)
              : t("overview.noBudget")}
        </Figure>
        <Figure label={t("overview.answers")} hint={t("overview.answersHint")} to="/spend">
          {calls === undefined ? unknown : count(calls, locale)}
        </Figure>
        <Figure label={t("overview.botsRunning")} hint={t("overview.botsRunningHint")} to="/bots">
          {bots.data === undefined ? unknown : `${running} / ${bots.data.items.length}`}
        </Figure>
      </SimpleGrid>
    </section>
  );
}

function LatestEvents() {
  const { t } = useLocalisation();
  const { events, loaded } = useLiveFeed();
  return (
    <section className="panel" aria-labelledby="latest">
      <Group justify="space-between" p="md" pb="xs">
        <Title order={2} id="latest">
          {t("overview.latest")}
        </Title>
        <Anchor component={Link} to="/events" size="sm">
          {t("overview.allEvents")}
        </Anchor>
      </Group>
      {!loaded && events.length === 0 && <Loading />}
      {loaded && events.length === 0 && (
        <Empty title={t("events.empty.title")} text={t("events.empty.text")} />
      )}
      <ul className={classes.events}>
        {events.slice(0, LATEST).map((event) => (
          <EventLine key={event.id} event={event} />
        ))}
      </ul>
    </section>
  );
}

function Bots() {
  const { t } = useLocalisation();
  const bots = useQuery(botsQuery);
  return (
    <section className="panel" aria-labelledby="bots">
      <Group justify="space-between" p="md" pb="xs">
        <Title order={2} id="bots">
          {t("bots.title")}
        </Title>
      </Group>
      <QueryView
        query={bots}
        empty={({ items }) =>
          items.length === 0 ? <Empty title={t("bots.empty.title")} text={t("bots.empty.text")} /> : null
        }
      >
        {({ items }) => <BotsTable bots={items.slice(0, 8)} compact />}
      </QueryView>
    </section>
  );
}

export default function Overview() {
  const { t } = useLocalisation();
  return (
    <>
      <PageTitle title={t("overview.title")} />
      <Stack gap="md">
        <Figures />
        <div className={classes.columns}>
          <Bots />
          <LatestEvents />
        </div>
      </Stack>
    </>
  );
}
