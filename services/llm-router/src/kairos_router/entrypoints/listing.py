"""Pages over what is in memory, and versions of rows in headers."""

from collections.abc import Iterable
from typing import Annotated, TypeVar

from fastapi import Header
from pydantic import BaseModel

from kairos_web import Page, PageQuery, Problem, encode_cursor

Shape = TypeVar("Shape", bound=BaseModel)

IfMatch = Annotated[str | None, Header(max_length=100)]
IfNoneMatch = Annotated[str | None, Header(max_length=100)]


def page_by_name(query: PageQuery, shapes: Iterable[tuple[str, Shape]]) -> Page[Shape]:
    """One page, in the order of the names. Raises Problem 400 for a cursor of another list."""
    position = query.position()
    after = ""
    if position is not None:
        after = position.get("after", "")
        if not isinstance(after, str) or not after:
            raise Problem(400, "invalid_cursor", "The cursor is not one this list gave out")
    rest = sorted(((name, shape) for name, shape in shapes if name > after), key=lambda each: each[0])
    page = rest[: query.limit]
    more = len(rest) > len(page)
    return Page(
        items=[shape for _, shape in page],
        next_cursor=encode_cursor({"after": page[-1][0]}) if more else None,
    )


def tag(version: int) -> str:
    """The entity tag of a row; 0 is a shared row, which an edit does not replace but cover."""
    return f'"{version}"'


def expectation(if_match: str | None, if_none_match: str | None) -> tuple[int | None, bool]:
    """The version to replace, and whether only a new row will do. Raises Problem 400."""
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise Problem(400, "invalid_precondition", "If-None-Match can only be * here")
        return None, True
    if if_match is None or if_match.strip() == "*":
        return None, False
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isdigit():
        raise Problem(400, "invalid_precondition", "If-Match must be the ETag of an earlier answer")
    version = int(text)
    return (version, False) if version else (None, True)


def conflict(version: int | None) -> Problem:
    return Problem(
        412,
        "version_conflict",
        "Somebody else has changed this meanwhile",
        "Read it again and repeat the change on the current version",
        current_version=version,
    )
