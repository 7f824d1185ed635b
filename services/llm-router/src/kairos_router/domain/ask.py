"""A completion as the caller asks for it, and the bounds it has on a deployment."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from kairos_router.domain.catalogue import Capability, Deployment, Priority
from kairos_router.domain.lease import Scope
from kairos_router.domain.pricing import (
    ANYTHING,
    AUDIO_IN,
    AUDIO_OUT,
    CACHE_WRITES,
    IMAGES_IN,
    IMAGES_OUT,
    PLAIN,
    STANDARD,
    Bounds,
    Usage,
    worst_case,
)
from kairos_router.domain.records import record

# English text has about four bytes a token; three leave a third as margin, and hold for most scripts.
BYTES_PER_TOKEN = 3
# For the choice by context window only, where too high a guess would exclude a model that fits: prose has
# up to six, and what this lets through is counted.
BYTES_PER_TOKEN_AT_MOST = 8
ESTIMATE_MARGIN_TOKENS = 8
MAX_CHOICES = 128
# The most calls of a paid tool one request may make, unless it names a smaller number itself.
MAX_TOOL_CALLS = 16

# Models of the BERT family put a token before and one after each input of an embeddings request.
MARKS_PER_INPUT = 2
# Windows of input a tool may read at the provider that nobody has a price of.
UNPRICED_TOOL_CALLS = 4

PRIORITIES: tuple[Priority, ...] = ("batch", "normal", "interactive")
# What a provider is asked to do; the words of usage records.
Operation = Literal["chat", "responses", "embeddings"]


class InvalidAsk(ValueError):  # noqa: N818 - reads as the fact it states
    """The request can't be understood; it is refused before anything is reserved."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@record
class Caller:
    """On whose account a completion runs.

    `priority` None takes the route's. `affinity` is whose requests a sticky route keeps on one deployment:
    a conversation, a contact or a key.
    """

    scope: Scope
    api_key_id: UUID | None = None
    priority: Priority | None = None
    affinity: UUID | None = None


