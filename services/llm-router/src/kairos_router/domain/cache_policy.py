"""Which answers are kept, for whom and for how long."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from kairos_router.domain.ask import Caller

EVERY_ROUTE = "*"
LONGEST_TTL_S = 30 * 86_400
DEFAULT_SIMILARITY = 0.95


class Mode(StrEnum):
    """off: nothing is kept. deterministic: what was asked for with temperature 0. all: everything."""

    OFF = "off"
    DETERMINISTIC = "deterministic"
    ALL = "all"


class SharedBy(StrEnum):
    """Who may get an answer that was made for another request. Never another organisation."""

    ORGANISATION = "organisation"
    API_KEY = "api_key"
    CONTACT = "contact"


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The policy of one route (or model), or of every route that has none of its own.

    `generation` is a part of every key: a purge makes it one more. `similarity` is the least cosine at
    which two questions count as one, where `semantic` is on.
    """

    organisation_id: UUID
    route: str
    mode: Mode = Mode.OFF
    ttl_seconds: int = 3_600
    shared_by: SharedBy = SharedBy.ORGANISATION
    semantic: bool = False
    similarity: float = DEFAULT_SIMILARITY
    generation: int = 0

    @property
    def on(self) -> bool:
        return self.mode is not Mode.OFF and self.ttl_seconds > 0

    def sharer(self, caller: Caller) -> UUID | None:
        """Whose answers the caller may get; None when it can't be told, then nothing is shared."""
        match self.shared_by:
            case SharedBy.ORGANISATION:
                return self.organisation_id
            case SharedBy.API_KEY:
                return caller.api_key_id
            case SharedBy.CONTACT:
                return caller.scope.contact_id
