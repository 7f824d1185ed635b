"""Who and what a row of analytics is about."""

from hashlib import md5
from typing import NamedTuple
from uuid import UUID


class Series(NamedTuple):
    """The dimensions of rollups. Empty names: an attempt that only the provider reported."""

    organisation_id: UUID
    model: str
    deployment: str = ""
    provider: str = ""
    bot_id: UUID | None = None
    project_id: UUID | None = None
    api_key_id: UUID | None = None
    team_id: UUID | None = None

    @property
    def id(self) -> UUID:
        """A hash of the dimensions, so that every process names a series alike without asking.

        The migration that carried older figures over computes the same in SQL.
        """
        text = "|".join("" if part is None else str(part) for part in self)
        return UUID(bytes=md5(text.encode(), usedforsecurity=False).digest())
