import { type CSSVariablesResolver, createTheme, type MantineColorsTuple } from "@mantine/core";

const kairos: MantineColorsTuple = [
  "#e8f6f9",
  "#d3ebf0",
  "#a6d7e1",
  "#74c1d0",
  "#4dafc3",
  "#34a4bb",
  "#1f95ad",
  "#0f7f96",
  "#0b7285",
  "#085c6c",
];

export const theme = createTheme({
  primaryColor: "kairos",
  primaryShade: { light: 8, dark: 7 },
  colors: { kairos },
  defaultRadius: "md",
  cursorType: "pointer",
  fontFamily:
    'Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif',
  headings: { fontWeight: "650", sizes: { h1: { fontSize: "1.6rem" }, h2: { fontSize: "1.1rem" } } },
  autoContrast: true,
  respectReducedMotion: true,
});

/** Mantine's dimmed text and light badges miss the 4.5:1 of WCAG AA by a little; these do not. */
export const cssVariables: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    "--mantine-color-dimmed": "#566069",
    "--mantine-color-placeholder": "#66707a",
    "--mantine-color-error": "#c92a2a",
    "--mantine-color-yellow-light-color": "#7a4b00",
    "--mantine-color-orange-light-color": "#933c00",
    "--mantine-color-teal-light-color": "#05603f",
    "--mantine-color-red-light-color": "#b02525",
    "--mantine-color-gray-light-color": "#454d55",
    "--mantine-color-green-light-color": "#1d6a2c",
    "--mantine-color-kairos-light-color": "#085c6c",
    "--kairos-page": "#f6f8f9",
    "--kairos-panel": "#ffffff",
    "--kairos-line": "#dfe5e8",
    "--kairos-bar": "#0b7285",
    "--kairos-bubble-in": "#edf1f3",
    "--kairos-bubble-out": "#0b7285",
    "--kairos-hint": "#fff9e6",
    "--kairos-hint-line": "#f0dfae",
  },
  dark: {
    "--mantine-color-dimmed": "#a9b3bb",
    "--mantine-color-placeholder": "#98a2ab",
    "--mantine-color-error": "#ff8787",
    "--mantine-color-kairos-light-color": "#74c1d0",
    "--mantine-color-gray-light-color": "#c9d1d8",
    "--mantine-color-red-light-color": "#ff9c9c",
    "--mantine-color-body": "#14191d",
    "--mantine-color-default-border": "#313a41",
    "--kairos-page": "#14191d",
    "--kairos-panel": "#1b2227",
    "--kairos-line": "#2d363d",
    "--kairos-bar": "#34a4bb",
    "--kairos-bubble-in": "#2a333a",
    "--kairos-bubble-out": "#0f6778",
    "--kairos-hint": "#2a2413",
    "--kairos-hint-line": "#4d4222",
  },
});
