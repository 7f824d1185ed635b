"""A one-time ticket: it carries who asked for it from an HTTP request to the WebSocket's opening."""

from dataclasses import dataclass
from datetime import datetime, timedelta

TICKET_LIFE = timedelta(seconds=30)


class TicketRefused(PermissionError):  # noqa: N818 - reads as the fact it states
    """The ticket is unknown, used, expired, or its holder's access changed since."""


@dataclass(frozen=True)
class Revocations:
    """When the access of a subject last changed, remembered as long as a ticket lives."""

    times: dict[str, datetime]

    def note(self, subject: str, at: datetime) -> None:
        for known in [name for name, time in self.times.items() if at - time > 2 * TICKET_LIFE]:
            del self.times[known]
        self.times[subject] = at

    def cover(self, subjects: tuple[str, ...], issued_at: datetime) -> bool:
        """Whether any of the subjects changed since the ticket was issued."""
        return any(self.times.get(subject, issued_at) > issued_at for subject in subjects)
