import { Badge, Group, Popover, Stack, Text, UnstyledButton } from "@mantine/core";
import { IconAlertTriangleFilled, IconCircleCheckFilled, IconCircleXFilled } from "@tabler/icons-react";
import { type Translate, useLocalisation } from "@/i18n";
import { ago } from "@/lib/format";
import { useLiveFeed, useNow } from "@/lib/live/context";
import type { Health, ServiceState } from "@/lib/types";
import classes from "./health-strip.module.css";

const COLORS: Record<Health, string> = { up: "teal", degraded: "yellow", down: "red" };
const ICONS = { up: IconCircleCheckFilled, degraded: IconAlertTriangleFilled, down: IconCircleXFilled };

function summary(states: ServiceState[], t: Translate): string {
  if (states.length === 0) return t("health.unknown");
  const ill = states.filter(({ health }) => health !== "up").length;
  return ill === 0 ? t("health.allUp") : t("health.someDown", { count: ill, total: states.length });
}

function Service({ state }: { state: ServiceState }) {
  const { t, locale } = useLocalisation();
  const now = useNow(1_000);
  const Icon = ICONS[state.health];
  return (
    <Group gap="sm" wrap="nowrap" align="flex-start">
      <Icon size={18} color={`var(--mantine-color-${COLORS[state.health]}-6)`} aria-hidden />
      <div>
        <Text size="sm" fw={600}>
          {state.service}
          <Text span c="dimmed" size="sm" fw={400}>
            {" "}
            {t(`health.${state.health}`)}
          </Text>
        </Text>
        <Text size="xs" c="dimmed">
          {t("health.since", { when: ago(Date.parse(state.since), now, locale) })}
          {state.health !== "down" && ` · ${t("health.latency", { value: state.latency_ms })}`}
        </Text>
        {state.detail && (
          <Text size="xs" c="var(--mantine-color-text)">
            {state.detail}
          </Text>
        )}
      </div>
    </Group>
  );
}

/** One mark per service; the details are one key away. */
export function HealthStrip() {
  const { t } = useLocalisation();
  const { services } = useLiveFeed();
  const states = Object.values(services).sort((a, b) => a.service.localeCompare(b.service));
  const text = summary(states, t);
  return (
    <Popover position="bottom-end" shadow="md" width={300} trapFocus>
      <Popover.Target>
        <UnstyledButton
          className={classes.strip}
          aria-label={`${t("health.label")}: ${text}`}
          data-testid="health-strip"
        >
          {states.length === 0 && (
            <Badge color="gray" variant="dot" tt="none">
              {t("health.unknown")}
            </Badge>
          )}
          {states.map((state) => (
            <span
              key={state.service}
              className={classes.mark}
              data-health={state.health}
              data-service={state.service}
            />
          ))}
        </UnstyledButton>
      </Popover.Target>
      <Popover.Dropdown aria-label={t("health.label")}>
        <Stack gap="sm">
          <Text fw={600} size="sm">
            {text}
          </Text>
          {states.map((state) => (
            <Service key={state.service} state={state} />
          ))}
        </Stack>
      </Popover.Dropdown>
    </Popover>
  );
}
