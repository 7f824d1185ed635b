import { Alert, Button, Group, Paper, Stack, Text, TextInput, Title } from "@mantine/core";
import { useEffect, useState } from "react";
import { SecretInput } from "@/components/secret-input";
import { LANGUAGES, useLocalisation } from "@/i18n";
import { ApiError } from "@/lib/api";
import { useSignIn } from "@/lib/session";
import classes from "./sign-in.module.css";

function Failure({ error }: { error: Error }) {
  const { t } = useLocalisation();
  const status = error instanceof ApiError ? error.status : 0;
  const seconds = error instanceof ApiError ? (error.retryAfter ?? 30) : 30;
  const text =
    status === 401 || status === 422
      ? t("signIn.wrong")
      : status === 429
        ? t("signIn.throttled", { seconds })
        : t("signIn.unavailable");
  return (
    <Alert color={status === 401 || status === 422 ? "red" : "yellow"} role="alert">
      {text}
    </Alert>
  );
}

export default function SignIn({ expired }: { expired: boolean }) {
  const { t, language, choose } = useLocalisation();
  const signIn = useSignIn();
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  useEffect(() => {
    document.title = `${t("signIn.title")} · ${t("app.name")}`;
  }, [t]);
  return (
    <main className={classes.page}>
      <Paper className={`panel ${classes.card}`} p="xl" radius="lg">
        <Group gap="sm" mb="lg" wrap="nowrap">
          <img src="/kairos.svg" alt="" width={36} height={36} />
          <div>
            <Title order={1} size="h3">
              {t("app.name")}
            </Title>
            <Text size="sm" c="dimmed">
              {t("signIn.lead")}
            </Text>
          </div>
        </Group>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            signIn.mutate({ email: email.trim(), password });
          }}
        >
          <Stack gap="md">
            {expired && !signIn.error && <Alert color="yellow">{t("signIn.expired")}</Alert>}
            {signIn.error && <Failure error={signIn.error} />}
            <TextInput
              label={t("signIn.email")}
              type="email"
              name="email"
              autoComplete="username"
              required
              autoFocus
              value={email}
              onChange={(event) => setEmail(event.currentTarget.value)}
            />
            <SecretInput
              label={t("signIn.password")}
              name="password"
              autoComplete="current-password"
              required
              value={password}
              onChange={(event) => setPassword(event.currentTarget.value)}
            />
            <Button type="submit" loading={signIn.isPending} fullWidth>
              {t("signIn.submit")}
            </Button>
          </Stack>
        </form>
        <Text size="xs" c="dimmed" mt="lg">
          {t("signIn.firstTime")}
        </Text>
        <Group gap="xs" mt="md" role="group" aria-label={t("language.label")}>
          {LANGUAGES.map(({ value, label }) => (
            <Button
              key={value}
              size="compact-xs"
              variant={value === language ? "light" : "subtle"}
              color="gray"
              lang={value}
              aria-pressed={value === language}
              onClick={() => choose(value)}
            >
              {label}
            </Button>
          ))}
        </Group>
      </Paper>
    </main>
  );
}
