/** The five states a view can be in besides having fresh data: loading, empty, stale, denied, disconnected. */
import { Button, Center, Group, Skeleton, Stack, Text, ThemeIcon, Title } from "@mantine/core";
import {
  IconAlertTriangle,
  IconClockExclamation,
  IconInbox,
  IconLock,
  IconPlugConnectedX,
} from "@tabler/icons-react";
import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useLocalisation } from "@/i18n";
import { ApiError } from "@/lib/api";
import { ago } from "@/lib/format";
import { useNow } from "@/lib/live/context";

interface NoticeProps {
  icon: ReactNode;
  title: string;
  text: string;
  color?: string;
  children?: ReactNode;
  state: string;
  /** The notice is the whole page, so its title is the page's. */
  page?: boolean;
}

function Notice({ icon, title, text, color = "gray", children, state, page = false }: NoticeProps) {
  return (
    <Center py="xl" px="md" data-state={state}>
      <Stack align="center" gap="xs" maw={420}>
        <ThemeIcon size={44} radius="xl" variant="light" color={color} aria-hidden>
          {icon}
        </ThemeIcon>
        <Title order={page ? 1 : 3} size="h5" ta="center" tabIndex={page ? -1 : undefined}>
          {title}
        </Title>
        <Text c="dimmed" size="sm" ta="center">
          {text}
        </Text>
        {children}
      </Stack>
    </Center>
  );
}

export function Loading({ lines = 4 }: { lines?: number }) {
  const { t } = useLocalisation();
  return (
    <Stack gap="sm" p="md" role="status" aria-label={t("state.loading")} data-state="loading">
      {Array.from({ length: lines }, (_, line) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: the lines are all alike and never reorder
        <Skeleton key={line} height={18} width={line === lines - 1 ? "60%" : "100%"} radius="sm" />
      ))}
    </Stack>
  );
}

interface EmptyProps {
  title: string;
  text: string;
  children?: ReactNode;
  page?: boolean;
}

export function Empty({ title, text, children, page = false }: EmptyProps) {
  return (
    <Notice state="empty" icon={<IconInbox size={22} />} title={title} text={text} page={page}>
      {children}
    </Notice>
  );
}

export function Denied() {
  const { t } = useLocalisation();
  return (
    <Notice
      state="denied"
      color="orange"
      icon={<IconLock size={22} />}
      title={t("state.denied.title")}
      text={t("state.denied.text")}
    />
  );
}

export function Disconnected({ retry }: { retry?: () => void }) {
  const { t } = useLocalisation();
  return (
    <Notice
      state="disconnected"
      color="red"
      icon={<IconPlugConnectedX size={22} />}
      title={t("state.disconnected.title")}
      text={t("state.disconnected.text")}
    >
      {retry && (
        <Button variant="default" size="xs" onClick={retry}>
          {t("state.retry")}
        </Button>
      )}
    </Notice>
  );
}

function Failed({ error, retry }: { error: unknown; retry: () => void }) {
  const { t } = useLocalisation();
  const requestId = error instanceof ApiError ? error.requestId : null;
  return (
    <Notice
      state="failed"
      color="red"
      icon={<IconAlertTriangle size={22} />}
      title={t("state.error.title")}
      text={t("state.error.text", { message: error instanceof Error ? error.message : "" })}
    >
      {requestId && (
        <Text size="xs" c="dimmed" ff="monospace">
          {t("state.requestId", { id: requestId })}
        </Text>
      )}
      <Button variant="default" size="xs" onClick={retry}>
        {t("state.retry")}
      </Button>
    </Notice>
  );
}

export function Stale({ since, retry }: { since: number; retry: () => void }) {
  const { t, locale } = useLocalisation();
  const now = useNow(1_000);
  return (
    <Group className="hint" justify="space-between" gap="xs" m="xs" role="status" data-state="stale">
      <Group gap="xs" wrap="nowrap">
        <IconClockExclamation size={18} aria-hidden />
        <Text size="sm">{t("state.stale", { when: ago(since, now, locale) })}</Text>
      </Group>
      <Button size="compact-xs" variant="default" onClick={retry}>
        {t("state.staleRetry")}
      </Button>
    </Group>
  );
}

interface QueryViewProps<T> {
  query: UseQueryResult<T>;
  children: (data: T) => ReactNode;
  empty?: (data: T) => ReactNode | null;
  lines?: number;
}

/** A query's data, or the state that stands in for it. Old data stays visible under a stale notice. */
export function QueryView<T>({ query, children, empty, lines = 4 }: QueryViewProps<T>) {
  const { data, error, isPending, dataUpdatedAt } = query;
  const retry = () => void query.refetch();
  if (error instanceof ApiError && error.denied) return <Denied />;
  if (data === undefined) {
    if (isPending && query.fetchStatus !== "paused") return <Loading lines={lines} />;
    if (!error || (error instanceof ApiError && error.disconnected)) return <Disconnected retry={retry} />;
    return <Failed error={error} retry={retry} />;
  }
  return (
    <>
      {error && <Stale since={dataUpdatedAt} retry={retry} />}
      {empty?.(data) ?? children(data)}
    </>
  );
}
