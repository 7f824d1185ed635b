import { Button } from "@mantine/core";
import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { Empty, Loading } from "@/components/states";
import { useLocalisation } from "@/i18n";
import type { Domain } from "@/pages/events";
import { NotFound } from "@/pages/not-found";
import type { Range } from "@/pages/spend";
import { Shell } from "./shell";

function Crashed() {
  const { t } = useLocalisation();
  return (
    <Empty page title={t("page.crashed.title")} text={t("page.crashed.text")}>
      <Button size="xs" variant="default" onClick={() => window.location.reload()}>
        {t("page.reload")}
      </Button>
    </Empty>
  );
}

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound });

// Filters live in the address, so that a view can be shared and found again.
const DOMAINS: readonly string[] = ["conversation", "bot", "llm", "budget", "audit", "auth", "ops"];
const RANGES: readonly unknown[] = [7, 30, 90];

const overview = createRoute({
  getParentRoute: () => root,
  path: "/",
  component: lazyRouteComponent(() => import("@/pages/overview")),
});
const bots = createRoute({
  getParentRoute: () => root,
  path: "/bots",
  validateSearch: (search: Record<string, unknown>): { create?: true } =>
    search.create ? { create: true } : {},
  component: lazyRouteComponent(() => import("@/pages/bots")),
});
const bot = createRoute({
  getParentRoute: () => root,
  path: "/bots/$botId",
  validateSearch: (search: Record<string, unknown>): { conversation?: string } =>
    typeof search.conversation === "string" ? { conversation: search.conversation } : {},
  component: lazyRouteComponent(() => import("@/pages/bot")),
});
const spend = createRoute({
  getParentRoute: () => root,
  path: "/spend",
  validateSearch: (search: Record<string, unknown>): { days?: Range } =>
    RANGES.includes(search.days) ? { days: search.days as Range } : {},
  component: lazyRouteComponent(() => import("@/pages/spend")),
});
const events = createRoute({
  getParentRoute: () => root,
  path: "/events",
  validateSearch: (search: Record<string, unknown>): { type?: Domain } =>
    DOMAINS.includes(String(search.type)) ? { type: search.type as Domain } : {},
  component: lazyRouteComponent(() => import("@/pages/events")),
});

export const router = createRouter({
  routeTree: root.addChildren([overview, bots, bot, spend, events]),
  defaultPreload: "intent",
  defaultPendingComponent: () => <Loading lines={6} />,
  defaultErrorComponent: Crashed,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
