import { describe, expect, it } from "vitest";
import { age, ago, money, percent } from "@/lib/format";

describe("money", () => {
  it.each([
    [0, "$0.00"],
    [1_500_000_000, "$1.50"],
    [1_234_567_890_000, "$1,234.57"],
    [20_850, "$0.0000209"],
    [1, "$0.000000001"],
    [50_000_000, "$0.05"],
    [-20_000_000, "-$0.02"],
  ])("shows %d nano-USD as %s", (nano, text) => {
    expect(money(nano, "en-GB").replace("US$", "$")).toBe(text);
  });

  it("follows the reader's language", () => {
    expect(money(1_500_000_000, "tr-TR")).toBe("$1,50");
  });
});

describe("age", () => {
  it.each([
    [300, "0.3", "second"],
    [9_990, "9.9", "second"],
    [42_400, "42", "second"],
    [119_000, "119", "second"],
    [150_000, "2", "minute"],
    [-5, "0.0", "second"],
  ])("of %d ms is %s %s", (milliseconds, value, unit) => {
    expect(age(milliseconds, "en-GB")).toEqual({ value, unit });
  });
});

describe("ago", () => {
  it.each([
    [0, "now"],
    [61_000, "1 minute ago"],
    [7_200_000, "2 hours ago"],
    [-5_000, "now"],
  ])("says how long %d ms are", (passed, text) => {
    expect(ago(1_000_000_000, 1_000_000_000 + passed, "en-GB")).toBe(text);
  });
});

describe("percent", () => {
  it("stays within the whole", () => {
    expect([percent(1, 4), percent(9, 3), percent(1, 0)]).toEqual([25, 100, 0]);
  });
});
