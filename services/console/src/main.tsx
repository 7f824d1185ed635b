import "@mantine/core/styles.css";
import "./app/global.css";
import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { lazy, StrictMode, Suspense, useRef } from "react";
import { createRoot } from "react-dom/client";
import { router } from "./app/router";
import { cssVariables, theme } from "./app/theme";
import { Disconnected, Loading } from "./components/states";
import { initialLanguage, LanguageProvider, loadLanguage } from "./i18n";
import { ApiError } from "./lib/api";
import { LiveFeedProvider } from "./lib/live/context";
import { SessionProvider, useSessionQuery, useSignedOutByHand } from "./lib/session";

const SignIn = lazy(() => import("./pages/sign-in"));

const client = new QueryClient({
  defaultOptions: {
    queries: {
      // The live feed tells what changed; this is the net below it.
      staleTime: 15_000,
      refetchInterval: 30_000,
      retry: (count, error) => error instanceof ApiError && error.disconnected && count < 2,
      retryDelay: (attempt) => Math.min(8_000, 500 * 2 ** attempt),
    },
  },
});

function Gate() {
  const session = useSessionQuery();
  const hadSession = useRef(false);
  const byHand = useSignedOutByHand();
  if (session.data) {
    hadSession.current = true;
    return (
      <SessionProvider session={session.data}>
        <LiveFeedProvider key={session.data.id}>
          <RouterProvider router={router} />
        </LiveFeedProvider>
      </SessionProvider>
    );
  }
  if (session.data === null) {
    return (
      <Suspense fallback={<Loading />}>
        <SignIn expired={hadSession.current && !byHand} />
      </Suspense>
    );
  }
  if (session.isPending) return <Loading />;
  return (
    <main>
      <Disconnected retry={() => void session.refetch()} />
    </main>
  );
}

async function start(root: HTMLElement): Promise<void> {
  const language = initialLanguage();
  // Without its dictionary the console still speaks English.
  await loadLanguage(language).catch(() => {});
  createRoot(root).render(
    <StrictMode>
      <MantineProvider theme={theme} cssVariablesResolver={cssVariables} defaultColorScheme="auto">
        <LanguageProvider initial={language}>
          <QueryClientProvider client={client}>
            <Gate />
          </QueryClientProvider>
        </LanguageProvider>
      </MantineProvider>
    </StrictMode>,
  );
}

const root = document.getElementById("root");
if (root) void start(root);
