"""What can answer a completion: deployments at providers, and routes over them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from uuid import UUID

from kairos_router.domain.pricing import Price

Auth = Literal["bearer", "api-key", "none"]
Policy = Literal["fixed", "weighted", "cost", "latency", "quality", "balanced"]
# A request's claim on money that runs short, smallest first: a batch stops before a customer does.
Priority = Literal["batch", "normal", "interactive"]


class Capability(StrEnum):
    """What a deployment can do. One with `embeddings` answers completions only when it lists `chat` too."""

    CHAT = "chat"
    TOOLS = "tools"
    VISION = "vision"
    JSON = "json"
    JSON_SCHEMA = "json_schema"
    AUDIO = "audio"
    STREAMING = "streaming"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"


class ModelNotFound(LookupError):  # noqa: N818 - reads as the fact it states
    """No route and no deployment has this name; the request is refused."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `first_byte` counts from the request to the response's head, `idle` between two pieces.

    `first_token` counts from the request to a stream's first event, `total` to the end of the attempt.
    """

    connect: float = 3.0
    first_byte: float = 60.0
    idle: float = 30.0
    first_token: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a provider departs from OpenAI's way to be called.

    `path` follows the base address; `{operation}` is OpenAI's own path (chat/completions, embeddings,
    responses) and `{model}` the deployment's model. `auth` is the header that carries the key.
    `strip` names request fields the provider refuses. `options` go to the SDK of kind `litellm`.
    """

    path: str = "/{operation}"
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    auth: Auth = "bearer"
    strip: frozenset[str] = frozenset()
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model at a provider.

    `api_key` is the secret itself and stays out of repr. `max_tokens_field` is the request field this
    provider takes the output limit from. `image_tokens` bounds the input tokens of one image.
    `input_margin` covers what a provider's chat template adds to the bytes we send.
    `tokenizer` names the encoding that counts its tokens exactly, None when nobody knows it.
    `stream_lead_tokens` is the most tokens it can be ahead of what was read of a stream, also after the
    connection was closed; with it, streams hold `stream_chunk_tokens` at a time instead of everything.
    """

    name: str
    kind: str
    model: str
    price: Price
    provider: str = "openai"
    base_url: str = ""
    api_key: str | None = field(default=None, repr=False)
    context_window: int = 8_192
    max_output_tokens: int = 1_024
    capabilities: frozenset[Capability] = frozenset({Capability.STREAMING})
    max_tokens_field: str = "max_tokens"
    image_tokens: int = 2_048
    input_margin: int = 256
    latency_ms: int = 0
    timeouts: Timeouts = Timeouts()
    dialect: Dialect = Dialect()
    max_concurrency: int | None = None
    retries: int = 0
    tokenizer: str | None = None
    owner: UUID | None = None
    stream_lead_tokens: int | None = None
    stream_chunk_tokens: int | None = None

    @property
    def uid(self) -> str:
        """Unique among all organisations; own deployments of two of them may have one name."""
        return self.name if self.owner is None else f"{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Balance:
    """How much cost, latency and quality count on a balanced route, relative to one another."""

    cost: int = 1
    latency: int = 1
    quality: int = 1


@dataclass(frozen=True, slots=True)
class Retries:
    """Retries on the same deployment: at most `percent` of the route's answers, after `burst` free ones."""

    percent: int = 20
    burst: int = 10


@dataclass(frozen=True, slots=True)
class Route:
    """A choice of deployments under the name callers use as `model`.

    `policy` ranks them: fixed keeps their order, weighted draws by `weights` (of the same order).
    `canaries` get that percentage of requests first and are asked last by all others.
    `sticky` keeps the requests of one conversation, contact or key on one deployment.
    When all have failed, the deployments of the routes in `fallbacks` follow.
    """

    name: str
    deployments: tuple[str, ...]
    policy: Policy = "fixed"
    weights: tuple[int, ...] = ()
    canaries: tuple[tuple[str, int], ...] = ()
    sticky: bool = False
    balance: Balance = Balance()
    retries: Retries = Retries()
    fallbacks: tuple[str, ...] = ()
    priority: Priority | None = None
    owner: UUID | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A route with its deployments; `plain` when their order is always the same."""

    route: Route
    deployments: tuple[Deployment, ...]
    plain: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What may answer under a name: the route's own deployments first, then those of its fallbacks.

    `all` is every deployment once, in that order. `plain` when there is nothing to rank. `fingerprint` is
    the same in every process and version of the catalogue while the same models answer.
    """

    name: str
    stages: tuple[Stage, ...]
    all: tuple[Deployment, ...]
    plain: bool
    fingerprint: str

    @property
    def route(self) -> Route:
        return self.stages[0].route


@dataclass(frozen=True)
class Catalogue:
    """Everything the router may use right now. A change makes a new one, so a request sees one version.

    `quality` is what scores of answers say about deployments, by name, from 0 to 1.
    """

    deployments: Mapping[str, Deployment]
    routes: Mapping[str, Route]
    quality: Mapping[str, float] = field(default_factory=dict)
    _choices: dict[str, Choice] = field(default_factory=dict, init=False, repr=False, compare=False)

    def choice(self, model: str) -> Choice:
        """What is behind a route's or a deployment's name. Raises ModelNotFound."""
        found = self._choices.get(model)
        if found is None:
            # Worked out once per version of the catalogue. Unknown names are not kept: callers invent them.
            found = self._choices[model] = self._choice(model)
        return found

    def candidates(self, model: str) -> tuple[Deployment, ...]:
        """The deployments behind a name, in order. Raises ModelNotFound."""
        return self.choice(model).all

    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.routes, *self.deployments)))

    def _choice(self, model: str) -> Choice:
        route = self.routes.get(model)
        if route is None:
            deployment = self.deployments.get(model)
            if deployment is None:
                raise ModelNotFound(model)
            route = Route(model, (model,))
        chain = [route, *(self.routes[name] for name in route.fallbacks if name in self.routes)]
        seen: set[str] = set()
        stages = []
        for each in chain:
            members = tuple(self.deployments[name] for name in each.deployments if name not in seen)
            seen.update(each.deployments)
            if members:
                plain = each.policy == "fixed" and not each.canaries and not each.sticky
                stages.append(Stage(each, members, plain or len(members) == 1))
        everybody = tuple(deployment for stage in stages for deployment in stage.deployments)
        return Choice(
            model, tuple(stages), everybody, all(stage.plain for stage in stages), _fingerprint(everybody)
        )


def _fingerprint(deployments: Sequence[Deployment]) -> str:
    """Who answers; prices, limits and health may change without the answers becoming others."""
    told = [
        (each.uid, each.kind, each.provider, each.model, each.base_url, each.dialect.path, each.dialect.query)
        for each in deployments
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()
