"""Positions in lists that are sorted by time of creation, newest first."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kairos_bots.domain.bot import Bot
from kairos_bots.domain.conversation import Conversation
from kairos_web import Paged, Problem, encode_cursor


def position_of(page: Paged) -> tuple[datetime, UUID] | None:
    position = page.position()
    if position is None:
        return None
    try:
        return datetime.fromisoformat(position["at"]), UUID(position["id"])
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(400, "invalid_cursor", "The cursor is not one this service gave out") from error


def cursor_after(items: Sequence[Bot] | Sequence[Conversation], limit: int) -> str | None:
    if len(items) < limit:
        return None
    last = items[-1]
    return encode_cursor({"at": last.created_at.isoformat(), "id": str(last.id)})