@record
class Ask:
    """A validated request. `payload` is the caller's document; what we do not know passes through.

    `size` is the length of the encoded request in bytes: no tokenizer makes more tokens than bytes.
    `inputs` counts the texts of an embeddings request, each of which has the context window to itself;
    `longest` is the size of the longest, None where all of the request shares one window.
    `native` names the parameter that only a provider with the operation's own API can serve.
    `kinds` says which dearer kinds of tokens the request can cause (see pricing), `tool_calls` the most
    calls of paid tools, `service` the service tier asked for.
    `tokens` is how many tokens the text really has, once counted, by the `tokenizer` of that name.
    `opaque`: its bytes do not bound its tokens, as with files by id or what a search finds; only the context
    window does. `predicted` is how many tokens of a foretold answer may be charged beside the real one.
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
    kinds: int = PLAIN
    tool_calls: tuple[tuple[str, int], ...] = ()
    service: str = STANDARD
    tokens: int | None = None
    tokenizer: str | None = None
    opaque: bool = False
    predicted: int = 0


def _positive(payload: Mapping[str, Any], name: str, most: int | None = None) -> int | None:
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most and value > most):
        limit = f" of at most {most}" if most else ""
        raise InvalidAsk(f"'{name}' must be a positive integer{limit}", name)
    return value


_PART_KINDS = {
    "image_url": IMAGES_IN,
    "input_image": IMAGES_IN,
    "input_audio": AUDIO_IN,
    "audio_url": AUDIO_IN,
}


def kinds_of_parts(messages: Sequence[Any]) -> tuple[int, int]:
    """Which dearer kinds of input the messages hold, and how many images."""
    kinds = images = 0
    for message in messages:
        content = message.get("content")
        if not isinstance(content, list):
            continue
        for part in content:
            kind = _PART_KINDS.get(str(part.get("type")), PLAIN) if isinstance(part, dict) else PLAIN
            images += kind == IMAGES_IN
            kinds |= kind
    return kinds, images


_WHOLE_PARTS = frozenset({"text", "refusal", "thinking", "input_text", "output_text", "input_audio"})


def opaque_kinds(messages: Sequence[Any]) -> int | None:
    """The kinds of what stands elsewhere or is packed, so that its size tells nothing; None without any."""
    found: int | None = None
    for message in messages:
        if message.get("audio"):
            found = (found or PLAIN) | AUDIO_IN  # An earlier answer's, by its id.
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = str(part.get("type")) if isinstance(part, dict) else "text"
            if kind in _WHOLE_PARTS or _PART_KINDS.get(kind) == IMAGES_IN:
                continue
            found = (found or PLAIN) | (IMAGES_IN if "file" in kind else IMAGES_IN | AUDIO_IN)
    return found


def kinds_of_answer(payload: Mapping[str, Any]) -> int:
    """Which dearer kinds of output the request asks for."""
    modalities = payload.get("modalities")
    if not isinstance(modalities, list):
        return PLAIN
    return (AUDIO_OUT if "audio" in modalities else 0) | (IMAGES_OUT if "image" in modalities else 0)


def service_of(payload: Mapping[str, Any]) -> str:
    """The service tier asked for. What nobody has a rate for costs the standard rate."""
    tier = payload.get("service_tier")
    return tier if isinstance(tier, str) and tier in {"batch", "flex", "priority"} else STANDARD


def paid_tools(payload: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Tools the provider runs and charges by the call, with the most calls the request allows."""
    found: dict[str, int] = {}
    options = payload.get("web_search_options")
    if isinstance(options, dict):
        found[f"web_search.{options.get('search_context_size') or 'medium'}"] = 1
    tools = payload.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, dict) else None
        name = next((name for name in _PAID_TOOLS if isinstance(kind, str) and kind.startswith(name)), None)
        if name is None:
            continue
        if name == "web_search":
            name = f"web_search.{tool.get('search_context_size') or 'medium'}"
        limits = [
            _positive(of, key, MAX_CHOICES) for of, key in ((tool, "max_uses"), (payload, "max_tool_calls"))
        ]
        most = max((limit for limit in limits if limit is not None), default=MAX_TOOL_CALLS)
        found[name] = max(found.get(name, 0), most)
    return tuple(found.items())


