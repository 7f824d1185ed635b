"""The built-in deployment that answers without a provider: deterministic, with its own usage."""

import asyncio
import math
from collections.abc import Iterator
from hashlib import blake2b, shake_128
from typing import Any

import orjson

from kairos_router.adapters.embedding_documents import embeddings_reply, require_dimensions, texts_of
from kairos_router.application.ports import ProviderCall, ProviderReply, ProviderStream
from kairos_router.domain.pricing import Usage

BYTES_PER_TOKEN = 4
# A fixed time makes the same request give the same bytes.
CREATED = 1_767_225_600
DIMENSIONS = 64


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict)).strip()


class _Reply:
    """What the simulator says to a request."""

    def __init__(self, call: ProviderCall) -> None:
        messages = call.payload["messages"]
        last = next((m for m in reversed(messages) if m.get("role") == "user"), messages[-1])
        words = f"You said: {_text_of(last.get('content'))}".split(" ")
        self.finish_reason = "stop"
        while len(words) > 1 and _tokens(" ".join(words)) > call.max_tokens:
            words.pop()
            self.finish_reason = "length"
        self.words = words
        self.text = " ".join(words)
        prompt = sum(_tokens(_text_of(m.get("content"))) for m in messages)
        output = min(_tokens(self.text), call.max_tokens)
        self.usage = Usage(max(1, prompt), max(1, output))
        digest = blake2b(repr(messages).encode(), digest_size=12).hexdigest()
        self.head = {"id": f"chatcmpl-{digest}", "created": CREATED, "model": call.deployment.model}

    def usage_document(self) -> dict[str, int]:
        prompt, completion = self.usage.input_tokens, self.usage.output_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def _vector(text: str) -> list[float]:
    """The sum of a direction per word, of length 1: texts that share words are near each other."""
    total = [0.0] * DIMENSIONS
    for word in text.lower().split() or [text]:
        for at, byte in enumerate(shake_128(word.encode()).digest(DIMENSIONS)):
            total[at] += byte - 127.5
    length = math.hypot(*total)
    return [value / length for value in total]


def _embeddings(call: ProviderCall) -> ProviderReply:
    texts = texts_of(call)
    require_dimensions(call, DIMENSIONS)
    return embeddings_reply(call, [_vector(text) for text in texts], max(1, sum(map(_tokens, texts))))


class Simulator:
    async def complete(self, call: ProviderCall) -> ProviderReply:
        await _think(call)
        if call.operation == "embeddings":
            return _embeddings(call)
        reply = _Reply(call)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": reply.text},
            "finish_reason": reply.finish_reason,
        }
        document: dict[str, Any] = {
            **reply.head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": reply.usage_document(),
        }
        return ProviderReply(orjson.dumps(document), document, reply.usage)

    async def open_stream(self, call: ProviderCall) -> ProviderStream:
        await _think(call)
        return _SimulatedStream(call, _Reply(call))

    async def close(self) -> None:
        """There is nothing to close."""


async def _think(call: ProviderCall) -> None:
    if call.deployment.latency_ms:
        await asyncio.sleep(call.deployment.latency_ms / 1000)


class _SimulatedStream:
    """One word a piece; see ProviderStream."""

    def __init__(self, call: ProviderCall, reply: _Reply) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self._reply = reply
        self._include_usage = call.include_usage
        self._seen = 0
        self._pieces = self._events()

    async def next(self) -> bytes:
        # A real stream lets others run between two pieces, so this one does too.
        await asyncio.sleep(0)
        return next(self._pieces, b"")

    def content_bytes(self) -> int:
        return self._seen

    def close(self) -> None:
        self._pieces = iter(())

    def _events(self) -> Iterator[bytes]:
        yield self._event([_choice({"role": "assistant", "content": ""}, None)])
        for index, word in enumerate(self._reply.words):
            text = word if index == 0 else f" {word}"
            self._seen += len(text.encode())
            yield self._event([_choice({"content": text}, None)])
        yield self._event([_choice({}, self._reply.finish_reason)])
        self.usage = self._reply.usage
        if self._include_usage:
            yield self._event([], usage=self._reply.usage_document())
        self.finished = True
        yield b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        document = {**self._reply.head, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + orjson.dumps(document) + b"\n\n"


def _choice(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}
