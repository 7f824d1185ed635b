"""How each operation looks on the wire of an OpenAI-compatible provider: address, request, answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote, urlencode

import orjson

from kairos_router.adapters.openai_documents import EventTail, parse_answer, request_body, without_choices
from kairos_router.adapters.responses_documents import ResponseTail, response_body, response_reply
from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed, ProviderReply
from kairos_router.application.usage_documents import embeddings_usage, read_usage
from kairos_router.domain.ask import Operation
from kairos_router.domain.catalogue import Deployment


@dataclass(frozen=True, slots=True)
class Wire:
    """`path` is OpenAI's own, without its base. `reply` raises ProviderFailed."""

    path: str
    body: Callable[[ProviderCall, bool], bytes]
    reply: Callable[[bytes], ProviderReply]
    tail: Callable[[ProviderCall], EventTail]


def _chat_body(call: ProviderCall, stream: bool) -> bytes:
    return request_body(call, stream=stream)


def _chat_reply(body: bytes) -> ProviderReply:
    document = parse_answer(body)
    return ProviderReply(body, document, read_usage(document))


def _embeddings_body(call: ProviderCall, _: bool) -> bytes:
    return orjson.dumps({**without_choices(call.payload), "model": call.deployment.model})


def _embeddings_reply(body: bytes) -> ProviderReply:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list) or not data:
        raise ProviderFailed(
            Fault.BROKEN, status=200, may_have_run=True, detail="the answer is no list of embeddings"
        )
    return ProviderReply(body, document, embeddings_usage(document))


def _tail(kind: type[EventTail], call: ProviderCall) -> EventTail:
    return kind(include_usage=call.include_usage)


WIRES: Final[Mapping[Operation, Wire]] = {
    "chat": Wire("chat/completions", _chat_body, _chat_reply, partial(_tail, EventTail)),
    "embeddings": Wire("embeddings", _embeddings_body, _embeddings_reply, partial(_tail, EventTail)),
    "responses": Wire(
        "responses", lambda call, _: response_body(call), response_reply, partial(_tail, ResponseTail)
    ),
}


def address(deployment: Deployment, operation: Operation) -> str:
    """The whole address of an operation at a deployment, its query included."""
    dialect = deployment.dialect
    path = dialect.path.replace("{operation}", WIRES[operation].path).replace(
        "{model}", quote(deployment.model, safe="")
    )
    query = f"?{urlencode(dialect.query)}" if dialect.query else ""
    return f"{deployment.base_url.rstrip('/')}/{path.lstrip('/')}{query}"


def fixed_headers(deployment: Deployment) -> dict[str, str]:
    """What every request to a deployment carries; the key is among it."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    headers |= dict(deployment.dialect.headers)
    if deployment.api_key and deployment.dialect.auth == "bearer":
        headers["Authorization"] = f"Bearer {deployment.api_key}"
    elif deployment.api_key and deployment.dialect.auth == "api-key":
        headers["api-key"] = deployment.api_key
    return headers


def encode(call: ProviderCall, *, stream: bool) -> bytes:
    """The request's bytes, without the fields this provider refuses."""
    strip = call.deployment.dialect.strip
    if not strip:
        return WIRES[call.operation].body(call, stream)
    body = orjson.loads(WIRES[call.operation].body(call, stream))
    return orjson.dumps({name: value for name, value in body.items() if name not in strip})
