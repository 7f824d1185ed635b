import {
  Alert,
  Autocomplete,
  Button,
  Group,
  Input,
  NumberInput,
  SegmentedControl,
  Stack,
  Switch,
  Textarea,
  TextInput,
} from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useLocalisation } from "@/i18n";
import { modelsQuery, useCreateBot } from "@/lib/queries";
import type { Bot, Mode, NewBot } from "@/lib/types";
import { SidePanel } from "./dialogs";
import { SecretInput } from "./secret-input";

const TOKEN = /^[0-9]{1,20}:[A-Za-z0-9_-]{1,200}$/;
const MODES: Mode[] = ["gpt", "hybrid", "manual"];

interface Props {
  onClose: () => void;
  onCreated: (bot: Bot) => void;
}

export default function NewBotDrawer({ onClose, onCreated }: Props) {
  const { t } = useLocalisation();
  const create = useCreateBot();
  const models = useQuery(modelsQuery);
  const [checked, setChecked] = useState(false);
  const [bot, setBot] = useState<NewBot>({
    name: "",
    model: "default",
    mode: "gpt",
    system_prompt: "",
    fallback_text: t("newBot.fallbackDefault"),
    max_tokens: 512,
    web_enabled: true,
    telegram_token: "",
  });
  const set = (change: Partial<NewBot>) => setBot((known) => ({ ...known, ...change }));
  const token = bot.telegram_token?.trim() ?? "";
  const badToken = token !== "" && !TOKEN.test(token);
  const missing = (text: string) => (checked && !text.trim() ? t("newBot.required") : null);

  const submit = () => {
    setChecked(true);
    if (!bot.name.trim() || !bot.model.trim() || !bot.fallback_text.trim() || badToken) return;
    const { telegram_token: _, ...rest } = bot;
    create.mutate(token ? { ...rest, telegram_token: token } : rest, { onSuccess: onCreated });
  };

  return (
    <SidePanel title={t("newBot.title")} onClose={onClose}>
      <form
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          submit();
        }}
      >
        <Stack gap="md">
          {create.error && <Alert color="red">{t("newBot.failed", { message: create.error.message })}</Alert>}
          <TextInput
            label={t("newBot.name")}
            placeholder={t("newBot.namePlaceholder")}
            required
            maxLength={200}
            value={bot.name}
            onChange={(event) => set({ name: event.currentTarget.value })}
            error={missing(bot.name)}
            data-autofocus
          />
          <Autocomplete
            label={t("newBot.model")}
            description={t("newBot.modelHint")}
            required
            data={models.data ?? []}
            value={bot.model}
            onChange={(model) => set({ model })}
            error={missing(bot.model)}
          />
          <Input.Wrapper label={t("newBot.mode")} description={t(`mode.${bot.mode}.hint`)} labelElement="div">
            <SegmentedControl
              fullWidth
              mt={6}
              aria-label={t("newBot.mode")}
              data={MODES.map((mode) => ({ value: mode, label: t(`mode.${mode}`) }))}
              value={bot.mode}
              onChange={(mode) => set({ mode: mode as Mode })}
            />
          </Input.Wrapper>
          <Textarea
            label={t("newBot.prompt")}
            placeholder={t("newBot.promptPlaceholder")}
            autosize
            minRows={3}
            maxRows={10}
            maxLength={32_000}
            value={bot.system_prompt}
            onChange={(event) => set({ system_prompt: event.currentTarget.value })}
          />
          <TextInput
            label={t("newBot.fallback")}
            description={t("newBot.fallbackHint")}
            required
            value={bot.fallback_text}
            onChange={(event) => set({ fallback_text: event.currentTarget.value })}
            error={missing(bot.fallback_text)}
          />
          <NumberInput
            label={t("newBot.maxTokens")}
            min={1}
            max={1_000_000}
            allowDecimal={false}
            value={bot.max_tokens}
            onChange={(value) => set({ max_tokens: Number(value) || 1 })}
          />
          <Switch
            label={t("newBot.web")}
            checked={bot.web_enabled}
            onChange={(event) => set({ web_enabled: event.currentTarget.checked })}
          />
          <SecretInput
            label={t("newBot.telegramToken")}
            description={t("newBot.telegramHint")}
            autoComplete="off"
            value={bot.telegram_token ?? ""}
            onChange={(event) => set({ telegram_token: event.currentTarget.value })}
            error={badToken ? t("newBot.badToken") : null}
          />
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              {t("newBot.cancel")}
            </Button>
            <Button type="submit" loading={create.isPending}>
              {t("newBot.submit")}
            </Button>
          </Group>
        </Stack>
      </form>
    </SidePanel>
  );
}
