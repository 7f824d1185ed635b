import {
  Badge,
  Button,
  Code,
  CopyButton,
  Group,
  Select,
  Stack,
  Table,
  Text,
  UnstyledButton,
} from "@mantine/core";
import { IconPlayerPause, IconPlayerPlay } from "@tabler/icons-react";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { SidePanel } from "@/components/dialogs";
import { eventColor, eventSummary } from "@/components/event-summary";
import { PageTitle } from "@/components/page-title";
import { Denied, Disconnected, Empty, Loading, Stale } from "@/components/states";
import { Wide } from "@/components/wide";
import { useLocalisation } from "@/i18n";
import { clock, dayAndTime } from "@/lib/format";
import { useLiveFeed } from "@/lib/live/context";
import type { FeedEvent } from "@/lib/types";
import classes from "./events.module.css";

const SHOWN = 200;
export const DOMAINS = ["conversation", "bot", "llm", "cache", "budget", "audit", "auth", "ops"] as const;
export type Domain = (typeof DOMAINS)[number];

function Fact({ label, children }: { label: string; children: string }) {
  return (
    <div>
      <Text size="xs" c="dimmed">
        {label}
      </Text>
      <Text size="sm" ff="monospace" style={{ overflowWrap: "anywhere" }}>
        {children}
      </Text>
    </div>
  );
}

function curlOf(event: FeedEvent): string {
  const place = `${window.location.origin}/api/observability/events?type=${event.type}`;
  return `curl -H "Authorization: Bearer $KAIROS_API_KEY" '${place}'`;
}

function Details({ event, onClose }: { event: FeedEvent; onClose: () => void }) {
  const { t, locale } = useLocalisation();
  return (
    <SidePanel title={event.type} onClose={onClose} size="lg">
      <Stack gap="md">
        <Text>{eventSummary(event, t)}</Text>
        <Fact label={t("events.time")}>{dayAndTime(event.time, locale)}</Fact>
        <Fact label={t("events.source")}>{event.source}</Fact>
        <Fact label={t("events.subject")}>{event.subject}</Fact>
        <Fact label={t("events.id")}>{event.id}</Fact>
        {event.trace_id && <Fact label={t("events.trace")}>{event.trace_id}</Fact>}
        {event.causation_id && <Fact label={t("events.cause")}>{event.causation_id}</Fact>}
        <div>
          <Text size="xs" c="dimmed">
            {t("events.payload")}
          </Text>
          <Code block tabIndex={0}>
            {JSON.stringify(event.data, null, 2)}
          </Code>
        </div>
        <CopyButton value={curlOf(event)}>
          {({ copied, copy }) => (
            <Button variant="default" size="xs" onClick={copy} style={{ alignSelf: "flex-start" }}>
              {t(copied ? "events.copied" : "events.copy")}
            </Button>
          )}
        </CopyButton>
      </Stack>
    </SidePanel>
  );
}

function EventsTable({
  events,
  onOpen,
}: {
  events: readonly FeedEvent[];
  onOpen: (event: FeedEvent) => void;
}) {
  const { t, locale } = useLocalisation();
  return (
    <Wide width={560}>
      <Table verticalSpacing={6} horizontalSpacing="md" highlightOnHover layout="fixed">
        <Table.Thead>
          <Table.Tr>
            <Table.Th w={110}>{t("events.time")}</Table.Th>
            <Table.Th w={165}>{t("events.source")}</Table.Th>
            <Table.Th>{t("events.summary")}</Table.Th>
            <Table.Th w={290}>{t("events.type")}</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody data-testid="events">
          {events.map((event) => (
            <Table.Tr key={event.id} className={classes.row}>
              <Table.Td className="numbers">
                <time dateTime={event.time}>{clock(event.time, locale)}</time>
              </Table.Td>
              <Table.Td>{event.source}</Table.Td>
              <Table.Td>
                <UnstyledButton
                  className={classes.open}
                  onClick={() => onOpen(event)}
                  aria-label={`${eventSummary(event, t)}. ${t("events.showDetails", { type: event.type })}`}
                >
                  {eventSummary(event, t)}
                </UnstyledButton>
              </Table.Td>
              <Table.Td>
                <Badge
                  variant="light"
                  color={eventColor(event.type)}
                  tt="none"
                  ff="monospace"
                  fw={500}
                  maw="100%"
                >
                  {event.type}
                </Badge>
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Wide>
  );
}

export default function Events() {
  const { t } = useLocalisation();
  const { events, loaded, transport, heardAt } = useLiveFeed();
  const { type } = useSearch({ from: "/events" });
  const navigate = useNavigate();
  const [held, setHeld] = useState<readonly FeedEvent[] | null>(null);
  const [opened, setOpened] = useState<FeedEvent | null>(null);
  const visible = (held ?? events).filter((event) => !type || event.type.startsWith(`${type}.`));
  const waiting = held ? events.filter((event) => !held.includes(event)).length : 0;
  const retry = () => window.location.reload();

  return (
    <>
      <PageTitle title={t("events.title")}>
        <Group gap="xs" align="flex-end">
          <Select
            aria-label={t("events.filter")}
            placeholder={t("events.all")}
            clearable
            clearButtonProps={{ "aria-label": t("events.clearFilter") }}
            w={180}
            value={type ?? null}
            onChange={(value) =>
              void navigate({ to: "/events", search: value ? { type: value as Domain } : {}, replace: true })
            }
            data={DOMAINS.map((domain) => ({ value: domain, label: t(`events.type.${domain}`) }))}
          />
          <Button
            variant="default"
            leftSection={
              held ? <IconPlayerPlay size={16} aria-hidden /> : <IconPlayerPause size={16} aria-hidden />
            }
            onClick={() => setHeld(held ? null : events)}
          >
            {t(held ? "events.resume" : "events.pause")}
            {waiting > 0 && ` · ${t("events.waiting", { count: waiting })}`}
          </Button>
        </Group>
      </PageTitle>
      <section className="panel" aria-label={t("events.title")}>
        {transport === "denied" && events.length === 0 && <Denied />}
        {transport === "offline" && events.length === 0 && <Disconnected retry={retry} />}
        {transport === "offline" && events.length > 0 && heardAt !== null && (
          <Stale since={heardAt} retry={retry} />
        )}
        {!loaded && transport !== "offline" && transport !== "denied" && <Loading lines={8} />}
        {loaded && transport !== "denied" && transport !== "offline" && visible.length === 0 && (
          <Empty
            title={t(type ? "events.emptyFilter.title" : "events.empty.title")}
            text={t(type ? "events.emptyFilter.text" : "events.empty.text")}
          />
        )}
        {visible.length > 0 && <EventsTable events={visible.slice(0, SHOWN)} onOpen={setOpened} />}
      </section>
      {opened && <Details event={opened} onClose={() => setOpened(null)} />}
    </>
  );
}
