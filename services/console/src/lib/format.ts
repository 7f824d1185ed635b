/** Numbers, money and times as the reader's language writes them. */

const NANO = 1_000_000_000;

/** Nano-USD as dollars; small amounts keep the digits that matter: 0.0000425 USD is not 0.00. */
export function money(nano: number, locale: string): string {
  const usd = nano / NANO;
  const digits =
    usd === 0 || Math.abs(usd) >= 1 ? 2 : Math.min(9, Math.max(2, 2 - Math.floor(Math.log10(Math.abs(usd)))));
  return new Intl.NumberFormat(locale, {
    style: "currency",
    currency: "USD",
    currencyDisplay: "narrowSymbol",
    minimumFractionDigits: 2,
    maximumFractionDigits: digits,
  }).format(usd);
}

export function count(value: number, locale: string): string {
  return new Intl.NumberFormat(locale).format(value);
}

export function clock(iso: string, locale: string): string {
  return new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(
    new Date(iso),
  );
}

export function dayAndTime(iso: string, locale: string): string {
  return new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" }).format(new Date(iso));
}

export function day(iso: string, locale: string): string {
  return new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", timeZone: "UTC" }).format(
    new Date(iso.length === 10 ? `${iso}T00:00:00Z` : iso),
  );
}

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
  ["second", 1],
];

/** `2 minutes ago`, from milliseconds of two clocks. */
export function ago(then: number, now: number, locale: string): string {
  const seconds = Math.max(0, Math.round((now - then) / 1_000));
  const [unit, size] = STEPS.find(([, step]) => seconds >= step) ?? ["second", 1];
  return new Intl.RelativeTimeFormat(locale, { numeric: "auto" }).format(-Math.floor(seconds / size), unit);
}

/** The age of data: tenths below ten seconds, whole seconds, then minutes. Without the unit's name. */
export function age(milliseconds: number, locale: string): { value: string; unit: "second" | "minute" } {
  const seconds = Math.max(0, milliseconds / 1_000);
  if (seconds >= 120) return { value: count(Math.floor(seconds / 60), locale), unit: "minute" };
  const digits = seconds < 10 ? 1 : 0;
  const value = new Intl.NumberFormat(locale, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return {
    value: value.format(digits ? Math.floor(seconds * 10) / 10 : Math.floor(seconds)),
    unit: "second",
  };
}

export function percent(part: number, whole: number): number {
  return whole > 0 ? Math.min(100, (part / whole) * 100) : 0;
}

export function shortId(id: string): string {
  return id.slice(0, 8);
}
