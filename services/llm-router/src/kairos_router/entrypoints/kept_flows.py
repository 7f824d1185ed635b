"""Answers that come from the cache, and answers on their way into it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import orjson

from kairos_router.application.cache_ports import Kept
from kairos_router.domain.ask import Ask, Caller
from kairos_router.domain.replay import Assembly
from kairos_router.entrypoints.completions import Flow
from kairos_router.entrypoints.openai_errors import Header

MISS: Header = (b"x-kairos-cache", b"miss")


@dataclass(frozen=True, slots=True)
class Found:
    """A kept answer for this request. `kind` is exact or semantic, `seconds` what looking took."""

    kept: Kept
    kind: str
    seconds: float

    @property
    def headers(self) -> list[Header]:
        return [
            (b"x-kairos-deployment", self.kept.deployment.encode()),
            (b"x-kairos-cost-nano-usd", b"0"),
            (b"x-kairos-cache", b"hit" if self.kind == "exact" else b"semantic"),
        ]


class Replay:
    """A kept answer as a Flow."""

    time_to_first_token = 0.0
    cost_so_far = 0
    tokens = 0

    def __init__(self, headers: list[Header], events: list[bytes]) -> None:
        self.headers = headers
        self._events = iter(events)

    async def next(self) -> bytes:
        return next(self._events, b"")

    def abandon(self) -> None:
        """There is nobody to let go of."""


class Recorded:
    """A provider's flow that is kept when it has come to its end."""

    def __init__(self, flow: Flow, ended: Callable[[bytes | None], None]) -> None:
        self.headers = [*flow.headers, MISS]
        self.time_to_first_token = flow.time_to_first_token
        self._flow = flow
        self._assembly = Assembly()
        self._ended: Callable[[bytes | None], None] | None = ended

    @property
    def cost_so_far(self) -> int | None:
        return self._flow.cost_so_far

    @property
    def tokens(self) -> int | None:
        return self._flow.tokens

    async def next(self) -> bytes:
        try:
            piece = await self._flow.next()
        except BaseException:
            self._end(None)
            raise
        if piece:
            self._feed(piece)
        else:
            document = self._assembly.document()
            self._end(None if document is None else orjson.dumps(document))
        return piece

    def abandon(self) -> None:
        self._flow.abandon()
        self._end(None)

    def _feed(self, piece: bytes) -> None:
        for line in piece.splitlines():
            if not line.startswith(b"data:") or line.endswith(b"[DONE]"):
                continue
            try:
                self._assembly.feed(orjson.loads(line[5:]))
            except orjson.JSONDecodeError:
                self._assembly.lossy = True

    def _end(self, body: bytes | None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(body)


def usage_fields_of_hit(
    ask: Ask, caller: Caller, completion_id: UUID, kept: Kept, kind: str, seconds: float
) -> dict[str, Any]:
    """The fields of UsageRecordedV1 for an answer from the cache: it has tokens and costs nothing."""
    scope = caller.scope
    return {
        "attempt_id": uuid4(),
        "completion_id": completion_id,
        "lease_id": None,
        "project_id": scope.project_id,
        "bot_id": scope.bot_id,
        "team_id": scope.team_id,
        "contact_id": scope.contact_id,
        "api_key_id": caller.api_key_id,
        "model": kept.model,
        "deployment": kept.deployment,
        "provider": kept.provider,
        "input_tokens": kept.input_tokens,
        "output_tokens": kept.output_tokens,
        "hold_nano_usd": 0,
        "cost_nano_usd": 0,
        "outcome": "settled",
        "price_version": kept.price_version,
        "status": 200,
        "streaming": ask.stream,
        "latency_ms": int(seconds * 1000),
        "route": ask.model,
        "operation": ask.operation,
        "cache": kind,
    }
