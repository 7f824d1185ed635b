import { useLocalisation } from "@/i18n";
import { day, money } from "@/lib/format";
import classes from "./bar-chart.module.css";

export interface Bar {
  day: string;
  nano: number;
}

/** Every day from the first to the last, the ones without spend as well. */
export function everyDay(bars: Bar[], first: string, days: number): Bar[] {
  const known = new Map(bars.map((bar) => [bar.day.slice(0, 10), bar.nano]));
  return Array.from({ length: days }, (_, index) => {
    const date = new Date(Date.parse(`${first}T00:00:00Z`) + index * 86_400_000).toISOString().slice(0, 10);
    return { day: date, nano: known.get(date) ?? 0 };
  });
}

/** Cost per day. The table beside it carries the same figures for those who can't see it. */
export function BarChart({ bars }: { bars: Bar[] }) {
  const { t, locale } = useLocalisation();
  const highest = Math.max(1, ...bars.map((bar) => bar.nano));
  const from = bars[0]?.day ?? "";
  const to = bars.at(-1)?.day ?? "";
  return (
    <figure
      className={classes.figure}
      aria-label={t("spend.chart", { from: day(from, locale), to: day(to, locale) })}
    >
      <div className={classes.scale} aria-hidden>
        {money(highest, locale)}
      </div>
      <div className={classes.bars} aria-hidden>
        {bars.map((bar) => (
          <div
            key={bar.day}
            className={classes.slot}
            title={`${day(bar.day, locale)}: ${money(bar.nano, locale)}`}
          >
            <div
              className={classes.bar}
              style={{ height: bar.nano === 0 ? 2 : `max(3px, ${(bar.nano / highest) * 100}%)` }}
              data-none={bar.nano === 0 || undefined}
            />
          </div>
        ))}
      </div>
      <div className={classes.axis} aria-hidden>
        <span>{day(from, locale)}</span>
        <span>{day(to, locale)}</span>
      </div>
    </figure>
  );
}