def hosted_rounds(payload: Mapping[str, Any], paid: Sequence[tuple[str, int]]) -> int:
    """How often the provider may read the input again for tools it runs itself; 0 when it runs none."""
    tools = payload.get("tools")
    kinds = [tool.get("type") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    hosted = [str(kind) for kind in kinds if kind not in (None, "function", "custom")]
    if not hosted:
        return 0
    unpriced = not all(kind.startswith(_PAID_TOOLS) for kind in hosted)
    return sum(calls for _, calls in paid) + (UNPRICED_TOOL_CALLS if unpriced else 0)


_PAID_TOOLS = ("web_search", "file_search", "code_interpreter")


def _needs(payload: Mapping[str, Any], kinds: int, *, stream: bool) -> frozenset[Capability]:
    response_format = payload.get("response_format")
    form = response_format.get("type") if isinstance(response_format, dict) else None
    # `functions` is what tools were called before there were others.
    tools = payload.get("tools") or payload.get("functions")
    if not (kinds or form or stream or tools):
        return _NOTHING
    wanted = {
        Capability.TOOLS: bool(tools),
        Capability.VISION: bool(kinds & IMAGES_IN),
        Capability.AUDIO: bool(kinds & (AUDIO_IN | AUDIO_OUT)),
        Capability.JSON: form is not None and form != "text",
        Capability.JSON_SCHEMA: form == "json_schema",
        Capability.STREAMING: stream,
    }
    return frozenset(capability for capability, needed in wanted.items() if needed)


_NOTHING: frozenset[Capability] = frozenset()
_STREAMS = frozenset({Capability.STREAMING})
# What makes nothing dearer and needs no capability. Everything else is looked at one by one.
_PLAIN_FIELDS = frozenset(
    {
        "frequency_penalty",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "user",
    }
)


def _is_plain(payload: dict[str, Any], messages: Sequence[dict[str, Any]]) -> bool:
    """Whether the request is text alone, so that there is nothing more to find in it."""
    if not payload.keys() <= _PLAIN_FIELDS:
        return False
    return all(type(each.get("content")) is str and not each.get("audio") for each in messages)


def parse_ask(payload: object, size: int) -> Ask:
    """Read a chat completion request. Raises InvalidAsk."""
    if not isinstance(payload, dict):
        raise InvalidAsk("the body must be a JSON object")
    model = payload.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidAsk("you must provide a model parameter", "model")
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages or set(map(type, messages)) != {dict}:
        raise InvalidAsk("'messages' must be a non-empty array of objects", "messages")
    stream = payload.get("stream") or False
    if not isinstance(stream, bool):
        raise InvalidAsk("'stream' must be a boolean", "stream")
    options = payload.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidAsk("'stream_options' must be an object", "stream_options")
    max_tokens = _positive(payload, "max_tokens")
    if "max_completion_tokens" in payload:
        other = _positive(payload, "max_completion_tokens")
        max_tokens = min(max_tokens or other, other) if other is not None else max_tokens
    include_usage = bool(options and options.get("include_usage"))
    if _is_plain(payload, messages):
        needs = _STREAMS if stream else _NOTHING
        return Ask(model, payload, size, max_tokens, 1, stream, include_usage, needs=needs)
    kinds, images = kinds_of_parts(messages)
    kinds |= kinds_of_answer(payload)
    calls, elsewhere = paid_tools(payload), opaque_kinds(messages)
    rounds = hosted_rounds(payload, calls)
    return Ask(
        model=model,
        payload=payload,
        size=size,
        max_tokens=max_tokens,
        choices=_positive(payload, "n", MAX_CHOICES) or 1,
        stream=stream,
        include_usage=include_usage,
        images=images,
        needs=_needs(payload, kinds, stream=stream),
        kinds=ANYTHING if rounds else kinds | (elsewhere or PLAIN),
        tool_calls=calls,
        service=service_of(payload),
        inputs=rounds + 1,
        opaque=bool(calls or rounds) or elsewhere is not None,
        predicted=size if payload.get("prediction") else 0,
    )


def max_tokens_on(ask: Ask, deployment: Deployment) -> int:
    """The output limit sent to this deployment when the budget does not ask for less."""
    if ask.operation == "embeddings":
        return 0
    return min(ask.max_tokens or deployment.max_output_tokens, deployment.max_output_tokens)


def bounds_on(ask: Ask, deployment: Deployment, max_tokens: int) -> Bounds:
    """The most tokens the attempt can use. A provider refuses input above its context window."""
    size = ask.size
    if ask.tokens is not None and ask.tokenizer == deployment.tokenizer and ask.longest is None:
        size = min(size, ask.tokens)
    text = size + ask.images * deployment.image_tokens + deployment.input_margin
    if ask.operation == "embeddings":
        text += MARKS_PER_INPUT * ask.inputs
    window = deployment.context_window * ask.inputs
    kinds = ask.kinds
    if deployment.price.charges_cache_writes and mentions(ask.payload, "cache_control"):
        kinds |= CACHE_WRITES
    return Bounds(
        window if ask.opaque else min(text, window),
        max_tokens * ask.choices + ask.predicted,
        kinds,
        ask.images,
        ask.tool_calls,
        ask.service,
    )


def mentions(document: object, name: str) -> bool:
    """Whether the name is a key anywhere in the document."""
    if isinstance(document, Mapping):
        return name in document or any(mentions(value, name) for value in document.values())
    return isinstance(document, list) and any(mentions(each, name) for each in document)


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
        input_tokens=bounds.input_tokens if ask.opaque else min(seen, bounds.input_tokens),
        output_tokens=min(tokens_in(content_bytes), bounds.output_tokens),
        estimated=True,
        images=ask.images,
        tool_calls=ask.tool_calls,
    )
