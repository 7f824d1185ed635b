"""Deployments and routes as the file and the API write them, and what they become."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PlainSerializer, Tag

from kairos_router.application.price_documents import PriceDocument
from kairos_router.domain.catalogue import (
    Auth,
    Balance,
    Capability,
    Deployment,
    Dialect,
    Policy,
    Priority,
    Retries,
    Route,
    Timeouts,
)
from kairos_router.domain.pricing import Price

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")

# A name travels in a response header and in metrics.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
PriceName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s\x00]+$")]
Text = Annotated[str, Field(max_length=500, pattern=r"^[^\x00\r\n]*$")]
Texts = Annotated[dict[Text, Text], Field(max_length=50)]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Kind = Literal["deployment", "route", "price"]
MOST_TOKENS = 1 << 30
# A set has another order in every process; a document that is stored and compared has one.
InOrder = PlainSerializer(sorted, return_type=list[str], when_used="json")


def _name_or_document(value: object) -> str:
    """Which of both somebody means: an error is then told about that one only."""
    return "name" if isinstance(value, str) else "document"


PriceOrName = Annotated[
    Annotated[PriceDocument, Tag("document")] | Annotated[PriceName, Tag("name")],
    Discriminator(_name_or_document),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeoutDocument(Section):
    """Seconds. `first_token` is for streams, from the request to the first event; `total` for all of it."""

    connect: float = Field(3.0, gt=0, le=60)
    first_byte: float = Field(60.0, gt=0, le=3_600)
    idle: float = Field(30.0, gt=0, le=3_600)
    first_token: float | None = Field(None, gt=0, le=3_600)
    total: float | None = Field(None, gt=0, le=86_400)


class DeploymentDocument(Section):
    """A model at a provider.

    `price` is a price of its own, the name of one in the price book, or absent: then the book is asked
    for `provider/model` and `model`. `max_concurrency` limits calls per router process, `retries` are
    on this deployment before the next one is tried. `tokenizer` counts its input exactly; OpenAI's own
    models need not name theirs. A key never stands here, only its variable's name.
    """

    kind: Literal["simulator", "openai", "litellm", "local"]
    model: Annotated[str, Field(min_length=1, max_length=200)]
    price: PriceOrName | None = None
    provider: Name = "openai"
    base_url: Text = ""
    api_key_env: EnvironmentName | None = None
    stand_in: bool = False
    context_window: int = Field(gt=0, le=MOST_TOKENS)
    max_output_tokens: int = Field(gt=0, le=MOST_TOKENS)
    capabilities: Annotated[frozenset[Capability], InOrder] = frozenset({Capability.STREAMING})
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    image_tokens: int = Field(2_048, gt=0, le=MOST_TOKENS)
    latency_ms: int = Field(0, ge=0, le=600_000)
    timeouts: TimeoutDocument = TimeoutDocument()
    max_concurrency: int | None = Field(None, gt=0, le=1_000_000)
    retries: int = Field(0, ge=0, le=5)
    tokenizer: Literal["cl100k_base", "o200k_base"] | None = None
    stream_lead_tokens: Annotated[int, Field(gt=0)] | None = None
    stream_chunk_tokens: Annotated[int, Field(gt=0)] | None = None
    path: Text = "/{operation}"
    query: Texts = {}
    headers: Texts = {}
    auth: Auth = "bearer"
    strip: Annotated[frozenset[Text], InOrder] = frozenset()
    options: Texts = {}


class TargetDocument(Section):
    """A deployment of a route. `weight` is for the weighted policy, `canary` its percentage of requests."""

    name: Name
    weight: int = Field(1, gt=0, le=1_000_000)
    canary: int | None = Field(None, ge=0, le=100)


Target = Annotated[
    Annotated[TargetDocument, Tag("document")] | Annotated[Name, Tag("name")],
    Discriminator(_name_or_document),
]


class BalanceDocument(Section):
    cost: int = Field(1, ge=0, le=1_000)
    latency: int = Field(1, ge=0, le=1_000)
    quality: int = Field(1, ge=0, le=1_000)


class RetriesDocument(Section):
    percent: int = Field(20, ge=0, le=100)
    burst: int = Field(10, ge=0, le=10_000)


class RouteDocument(Section):
    """A choice of deployments, by name or with weights, and how it is made; see domain.catalogue.Route."""

    deployments: tuple[Target, ...] = Field(min_length=1, max_length=100)
    policy: Policy = "fixed"
    sticky: bool = False
    balance: BalanceDocument = BalanceDocument()
    retries: RetriesDocument = RetriesDocument()
    fallbacks: tuple[Name, ...] = Field((), max_length=20)
    priority: Priority | None = None

    def targets(self) -> tuple[TargetDocument, ...]:
        return tuple(
            each if isinstance(each, TargetDocument) else TargetDocument(name=each)
            for each in self.deployments
        )

    def names(self) -> tuple[str, ...]:
        return tuple(target.name for target in self.targets())


@dataclass(frozen=True, slots=True)
class Sealed:
    """`key_id` names the key it was sealed under and says nothing about it."""

    key_id: str
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the catalogue. Without an organisation it is shared. `version` grows with every change."""

    organisation_id: UUID | None
    kind: Kind
    name: str
    document: Mapping[str, Any]
    version: int = 1
    price_version: str | None = None
    sealed: Sealed | None = None

    @property
    def bound_to(self) -> str:
        """The one place the entry's key can be opened for."""
        return f"{self.organisation_id}/{self.kind}/{self.name}"


