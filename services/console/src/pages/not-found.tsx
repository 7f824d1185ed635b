import { Anchor } from "@mantine/core";
import { Link } from "@tanstack/react-router";
import { Empty } from "@/components/states";
import { useLocalisation } from "@/i18n";

export function NotFound() {
  const { t } = useLocalisation();
  return (
    <Empty page title={t("page.notFound.title")} text={t("page.notFound.text")}>
      <Anchor component={Link} to="/" size="sm">
        {t("page.home")}
      </Anchor>
    </Empty>
  );
}
