"""What can answer a completion: deployments at providers, and routes over them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from kairos_router.domain.pricing import Price

Auth = Literal["bearer", "api-key", "none"]


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
    """Seconds. `first_byte` counts from the request to the response's head, `idle` between two pieces."""

    connect: float = 3.0
    first_byte: float = 60.0
    idle: float = 30.0


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


@dataclass(frozen=True, slots=True)
class Route:
    """An ordered choice of deployments under the name callers use as `model`."""

    name: str
    deployments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything the router may use right now. A change makes a new one, so a request sees one version."""

    deployments: Mapping[str, Deployment]
    routes: Mapping[str, Route]

    def candidates(self, model: str) -> tuple[Deployment, ...]:
        """The deployments behind a route's or a deployment's name, in order. Raises ModelNotFound."""
        route = self.routes.get(model)
        if route is not None:
            return tuple(self.deployments[name] for name in route.deployments)
        deployment = self.deployments.get(model)
        if deployment is None:
            raise ModelNotFound(model)
        return (deployment,)

    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.routes, *self.deployments)))