class Unset(LookupError):  # noqa: N818 - reads as the fact it states
    """A variable without a default is not set: the deployment is absent."""


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace ${NAME} and ${NAME:-default}. Raises Unset."""

    def value(match: re.Match[str]) -> str:
        found = environment.get(match["name"]) or match["default"]
        if found is None:
            raise Unset(match["name"])
        return found

    return _VARIABLE.sub(value, text)


_ENCODINGS = (
    (("gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "chatgpt-4o", "o1", "o3", "o4"), "o200k_base"),
    (("gpt-4", "gpt-3.5", "text-embedding-3", "text-embedding-ada"), "cl100k_base"),
)


def _tokenizer(provider: str, model: str) -> str | None:
    """The encoding OpenAI names for its models; other families have no published one."""
    if provider not in {"openai", "azure"}:
        return None
    return next((encoding for names, encoding in _ENCODINGS if model.startswith(names)), None)


def build_deployment(
    entry: Entry,
    document: DeploymentDocument,
    price: Price,
    api_key: str | None,
    text: Callable[[str], str],
) -> Deployment:
    """`text` reads the strings a variable may stand in. Raises Unset."""

    def pairs(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return tuple((name, text(value)) for name, value in values.items())

    return Deployment(
        name=entry.name,
        kind=document.kind,
        model=text(document.model),
        price=price,
        provider=document.provider,
        base_url=text(document.base_url),
        api_key=api_key,
        context_window=document.context_window,
        max_output_tokens=document.max_output_tokens,
        capabilities=document.capabilities,
        max_tokens_field=document.max_tokens_field,
        image_tokens=document.image_tokens,
        latency_ms=document.latency_ms,
        timeouts=Timeouts(**document.timeouts.model_dump()),
        max_concurrency=document.max_concurrency,
        retries=document.retries,
        stream_lead_tokens=document.stream_lead_tokens,
        stream_chunk_tokens=document.stream_chunk_tokens,
        tokenizer=document.tokenizer or _tokenizer(document.provider, text(document.model)),
        owner=entry.organisation_id,
        dialect=Dialect(
            path=document.path,
            query=pairs(document.query),
            headers=pairs(document.headers),
            auth=document.auth,
            strip=document.strip,
            options=pairs(document.options),
        ),
    )


def build_route(entry: Entry, document: RouteDocument, present: Mapping[str, bool]) -> Route | None:
    """The route over what is present, None when nothing is.

    `present` tells of each deployment there is whether it is a stand-in, which serves a route only
    where nothing else does.
    """
    targets = [target for target in document.targets() if target.name in present]
    targets = [target for target in targets if not present[target.name]] or targets
    if not targets:
        return None
    return Route(
        name=entry.name,
        deployments=tuple(target.name for target in targets),
        policy=document.policy,
        weights=tuple(target.weight for target in targets),
        canaries=tuple((target.name, target.canary) for target in targets if target.canary is not None),
        sticky=document.sticky,
        balance=Balance(**document.balance.model_dump()),
        retries=Retries(**document.retries.model_dump()),
        fallbacks=document.fallbacks,
        priority=document.priority,
        owner=entry.organisation_id,
    )
