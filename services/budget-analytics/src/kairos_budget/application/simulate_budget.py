"""Try a budget on the traffic of the past."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from kairos_budget.domain.budget import Scope
from kairos_budget.domain.simulation import PastAttempts, Replay, Simulation, Terms
from kairos_budget.domain.span import Span

Method = Literal["attempts", "minutes", "hours", "days"]
# So many attempts are replayed one by one; beyond them, rollups answer.
MOST_ATTEMPTS = 200_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """Whose past traffic is replayed. `model` names it where a model is limited."""

    organisation_id: UUID
    scope: Scope
    scope_id: UUID
    model: str | None
    span: Span


class TrafficTooLarge(LookupError):  # noqa: N818 - reads as the fact it states
    """Too many attempts to replay, and rollups do not tell this scope apart; the request is refused."""


class Past(Protocol):
    def replay(
        self, traffic: Traffic, most: int
    ) -> AbstractAsyncContextManager[tuple[Method, AsyncIterator[PastAttempts]]]:
        """Traffic in time order and how exact it is: each attempt up to `most` of them, else rollups.

        Raises TrafficTooLarge.
        """


@dataclass(frozen=True, slots=True)
class SimulateBudget:
    past: Past

    async def __call__(self, traffic: Traffic, terms: Terms) -> tuple[Method, Simulation]:
        """Reads only; nothing is created or leased."""
        replay = Replay(terms)
        async with self.past.replay(traffic, MOST_ATTEMPTS) as (method, attempts):
            async for each in attempts:
                replay.take(each)
        return method, replay.result
