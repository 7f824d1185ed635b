import {
  ActionIcon,
  Avatar,
  Burger,
  Button,
  Group,
  Menu,
  NavLink,
  Text,
  Tooltip,
  useMantineColorScheme,
} from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import {
  IconActivity,
  IconChartBar,
  IconCheck,
  IconDeviceDesktop,
  IconKey,
  IconLanguage,
  IconLayoutDashboard,
  IconLogout,
  IconMoon,
  IconRobot,
  IconSun,
} from "@tabler/icons-react";
import { Link, Outlet, useRouterState } from "@tanstack/react-router";
import { type ComponentType, lazy, Suspense } from "react";
import { HealthStrip } from "@/components/health-strip";
import { TransportBadge } from "@/components/transport-badge";
import { LANGUAGES, useLocalisation } from "@/i18n";
import type { TextKey } from "@/i18n/en";
import { useSession, useSignOut } from "@/lib/session";
import classes from "./shell.module.css";

const ChangePassword = lazy(() => import("@/components/change-password"));

const PAGES: { to: string; text: TextKey; icon: ComponentType<{ size?: number }> }[] = [
  { to: "/", text: "nav.overview", icon: IconLayoutDashboard },
  { to: "/bots", text: "nav.bots", icon: IconRobot },
  { to: "/spend", text: "nav.spend", icon: IconChartBar },
  { to: "/events", text: "nav.events", icon: IconActivity },
];

function Navigation({ onFollow }: { onFollow: () => void }) {
  const { t } = useLocalisation();
  const path = useRouterState({ select: (state) => state.location.pathname });
  return (
    <>
      {PAGES.map(({ to, text, icon: Icon }) => {
        const active = to === "/" ? path === "/" : path.startsWith(to);
        return (
          <NavLink
            key={to}
            component={Link}
            to={to}
            label={t(text)}
            leftSection={<Icon size={18} />}
            active={active}
            aria-current={active ? "page" : undefined}
            onClick={onFollow}
            className={classes.link}
          />
        );
      })}
    </>
  );
}

const SCHEMES = [
  { value: "light", text: "theme.light", icon: IconSun },
  { value: "dark", text: "theme.dark", icon: IconMoon },
  { value: "auto", text: "theme.auto", icon: IconDeviceDesktop },
] as const;

function Preferences() {
  const { t, language, choose } = useLocalisation();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const Current = (SCHEMES.find(({ value }) => value === colorScheme) ?? SCHEMES[2]).icon;
  return (
    <>
      <Menu position="bottom-end" width={160}>
        <Menu.Target>
          <Tooltip label={t("language.label")}>
            <ActionIcon variant="subtle" color="gray" size="lg" aria-label={t("language.label")}>
              <IconLanguage size={20} />
            </ActionIcon>
          </Tooltip>
        </Menu.Target>
        <Menu.Dropdown>
          {LANGUAGES.map(({ value, label }) => (
            <Menu.Item
              key={value}
              lang={value}
              onClick={() => choose(value)}
              rightSection={language === value ? <IconCheck size={16} aria-hidden /> : null}
            >
              {label}
            </Menu.Item>
          ))}
        </Menu.Dropdown>
      </Menu>
      <Menu position="bottom-end" width={160}>
        <Menu.Target>
          <Tooltip label={t("theme.label")}>
            <ActionIcon variant="subtle" color="gray" size="lg" aria-label={t("theme.label")}>
              <Current size={20} />
            </ActionIcon>
          </Tooltip>
        </Menu.Target>
        <Menu.Dropdown>
          {SCHEMES.map(({ value, text, icon: Icon }) => (
            <Menu.Item
              key={value}
              leftSection={<Icon size={16} />}
              onClick={() => setColorScheme(value)}
              rightSection={colorScheme === value ? <IconCheck size={16} aria-hidden /> : null}
            >
              {t(text)}
            </Menu.Item>
          ))}
        </Menu.Dropdown>
      </Menu>
    </>
  );
}

function initials(name: string): string {
  const letters = name.split(/[\s.@_-]+/).map((part) => part.charAt(0).toLocaleUpperCase());
  return letters.slice(0, 2).join("");
}

function Account({ onPassword }: { onPassword: () => void }) {
  const { t } = useLocalisation();
  const session = useSession();
  const signOut = useSignOut();
  return (
    <Menu position="bottom-end" width={240}>
      <Menu.Target>
        <ActionIcon
          variant="transparent"
          size="lg"
          radius="xl"
          aria-label={`${t("user.menu")} ${initials(session.display)}`}
        >
          <Avatar size={32} radius="xl" color="kairos" aria-hidden>
            {initials(session.display)}
          </Avatar>
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        <div className={classes.who}>
          <Text size="sm" fw={600} truncate>
            {session.display}
          </Text>
          <Text size="xs" c="dimmed" truncate>
            {session.organisation.name} · {t(`role.${session.role}`)}
          </Text>
        </div>
        <Menu.Divider />
        <Menu.Item leftSection={<IconKey size={16} />} onClick={onPassword}>
          {t("password.change")}
        </Menu.Item>
        <Menu.Item leftSection={<IconLogout size={16} />} onClick={() => signOut.mutate()}>
          {t("user.signOut")}
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}

export function Shell() {
  const { t } = useLocalisation();
  const session = useSession();
  const [opened, { toggle, close }] = useDisclosure(false);
  const [changing, password] = useDisclosure(false);
  return (
    <div className={classes.page}>
      <a href="#content" className="skip">
        {t("app.skip")}
      </a>
      <header className={classes.header}>
        <Group gap="sm" wrap="nowrap">
          <Burger
            opened={opened}
            onClick={toggle}
            hiddenFrom="sm"
            size="sm"
            aria-expanded={opened}
            aria-controls="navigation"
            aria-label={t(opened ? "nav.close" : "nav.open")}
          />
          <img src="/kairos.svg" alt="" width={26} height={26} />
          <Text fw={700} visibleFrom="xs">
            {t("app.name")}
          </Text>
          <Text c="dimmed" size="sm" visibleFrom="md" truncate maw={220}>
            {session.organisation.name}
          </Text>
        </Group>
        <Group gap={6} wrap="nowrap">
          <HealthStrip />
          <TransportBadge />
          <Group gap={2} wrap="nowrap" visibleFrom="xs">
            <Preferences />
          </Group>
          <Account onPassword={password.open} />
        </Group>
      </header>
      <nav
        id="navigation"
        className={classes.navigation}
        aria-label={t("nav.label")}
        data-opened={opened || undefined}
      >
        <Navigation onFollow={close} />
        <Group gap={2} mt="auto" hiddenFrom="xs">
          <Preferences />
        </Group>
      </nav>
      <main id="content" tabIndex={-1} className={classes.main}>
        {session.must_change_password && (
          <Group className="hint" justify="space-between" gap="xs" mb="md" role="note">
            <Group gap="xs" wrap="nowrap">
              <IconKey size={18} aria-hidden />
              <Text size="sm">{t("password.hint")}</Text>
            </Group>
            <Button size="compact-sm" variant="default" onClick={password.open}>
              {t("password.change")}
            </Button>
          </Group>
        )}
        <Outlet />
      </main>
      {changing && (
        <Suspense fallback={null}>
          <ChangePassword onClose={password.close} />
        </Suspense>
      )}
    </div>
  );
}
