"""A completion as the caller asks for it, and the bounds it has on a deployment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from kairos_router.domain.catalogue import Capability, Deployment
from kairos_router.domain.lease import Scope
from kairos_router.domain.pricing import Bounds, Usage, worst_case

# English text has about four bytes a token; three leave a third as margin, and hold for most scripts.
BYTES_PER_TOKEN = 3
# For the choice by context window only, where too high a guess would exclude a model that fits.
BYTES_PER_TOKEN_AT_MOST = 4
ESTIMATE_MARGIN_TOKENS = 8
MAX_CHOICES = 128

# What a provider is asked to do; the words of usage records.
Operation = Literal["chat", "responses", "embeddings"]


class InvalidAsk(ValueError):  # noqa: N818 - reads as the fact it states
    """The request can't be understood; it is refused before anything is reserved."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose account a completion runs."""

    scope: Scope
    api_key_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A validated request. `payload` is the caller's document; what we do not know passes through.

    `size` is the length of the encoded request in bytes: no tokenizer makes more tokens than bytes.
    `inputs` counts the texts of an embeddings request, each of which has the context window to itself;
    `longest` is the size of the longest, None where all of the request shares one window.
    `native` names the parameter that only a provider with the operation's own API can serve.
    """

    model: str
    payload: Mapping[str, Any]
    size: int
    max_tokens: int | None = None
    choices: int = 1
    stream: bool = False
    include_usage: bool = False
    images: int = 0
    needs: frozenset[Capability] = frozenset()
    operation: Operation = "chat"
    inputs: int = 1
    longest: int | None = None
    native: str | None = None


def _positive(payload: Mapping[str, Any], name: str, most: int | None = None) -> int | None:
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most and value > most):
        limit = f" of at most {most}" if most else ""
        raise InvalidAsk(f"'{name}' must be a positive integer{limit}", name)
    return value


def _images(messages: Sequence[Any]) -> int:
    parts = (
        part
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, dict)
    )
    return sum(1 for part in parts if part.get("type") in {"image_url", "input_image"})


def _needs(payload: Mapping[str, Any], images: int, *, stream: bool) -> frozenset[Capability]:
    response_format = payload.get("response_format")
    wanted = {
        Capability.TOOLS: bool(payload.get("tools")),
        Capability.VISION: images > 0,
        Capability.JSON: isinstance(response_format, dict) and response_format.get("type") != "text",
        Capability.STREAMING: stream,
    }
    return frozenset(capability for capability, needed in wanted.items() if needed)


def parse_ask(payload: object, size: int) -> Ask:
    """Read a chat completion request. Raises InvalidAsk."""
    if not isinstance(payload, dict):
        raise InvalidAsk("the body must be a JSON object")
    model = payload.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidAsk("you must provide a model parameter", "model")
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise InvalidAsk("'messages' must be a non-empty array of objects", "messages")
    stream = payload.get("stream") or False
    if not isinstance(stream, bool):
        raise InvalidAsk("'stream' must be a boolean", "stream")
    options = payload.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidAsk("'stream_options' must be an object", "stream_options")
    limits = [_positive(payload, name) for name in ("max_tokens", "max_completion_tokens")]
    images = _images(messages)
    return Ask(
        model=model,
        payload=payload,
        size=size,
        max_tokens=min((limit for limit in limits if limit is not None), default=None),
        choices=_positive(payload, "n", MAX_CHOICES) or 1,
        stream=stream,
        include_usage=bool(options and options.get("include_usage")),
        images=images,
        needs=_needs(payload, images, stream=stream),
    )


def max_tokens_on(ask: Ask, deployment: Deployment) -> int:
    """The output limit sent to this deployment when the budget does not ask for less."""
    if ask.operation == "embeddings":
        return 0
    return min(ask.max_tokens or deployment.max_output_tokens, deployment.max_output_tokens)


def bounds_on(ask: Ask, deployment: Deployment, max_tokens: int) -> Bounds:
    """The most tokens the attempt can use. A provider refuses input above its context window."""
    text = ask.size + ask.images * deployment.image_tokens + deployment.input_margin
    return Bounds(min(text, deployment.context_window * ask.inputs), max_tokens * ask.choices)


def hold_on(ask: Ask, deployment: Deployment, max_tokens: int) -> int:
    return worst_case(deployment.price, bounds_on(ask, deployment, max_tokens))


def tokens_in(size: int) -> int:
    """A count for text nobody counted, with margin, never 0."""
    return -(-size // BYTES_PER_TOKEN) + ESTIMATE_MARGIN_TOKENS


def estimate_usage(ask: Ask, deployment: Deployment, max_tokens: int, content_bytes: int) -> Usage:
    """What an answer without usage is charged: what was seen plus a margin, within the attempt's bounds."""
    bounds = bounds_on(ask, deployment, max_tokens)
    seen = tokens_in(ask.size) + ask.images * deployment.image_tokens
    return Usage(
        input_tokens=min(seen, bounds.input_tokens),
        output_tokens=min(tokens_in(content_bytes), bounds.output_tokens),
        estimated=True,
    )
