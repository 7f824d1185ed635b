import { Badge, Group, Progress, Text, Tooltip } from "@mantine/core";
import { useLocalisation } from "@/i18n";
import { money, percent } from "@/lib/format";
import type { Amount, Budget } from "@/lib/types";
import classes from "./budget-card.module.css";

function Part({
  label,
  amount,
  color,
  hint,
}: {
  label: string;
  amount: Amount;
  color: string;
  hint?: string;
}) {
  const { locale } = useLocalisation();
  const part = (
    <div tabIndex={hint ? 0 : undefined}>
      <Group gap={6} wrap="nowrap">
        <span className={classes.key} style={{ background: color }} aria-hidden />
        <Text size="xs" c="dimmed">
          {label}
        </Text>
      </Group>
      <Text size="sm" fw={600} className="numbers">
        {money(amount.nano_usd, locale)}
      </Text>
    </div>
  );
  return hint ? (
    <Tooltip label={hint} multiline w={240} events={{ hover: true, focus: true, touch: true }}>
      {part}
    </Tooltip>
  ) : (
    part
  );
}

const USED = "var(--kairos-bar)";
const HELD = "var(--mantine-color-yellow-5)";
const PENDING = "var(--mantine-color-orange-6)";
const LEFT = "var(--kairos-line)";

/** Used, held, pending and left of one budget's current period. */
export function BudgetCard({ budget }: { budget: Budget }) {
  const { t, locale } = useLocalisation();
  const { limit, settled, leased, suspense, available, excess } = budget.current;
  const share = (amount: Amount) => percent(amount.nano_usd, limit.nano_usd);
  return (
    <article className={classes.card} aria-label={budget.name}>
      <Group justify="space-between" wrap="nowrap" gap="xs">
        <Text fw={600} truncate>
          {budget.name}
        </Text>
        <Badge variant="light" color="gray" tt="none">
          {t(`budgets.scope.${budget.scope}`)} · {t(`budgets.period.${budget.period}`)}
        </Badge>
      </Group>
      <Text size="sm" c="dimmed" className="numbers" mb="xs">
        <Text span fw={650} size="lg" c="var(--mantine-color-text)">
          {money(settled.nano_usd, locale)}
        </Text>{" "}
        {t("budgets.of", { limit: money(limit.nano_usd, locale) })}
      </Text>
      <Progress.Root size="lg" aria-hidden>
        <Progress.Section value={share(settled)} color={USED} />
        <Progress.Section value={share(suspense)} color={PENDING} />
        <Progress.Section value={share(leased)} color={HELD} />
      </Progress.Root>
      <div className={classes.parts}>
        <Part label={t("budgets.used")} amount={settled} color={USED} />
        <Part label={t("budgets.held")} amount={leased} color={HELD} hint={t("budgets.heldHint")} />
        <Part label={t("budgets.pending")} amount={suspense} color={PENDING} hint={t("spend.unknownHint")} />
        <Part label={t("budgets.left")} amount={available} color={LEFT} />
      </div>
      {excess.nano_usd > 0 && (
        <Text size="sm" c="var(--mantine-color-error)" mt="xs">
          {t("budgets.over", { amount: money(excess.nano_usd, locale) })}
        </Text>
      )}
    </article>
  );
}
