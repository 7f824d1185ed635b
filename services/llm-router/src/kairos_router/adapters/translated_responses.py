"""Responses from deployments that only have chat completions."""

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import orjson

from kairos_router.adapters.chat_to_responses import to_response
from kairos_router.adapters.openai_documents import event_documents
from kairos_router.adapters.response_events import ResponseEvents
from kairos_router.adapters.responses_to_chat import to_chat
from kairos_router.application.ports import Provider, ProviderCall, ProviderReply, ProviderStream
from kairos_router.domain.catalogue import Capability
from kairos_router.domain.pricing import Usage


def _translates(call: ProviderCall) -> bool:
    if call.operation != "responses":
        return False
    deployment = call.deployment
    return deployment.kind != "openai" or Capability.RESPONSES not in deployment.capabilities


def _as_chat(call: ProviderCall) -> ProviderCall:
    return replace(call, operation="chat", payload=to_chat(call.payload), include_usage=True)


class TranslatedResponses:
    """A provider that is asked for a chat completion where it has no Responses API. See Provider."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def complete(self, call: ProviderCall) -> Coroutine[Any, Any, ProviderReply]:
        return self._complete(call) if _translates(call) else self._provider.complete(call)

    def open_stream(self, call: ProviderCall) -> Coroutine[Any, Any, ProviderStream]:
        return self._open_stream(call) if _translates(call) else self._provider.open_stream(call)

    async def _complete(self, call: ProviderCall) -> ProviderReply:
        reply = await self._provider.complete(_as_chat(call))
        document = to_response(call.payload, reply.document, reply.usage, call.attempt_id.hex)
        return ProviderReply(orjson.dumps(document), document, reply.usage)

    async def _open_stream(self, call: ProviderCall) -> ProviderStream:
        stream = await self._provider.open_stream(_as_chat(call))
        return _TranslatedStream(stream, ResponseEvents(call.payload, call.attempt_id.hex))

    async def close(self) -> None:
        await self._provider.close()


class _TranslatedStream:
    """See ProviderStream. Its end needs the usage, which a chat stream tells last."""

    def __init__(self, stream: ProviderStream, events: ResponseEvents) -> None:
        self._stream = stream
        self._events = events
        self._ended = False

    @property
    def usage(self) -> Usage | None:
        return self._stream.usage

    @property
    def finished(self) -> bool:
        return self._stream.finished

    async def next(self) -> bytes:
        while piece := await self._stream.next():
            events = b"".join(self._events.chunk(document) for document in event_documents(piece))
            if events:
                return events
        if self._ended or not (self._stream.finished or self._stream.usage):
            return b""
        self._ended = True
        return self._events.end(self._stream.usage)

    def content_bytes(self) -> int:
        return self._stream.content_bytes()

    def close(self) -> None:
        self._stream.close()
