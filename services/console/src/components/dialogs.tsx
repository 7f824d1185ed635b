import { Drawer, Modal } from "@mantine/core";
import type { ReactNode } from "react";
import { useLocalisation } from "@/i18n";
import classes from "./dialogs.module.css";

interface Props {
  title: string;
  onClose: () => void;
  children: ReactNode;
}

// Put together by hand: Mantine's own header element would be a second banner of the page.

/** A panel at the side, over the page. */
export function SidePanel({ title, onClose, children, size = "md" }: Props & { size?: "md" | "lg" }) {
  const { t } = useLocalisation();
  return (
    <Drawer.Root opened onClose={onClose} position="right" size={size}>
      <Drawer.Overlay />
      <Drawer.Content>
        <div className={classes.head}>
          <Drawer.Title className={classes.title}>{title}</Drawer.Title>
          <Drawer.CloseButton aria-label={t("dialog.close")} />
        </div>
        <Drawer.Body>{children}</Drawer.Body>
      </Drawer.Content>
    </Drawer.Root>
  );
}

export function Dialog({ title, onClose, children }: Props) {
  const { t } = useLocalisation();
  return (
    <Modal.Root opened onClose={onClose} centered>
      <Modal.Overlay />
      <Modal.Content>
        <div className={classes.head}>
          <Modal.Title className={classes.title}>{title}</Modal.Title>
          <Modal.CloseButton aria-label={t("dialog.close")} />
        </div>
        <Modal.Body>{children}</Modal.Body>
      </Modal.Content>
    </Modal.Root>
  );
}
