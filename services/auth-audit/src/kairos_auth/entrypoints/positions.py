"""Cursors of this service, read back."""

from uuid import UUID

from kairos_web import PageQuery, Problem


def after_id(page: PageQuery) -> UUID | None:
    """Raises Problem 400 for a cursor of another list."""
    position = page.position()
    if position is None:
        return None
    try:
        return UUID(position["id"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _wrong() from error


def before_number(page: PageQuery) -> int | None:
    """Raises Problem 400 for a cursor of another list."""
    position = page.position()
    if position is None:
        return None
    number = position.get("before")
    if not isinstance(number, int):
        raise _wrong()
    return number


def _wrong() -> Problem:
    return Problem(400, "invalid_cursor", "The cursor is not one this list gave out")
