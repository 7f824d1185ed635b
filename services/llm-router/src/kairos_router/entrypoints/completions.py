"""The use cases as /v1 calls them."""

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Protocol, Self
from uuid import UUID

from kairos_router.application.complete_chat import CompleteChat
from kairos_router.application.explain_failure import Explanation, explain
from kairos_router.application.ports import CatalogueSource, Journal
from kairos_router.application.quota_ports import QuotaExceeded
from kairos_router.application.record_decision import Sparingly, decision_of
from kairos_router.application.stream_chat import StreamChat, Streaming
from kairos_router.domain.ask import Ask, Caller
from kairos_router.domain.attempt import Attempt
from kairos_router.domain.catalogue import ModelNotFound
from kairos_router.domain.decision import Decision
from kairos_router.domain.records import record
from kairos_router.entrypoints.openai_errors import INTERNAL, ErrorAnswer, Header, error_answer

UNKNOWN_ROUTE = "(unknown)"


@record
class Served:
    """A whole answer to a caller. `tokens` is what it used, input and output."""

    body: bytes
    headers: list[Header]
    tokens: int
    provider_seconds: float | None


class Flow(Protocol):
    """An answer piece by piece, from a provider or from a cache.

    Exactly one of these ends it: `next` returns b"", `next` raises ProviderFailed, `abandon` is called.
    """

    headers: list[Header]
    time_to_first_token: float

    @property
    def cost_so_far(self) -> int | None:
        """nano-USD once it is known."""
        ...

    @property
    def tokens(self) -> int | None:
        """What it used, once it has ended."""
        ...

    async def next(self) -> bytes:
        """Whole server-sent events, b"" at the end."""
        ...

    def abandon(self) -> None: ...


class _ProviderFlow:
    """A provider's stream as a Flow."""

    __slots__ = ("_streaming", "abandon", "headers", "next", "time_to_first_token")

    def __init__(self, streaming: Streaming) -> None:
        self._streaming = streaming
        self.headers = _attempt_headers(streaming.attempt)
        self.time_to_first_token = streaming.time_to_first_token
        # Bound once: a stream has many pieces, and a layer of coroutines would cost each of them.
        self.next = streaming.next
        self.abandon = streaming.abandon

    @property
    def cost_so_far(self) -> int | None:
        return self._streaming.cost_so_far

    @property
    def tokens(self) -> int | None:
        settlement = self._streaming.settlement
        return None if settlement is None else settlement.usage.input_tokens + settlement.usage.output_tokens


class Completions:
    """`record` takes a refusal without waiting; its id is in the answer already."""

    def __init__(
        self,
        complete: CompleteChat,
        stream: StreamChat,
        journal: Journal,
        catalogue: CatalogueSource,
        record: Callable[[Decision], None],
    ) -> None:
        self._complete = complete
        self._stream = stream
        self._journal = journal
        self._catalogue = catalogue
        self._record = record
        self._sparingly = Sparingly()

    async def complete(self, ask: Ask, caller: Caller, completion_id: UUID) -> Served:
        answer = await self._complete(ask, caller, completion_id, self._journal)
        settlement = answer.settlement
        headers = _attempt_headers(answer.attempt)
        headers.append((b"x-kairos-cost-nano-usd", b"%d" % settlement.cost))
        used = settlement.usage.input_tokens + settlement.usage.output_tokens
        return Served(answer.reply.body, headers, used, answer.provider_seconds)

    async def open(self, ask: Ask, caller: Caller, completion_id: UUID) -> Flow:
        return _ProviderFlow(await self._stream(ask, caller, completion_id, self._journal))

    def controlled(self, control: bytes) -> Self:  # noqa: ARG002 - see Answers: there is no cache here
        return self

    def label(self, model: str) -> str:
        """The model's name as a metric label: only names we know, so that labels stay bounded."""
        catalogue = self._catalogue.current()
        return model if model in catalogue.routes or model in catalogue.deployments else UNKNOWN_ROUTE

    def refusal(
        self, error: Exception, caller: Caller, completion_id: UUID, payload: Any
    ) -> ErrorAnswer | None:
        """The answer to an expected error, or None for one nobody foresaw."""
        explanation = explain(error)
        if explanation is None:
            return None
        headers = error.headers if isinstance(error, QuotaExceeded) else ()
        if isinstance(error, QuotaExceeded):
            reason = (caller.scope.organisation_id, error.quota)
            if not self._sparingly.allows(reason, monotonic()):
                return error_answer(explanation, headers=headers)
        model = payload.get("model") if isinstance(payload, dict) else None
        decision = decision_of(
            error, explanation.code, caller, completion_id, str(model or ""), datetime.now(UTC)
        )
        if decision is None:
            return error_answer(explanation)
        self._record(decision)
        return error_answer(explanation, decision.decision_id, headers=headers)

    def models(self, organisation_id: UUID | None = None) -> dict[str, dict[str, Any]]:
        return {
            name: {"id": name, "object": "model", "created": 0, "owned_by": "kairos"}
            for name in self._catalogue.current(organisation_id).models()
        }

    def unknown_model(self, name: str) -> Explanation:
        return explain(ModelNotFound(name)) or INTERNAL


def _attempt_headers(attempt: Attempt) -> list[Header]:
    headers = [(b"x-kairos-deployment", attempt.deployment.name.encode())]
    if attempt.degraded:
        headers.append((b"x-kairos-degraded", attempt.degraded.encode()))
    return headers
