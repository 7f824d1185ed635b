import { Group, Text, Title } from "@mantine/core";
import { type ReactNode, useEffect } from "react";
import { useLocalisation } from "@/i18n";

export function PageTitle({
  title,
  lead,
  children,
}: {
  title: string;
  lead?: ReactNode;
  children?: ReactNode;
}) {
  const { t } = useLocalisation();
  useEffect(() => {
    document.title = `${title} · ${t("app.name")}`;
  }, [title, t]);
  return (
    <Group justify="space-between" align="flex-end" mb="md" gap="sm">
      <div>
        <Title order={1} tabIndex={-1}>
          {title}
        </Title>
        {lead && (
          <Text c="dimmed" size="sm">
            {lead}
          </Text>
        )}
      </div>
      {children}
    </Group>
  );
}
