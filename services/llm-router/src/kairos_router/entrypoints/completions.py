"""The use cases as /v1 calls them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from kairos_router.application.answer_completion import refusal as decision_of
from kairos_router.application.choose_deployment import Refused
from kairos_router.application.complete_chat import Answer, CompleteChat
from kairos_router.application.explain_failure import Explanation, explain
from kairos_router.application.ports import CatalogueSource, Journal
from kairos_router.application.stream_chat import StreamChat, Streaming
from kairos_router.domain.ask import Ask, Caller
from kairos_router.domain.catalogue import ModelNotFound
from kairos_router.domain.decision import Decision
from kairos_router.entrypoints.openai_errors import INTERNAL, ErrorAnswer, error_answer

UNKNOWN_ROUTE = "(unknown)"


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

    async def complete(self, ask: Ask, caller: Caller, completion_id: UUID) -> Answer:
        return await self._complete(ask, caller, completion_id, self._journal)

    async def open(self, ask: Ask, caller: Caller, completion_id: UUID) -> Streaming:
        return await self._stream(ask, caller, completion_id, self._journal)

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
        if not isinstance(error, Refused):
            return error_answer(explanation)
        decision = decision_of(error, caller, completion_id, str(payload["model"]), datetime.now(UTC))
        self._record(decision)
        return error_answer(explanation, decision.decision_id)

    def models(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"id": name, "object": "model", "created": 0, "owned_by": "kairos"}
            for name in self._catalogue.current().models()
        }

    def unknown_model(self, name: str) -> Explanation:
        return explain(ModelNotFound(name)) or INTERNAL
