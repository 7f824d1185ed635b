"""Responses from deployments that only have chat completions."""

from dataclasses import replace

import orjson

from kairos_router.adapters.chat_to_responses import to_response
from kairos_router.adapters.openai_documents import event_documents
from kairos_router.adapters.response_events import ResponseEvents
from kairos_router.adapters.responses_to_chat import to_chat
from kairos_router.application.ports import Provider, ProviderCall, ProviderReply, ProviderStream
from kairos_router.domain.catalogue import Capability
from kairos_router.domain.pricing import Usage


def _translates(call: ProviderCall) -> bool:
    deployment = call.deployment
    native = deployment.kind == "openai" and Capability.RESPONSES in deployment.capabilities
    return call.operation == "responses" and not native


def _as_chat(call: ProviderCall) -> ProviderCall:
    return replace(call, operation="chat", payload=to_chat(call.payload), include_usage=True)


class TranslatedResponses:
    """A provider that is asked for a chat completion where it has no Responses API. See Provider."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def complete(self, call: ProviderCall) -> ProviderReply:
        if not _translates(call):
            return await self._provider.complete(call)
        reply = await self._provider.complete(_as_chat(call))
        document = to_response(call.payload, reply.document, reply.usage, call.attempt_id.hex)
        return ProviderReply(orjson.dumps(document), document, reply.usage)

    async def open_stream(self, call: ProviderCall) -> ProviderStream:
        if not _translates(call):
            return await self._provider.open_stream(call)
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
