import { PasswordInput, type PasswordInputProps } from "@mantine/core";
import { useLocalisation } from "@/i18n";

/** A password field whose own button speaks the reader's language. */
export function SecretInput(props: PasswordInputProps) {
  const { t } = useLocalisation();
  return <PasswordInput visibilityToggleButtonProps={{ "aria-label": t("field.reveal") }} {...props} />;
}
