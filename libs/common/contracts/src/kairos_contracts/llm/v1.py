"""Messages owned by llm-router: completions asked for and answered, and their usage."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from kairos_contracts.message import AwareTime, Command, Event, NanoUSD

Degraded = Literal["budget.clamped", "budget.cheaper", "budget.local"]
Outcome = Literal["settled", "released", "unknown"]
Operation = Literal["chat", "responses", "embeddings"]
CacheHit = Literal["exact", "semantic"]
# A request's claim on money that runs short: a batch stops first, an interactive customer last.
Priority = Literal["batch", "normal", "interactive"]


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
    team_id: UUID | None = None
    contact_id: UUID | None = None
    priority: Priority = "normal"

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

    Cached, cache-write and audio tokens are part of the input, reasoning and audio tokens of the output.
    `estimated`: counted by the router because the provider's figures never came. An answer from the
    cache names its kind in `cache`, costs nothing, and has an attempt id although no provider was called.
    `error` is an error code of the router's API when the attempt gave no answer.
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
    team_id: UUID | None = None
    contact_id: UUID | None = None
    route: str | None = None
    operation: Operation = "chat"
    priority: Priority = "normal"
    cached_input_tokens: int = Field(default=0, ge=0)
    cache_write_tokens: int = Field(default=0, ge=0)
    reasoning_tokens: int = Field(default=0, ge=0)
    audio_input_tokens: int = Field(default=0, ge=0)
    audio_output_tokens: int = Field(default=0, ge=0)
    estimated: bool = False
    cache: CacheHit | None = None
    error: str | None = None

    def aggregate_id(self) -> str:
        return str(self.attempt_id)


class UsageBatchRecordedV1(Event):
    """Many attempts of one organisation in one message: what a busy router reports.

    `batch_id` is the message's id too. Each record keeps its own idempotency by `attempt_id`.
    """

    TYPE: ClassVar[str] = "llm.usage_batch.recorded.v1"
    batch_id: UUID
    records: tuple[UsageRecordedV1, ...] = Field(min_length=1)

    def aggregate_id(self) -> str:
        return str(self.batch_id)


class CatalogueChangedV1(Event):
    """A deployment, route or price was created, changed or deleted; routers read the catalogue anew."""

    TYPE: ClassVar[str] = "llm.catalogue.changed.v1"
    kind: Literal["deployment", "route", "price"]
    name: str
    change: Literal["created", "changed", "deleted"]

    def aggregate_id(self) -> str:
        return f"{self.kind}:{self.name}"


class CircuitChangedV1(Event):
    """A router process opened or closed its circuit to a deployment; others take it as a hint."""

    TYPE: ClassVar[str] = "llm.circuit.changed.v1"
    deployment: str
    state: Literal["open", "closed"]
    holder: str
    reason: str | None = None

    def aggregate_id(self) -> str:
        return self.deployment


class CacheTtlChangedV1(Event):
    """How long answers stay in the cache changed. `route` is None for the organisation's default."""

    TYPE: ClassVar[str] = "cache.ttl.changed.v1"
    route: str | None
    ttl_seconds: int = Field(ge=0)

    def aggregate_id(self) -> str:
        return self.route or "*"


class QuotaChangedV1(Event):
    """A quota was created, changed or deleted; routers read the organisation's quotas anew."""

    TYPE: ClassVar[str] = "llm.quota.changed.v1"
    quota_id: UUID

    def aggregate_id(self) -> str:
        return str(self.quota_id)
