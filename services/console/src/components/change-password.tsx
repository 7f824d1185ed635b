import { Alert, Button, Group, Stack } from "@mantine/core";
import { useState } from "react";
import { useLocalisation } from "@/i18n";
import { useChangePassword } from "@/lib/session";
import { Dialog } from "./dialogs";
import { SecretInput } from "./secret-input";

const SHORTEST = 12;

export default function ChangePassword({ onClose }: { onClose: () => void }) {
  const { t } = useLocalisation();
  const change = useChangePassword();
  const [current, setCurrent] = useState("");
  const [next, setNext] = useState("");
  const [repeated, setRepeated] = useState("");
  const [checked, setChecked] = useState(false);
  const tooShort = next.length < SHORTEST;
  const differ = next !== repeated;
  const submit = () => {
    setChecked(true);
    if (current && !tooShort && !differ) change.mutate({ current_password: current, new_password: next });
  };
  return (
    <Dialog title={t("password.change")} onClose={onClose}>
      {change.isSuccess ? (
        <Alert color="teal">{t("password.done")}</Alert>
      ) : (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            submit();
          }}
          noValidate
        >
          <Stack gap="sm">
            {change.error && (
              <Alert color="red">{t("password.failed", { message: change.error.message })}</Alert>
            )}
            <SecretInput
              label={t("password.current")}
              autoComplete="current-password"
              value={current}
              onChange={(event) => setCurrent(event.currentTarget.value)}
              error={checked && !current ? t("newBot.required") : null}
              data-autofocus
            />
            <SecretInput
              label={t("password.new")}
              description={t("password.rule")}
              autoComplete="new-password"
              value={next}
              onChange={(event) => setNext(event.currentTarget.value)}
              error={checked && tooShort ? t("password.tooShort") : null}
            />
            <SecretInput
              label={t("password.repeat")}
              autoComplete="new-password"
              value={repeated}
              onChange={(event) => setRepeated(event.currentTarget.value)}
              error={checked && differ ? t("password.differ") : null}
            />
            <Group justify="flex-end">
              <Button type="submit" loading={change.isPending}>
                {t("password.change")}
              </Button>
            </Group>
          </Stack>
        </form>
      )}
    </Dialog>
  );
}
