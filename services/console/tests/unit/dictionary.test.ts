import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { isTextKey, loadLanguage, translate } from "@/i18n";
import { en } from "@/i18n/en";
import { tr } from "@/i18n/tr";

const placeholders = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();

function sources(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return entry.name === "i18n" ? [] : sources(path);
    return /\.tsx?$/.test(entry.name) ? [path] : [];
  });
}

describe("the dictionaries", () => {
  it("have the same keys", () => {
    expect(Object.keys(tr).sort()).toEqual(Object.keys(en).sort());
  });

  it("have the same placeholders in every text", () => {
    for (const [key, text] of Object.entries(en)) {
      expect([key, placeholders(tr[key as keyof typeof en])]).toEqual([key, placeholders(text)]);
    }
  });

  it("have no empty text and no text that was left in English", () => {
    const same = Object.entries(en).filter(([key, text]) => tr[key as keyof typeof en] === text);
    expect(same.map(([key]) => key).sort()).toEqual(
      [
        "app.name",
        "bot.source.model",
        "botState.error",
        "bots.model",
        "budgets.scope.bot",
        "budgets.scope.model",
        "channel.telegram",
        "mode.gpt",
        "state.error.text",
      ].filter((key) => en[key as keyof typeof en] === tr[key as keyof typeof en]),
    );
    expect(Object.values(tr).filter((text) => !text.trim())).toEqual([]);
  });

  it("hold every text that the console shows: no component has words of its own", () => {
    const words = />\s*[A-ZÇĞİÖŞÜ][a-zçğıöşü]+[^<>{}]*</;
    const attributes = /\b(aria-label|title|label|placeholder|description)="[^"]+"/;
    for (const path of sources("src")) {
      const text = readFileSync(path, "utf8");
      expect([path, text.match(attributes)?.[0] ?? null]).toEqual([path, null]);
      if (path.endsWith(".tsx")) {
        const plain = text.replace(/Promise<[^>]*>|=> [A-Z]\w*<[^>]*>|<[A-Z]\w*>\(/g, "");
        expect([path, plain.match(words)?.[0] ?? null]).toEqual([path, null]);
      }
    }
  });

  it("know every key that a component asks for by name", () => {
    for (const path of sources("src")) {
      for (const [, key] of readFileSync(path, "utf8").matchAll(/\bt\("([^"]+)"/g)) {
        expect([path, key, isTextKey(key ?? "")]).toEqual([path, key, true]);
      }
    }
  });
});

describe("translating", () => {
  beforeAll(() => loadLanguage("tr"));

  it("puts values in and leaves an unknown placeholder visible", () => {
    expect(translate("en", "budgets.of", { limit: "$5" })).toBe("of $5");
    expect(translate("tr", "budgets.of", {})).toBe("/ {limit}");
  });
});
