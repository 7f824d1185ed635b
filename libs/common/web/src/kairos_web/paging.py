"""Cursor pagination: a page knows where the next one starts, never how many there are."""

import base64
import binascii
import json
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from kairos_web.problems import Problem

T = TypeVar("T")
MAX_LIMIT = 200
DEFAULT_LIMIT = 50
_MAX_CURSOR = 1024


class Page(BaseModel, Generic[T]):
    model_config = ConfigDict(frozen=True)

    items: list[T]
    next_cursor: str | None = None


class PageQuery(BaseModel):
    """Take it as `page: Paged`; `limit` is 1..200, `cursor` is the previous page's `next_cursor`."""

    model_config = ConfigDict(frozen=True)

    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(default=None, max_length=_MAX_CURSOR)

    def position(self) -> dict[str, Any] | None:
        return decode_cursor(self.cursor) if self.cursor else None


def _page_query(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=_MAX_CURSOR)] = None,
) -> PageQuery:
    return PageQuery(limit=limit, cursor=cursor)


Paged = Annotated[PageQuery, Depends(_page_query)]


def encode_cursor(position: dict[str, Any]) -> str:
    """An opaque token; values must be JSON (write UUIDs and times as text)."""
    text = json.dumps(position, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode("ascii")


def decode_cursor(cursor: str) -> dict[str, Any]:
    """Read a cursor back. Raises Problem 400 invalid_cursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise Problem(400, "invalid_cursor", "The cursor is not one this service gave out") from error
    if not isinstance(position, dict):
        raise Problem(400, "invalid_cursor", "The cursor is not one this service gave out")
    return position
