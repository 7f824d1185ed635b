"""Messages owned by llm-router: completions asked for and answered, and their usage."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from kairos_contracts.message import AwareTime, Command, Event, NanoUSD

Degraded = Literal["budget.clamped", "budget.cheaper", "budget.local"]
Outcome = Literal["settled", "released", "unknown"]


class ChatMessage(BaseModel):
    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class CompletionRequestV1(Command):
    """Answer these messages. The reply comes as completed or failed with the same completion id.

    `turn_id` and `epoch` are carried through untouched: they fence an answer off that comes too late.
    `deadline` is when the asker stops waiting; the router does not start an attempt after it.
    """

    TYPE: ClassVar[str] = "llm.completion.request.v1"
    completion_id: UUID
    turn_id: UUID
    conversation_id: UUID
    bot_id: UUID
    epoch: int
    project_id: UUID | None = None
    model: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    max_tokens: int = Field(gt=0)
    temperature: float | None = None
    deadline: AwareTime

    def aggregate_id(self) -> str:
        return str(self.conversation_id)


class CompletionCompletedV1(Event):
    TYPE: ClassVar[str] = "llm.completion.completed.v1"
    completion_id: UUID
    turn_id: UUID
    conversation_id: UUID
    bot_id: UUID
    epoch: int
    content: str
    finish_reason: str
    model: str
    deployment: str
    input_tokens: int
    output_tokens: int
    cost_nano_usd: NanoUSD
    degraded: Degraded | None = None
    latency_ms: int

    def aggregate_id(self) -> str:
        return str(self.conversation_id)


class CompletionFailedV1(Event):
    """No answer will come. `code` is an error code of the router's API, for example `budget_exceeded`."""

    TYPE: ClassVar[str] = "llm.completion.failed.v1"
    completion_id: UUID
    turn_id: UUID
    conversation_id: UUID
    bot_id: UUID
    epoch: int
    code: str
    message: str
    decision_id: UUID | None = None

    def aggregate_id(self) -> str:
        return str(self.conversation_id)


class UsageRecordedV1(Event):
    """One attempt's money and tokens. Idempotent by `attempt_id`.

    `lease_id` names the lease the hold was taken from; None when no budget applies.
    settled: `cost_nano_usd` is owed. released: nothing reached the provider, cost is 0.
    unknown: the provider may have answered; the whole hold counts until reconciled.
    """

    TYPE: ClassVar[str] = "llm.usage.recorded.v1"
    attempt_id: UUID
    completion_id: UUID
    lease_id: UUID | None
    project_id: UUID | None = None
    bot_id: UUID | None = None
    api_key_id: UUID | None = None
    model: str
    deployment: str
    provider: str
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    hold_nano_usd: NanoUSD = Field(ge=0)
    cost_nano_usd: NanoUSD = Field(ge=0)
    outcome: Outcome
    price_version: str
    status: int
    streaming: bool
    started_at: AwareTime
    latency_ms: int
    time_to_first_token_ms: int | None = None

    def aggregate_id(self) -> str:
        return str(self.attempt_id)
