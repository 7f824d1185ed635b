import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useState } from "react";
import { en, type TextKey } from "./en";

export type Language = "en" | "tr";
export type Translate = (key: TextKey, values?: Record<string, string | number>) => string;

// English is always there, so that a text exists whatever fails to load; the others come when chosen.
const DICTIONARIES: Partial<Record<Language, Record<TextKey, string>>> & { en: Record<TextKey, string> } = {
  en,
};
const LOCALES: Record<Language, string> = { en: "en-GB", tr: "tr-TR" };
export const LANGUAGES: { value: Language; label: string }[] = [
  { value: "en", label: "English" },
  { value: "tr", label: "Türkçe" },
];
const STORED_AS = "kairos-language";

export function translate(
  language: Language,
  key: TextKey,
  values: Record<string, string | number> = {},
): string {
  const dictionary = DICTIONARIES[language] ?? DICTIONARIES.en;
  return dictionary[key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

/** Whether a text exists for a key built at run time, an event's type for one. */
export function isTextKey(key: string): key is TextKey {
  return key in en;
}

/** Fetch a dictionary before its texts are shown. */
export async function loadLanguage(language: Language): Promise<void> {
  if (language === "tr") DICTIONARIES.tr ??= (await import("./tr")).tr;
}

export function initialLanguage(): Language {
  try {
    const stored = localStorage.getItem(STORED_AS);
    if (stored === "en" || stored === "tr") return stored;
  } catch {
    // Without storage the browser's language decides.
  }
  return navigator.language.toLowerCase().startsWith("tr") ? "tr" : "en";
}

interface Localisation {
  language: Language;
  locale: string;
  t: Translate;
  choose: (language: Language) => void;
}

const Context = createContext<Localisation | null>(null);

export function LanguageProvider({ children, initial }: { children: ReactNode; initial?: Language }) {
  const [language, setLanguage] = useState<Language>(initial ?? initialLanguage);
  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  const choose = useCallback(async (chosen: Language) => {
    await loadLanguage(chosen);
    setLanguage(chosen);
    try {
      localStorage.setItem(STORED_AS, chosen);
    } catch {
      // It holds until the page is left.
    }
  }, []);
  const value = useMemo<Localisation>(
    () => ({
      language,
      locale: LOCALES[language],
      t: (key, values) => translate(language, key, values),
      choose: (chosen) => void choose(chosen),
    }),
    [language, choose],
  );
  return <Context.Provider value={value}>{children}</Context.Provider>;
}

export function useLocalisation(): Localisation {
  const value = useContext(Context);
  if (!value) throw new Error("LanguageProvider is missing");
  return value;
}
