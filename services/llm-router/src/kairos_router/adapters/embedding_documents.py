"""OpenAI's embeddings documents, made here for models without an API of their own."""

import base64
import struct
from collections.abc import Sequence
from typing import Any

import orjson

from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed, ProviderReply
from kairos_router.domain.pricing import Usage


def refused(message: str, param: str) -> ProviderFailed:
    """The request asks for what this model can't do; the caller gets it as OpenAI's error."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": "invalid_request"}
    return ProviderFailed(Fault.INVALID_REQUEST, status=400, body=orjson.dumps({"error": error}))


def texts_of(call: ProviderCall) -> list[str]:
    """The request's texts. Raises ProviderFailed for arrays of token ids, whose tokenizer is another's."""
    given = call.payload["input"]
    texts = [given] if isinstance(given, str) else given
    if not all(isinstance(text, str) for text in texts):
        raise refused("this model reads text, not token ids", "input")
    return list(texts)


def require_dimensions(call: ProviderCall, dimensions: int) -> None:
    """Raises ProviderFailed when vectors of another length are asked for."""
    if call.payload.get("dimensions") not in {None, dimensions}:
        raise refused(f"this model's vectors have {dimensions} dimensions", "dimensions")


def embeddings_reply(call: ProviderCall, vectors: Sequence[Sequence[float]], tokens: int) -> ProviderReply:
    """The answer, as floats or as base64 of little-endian float32 as the caller asked."""
    packed = call.payload.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    document: dict[str, Any] = {
        "object": "list",
        "data": data,
        "model": call.deployment.model,
        "usage": usage,
    }
    return ProviderReply(orjson.dumps(document), document, Usage(tokens, 0))


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
