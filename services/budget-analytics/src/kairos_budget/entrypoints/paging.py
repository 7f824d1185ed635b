"""From the web layer's page to the application's slice and back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from kairos_budget.application.readings import BadPosition, Slice
from kairos_web import Page, PageQuery, Problem, encode_cursor

Row = TypeVar("Row")
Shape = TypeVar("Shape")


async def page_of(
    query: PageQuery,
    read: Callable[[Slice], Awaitable[tuple[Sequence[Row], dict[str, Any] | None]]],
    shape: Callable[[Row], Shape],
) -> Page[Shape]:
    """Read one page. Raises Problem 400 for a cursor of another list."""
    try:
        rows, following = await read(Slice(query.limit, query.position()))
    except BadPosition as error:
        raise Problem(400, "invalid_cursor", "The cursor is not one this list gave out") from error
    return Page(
        items=[shape(row) for row in rows],
        next_cursor=encode_cursor(following) if following is not None else None,
    )
