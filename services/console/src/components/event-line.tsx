import { Badge, Text } from "@mantine/core";
import { useLocalisation } from "@/i18n";
import { clock } from "@/lib/format";
import type { FeedEvent } from "@/lib/types";
import classes from "./event-line.module.css";
import { eventColor, eventDomain, eventSummary } from "./event-summary";

/** One event in a list of few. */
export function EventLine({ event }: { event: FeedEvent }) {
  const { t, locale } = useLocalisation();
  return (
    <li className={classes.line}>
      <Text size="xs" c="dimmed" className="numbers" component="time" dateTime={event.time}>
        {clock(event.time, locale)}
      </Text>
      <Badge size="sm" variant="light" color={eventColor(event.type)} tt="none">
        {eventDomain(event.type, t)}
      </Badge>
      <Text size="sm" title={event.type}>
        {eventSummary(event, t)}
      </Text>
    </li>
  );
}
