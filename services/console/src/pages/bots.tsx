import { Button, Group, Text } from "@mantine/core";
import { IconPlus } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense } from "react";
import { BotsTable } from "@/components/bots-table";
import { PageTitle } from "@/components/page-title";
import { Empty, QueryView } from "@/components/states";
import { useLocalisation } from "@/i18n";
import { botsQuery } from "@/lib/queries";
import { useMay } from "@/lib/session";

const NewBot = lazy(() => import("@/components/new-bot"));

export default function Bots() {
  const { t } = useLocalisation();
  const bots = useQuery(botsQuery);
  const mayCreate = useMay("bots.write");
  const creating = useSearch({ from: "/bots" }).create === true;
  const navigate = useNavigate();
  const show = (open: boolean) => void navigate({ to: "/bots", search: open ? { create: true } : {} });
  const create = (
    <Button leftSection={<IconPlus size={18} aria-hidden />} onClick={() => show(true)} disabled={!mayCreate}>
      {t("bots.create")}
    </Button>
  );
  return (
    <>
      <PageTitle title={t("bots.title")} lead={mayCreate ? undefined : t("bots.readOnly")}>
        {create}
      </PageTitle>
      <section className="panel" aria-label={t("bots.title")}>
        <QueryView
          query={bots}
          empty={({ items }) =>
            items.length === 0 ? (
              <Empty title={t("bots.empty.title")} text={t("bots.empty.text")}>
                {mayCreate ? (
                  <Group mt="xs">{create}</Group>
                ) : (
                  <Text size="sm" c="dimmed">
                    {t("bots.readOnly")}
                  </Text>
                )}
              </Empty>
            ) : null
          }
        >
          {({ items }) => <BotsTable bots={items} />}
        </QueryView>
      </section>
      {creating && mayCreate && (
        <Suspense fallback={null}>
          <NewBot
            onClose={() => show(false)}
            onCreated={(bot) => void navigate({ to: "/bots/$botId", params: { botId: bot.id }, search: {} })}
          />
        </Suspense>
      )}
    </>
  );
}
