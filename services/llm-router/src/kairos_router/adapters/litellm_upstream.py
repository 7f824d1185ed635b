"""Providers that are not OpenAI-compatible, by LiteLLM's SDK: Anthropic, Gemini, Bedrock, Vertex and others.

The SDK takes seconds to import and well over 100 MB, so it is imported on first need, and a router without
such a deployment never has it (docs/decisions/0017-litellm-at-arms-length.md). Nothing of its own machinery
is used: no retries, no fallbacks, no prices, no callbacks, no limits.
"""

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import orjson

from kairos_router.adapters.embedding_documents import embeddings_reply, texts_of
from kairos_router.adapters.litellm_errors import failure_of
from kairos_router.adapters.litellm_request import (
    arguments,
    embedding_arguments,
    stream_arguments,
    vertex_key,
)
from kairos_router.application.ports import (
    Fault,
    ProviderCall,
    ProviderFailed,
    ProviderReply,
    ProviderStream,
)
from kairos_router.application.usage_documents import embeddings_usage, read_usage
from kairos_router.domain import vertex
from kairos_router.domain.pricing import Usage

# Releases that carried a credential stealer.
POISONED = frozenset({"1.82.7", "1.82.8"})


class PoisonedRelease(RuntimeError):  # noqa: N818 - reads as the fact it states
    """The installed LiteLLM is known to steal credentials; it is not imported."""


def require_clean(installed: str) -> None:
    """Raises PoisonedRelease."""
    if installed in POISONED:
        raise PoisonedRelease(installed)


class LiteLLMUpstream:
    """See Provider. `prepare` runs before the import: the SDK reads switches from the environment then."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._sdk: Any = None
        self._loading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def warm(self) -> None:
        """Import the SDK in a thread, once. Raises PoisonedRelease."""
        async with self._loading:
            if self._sdk is None:
                self._sdk = await asyncio.to_thread(self._import)

    async def complete(self, call: ProviderCall) -> ProviderReply:
        if call.operation == "embeddings":
            return await self._embed(call)
        answer = await self._ask(call, "acompletion", arguments(call))
        document = answer.model_dump(mode="json", exclude_none=True)
        document["object"] = "chat.completion"
        return ProviderReply(orjson.dumps(document), document, read_usage(document))

    async def open_stream(self, call: ProviderCall) -> ProviderStream:
        return _SdkStream(await self._ask(call, "acompletion", stream_arguments(call)), call, self._let_go)

    async def close(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing, timeout=1.0)
        if self._sdk is None:
            return
        await self._sdk.close_litellm_async_clients()
        worker = sys.modules.get("litellm.litellm_core_utils.logging_worker")
        if worker is not None:
            await worker.GLOBAL_LOGGING_WORKER.stop()

    async def _embed(self, call: ProviderCall) -> ProviderReply:
        texts_of(call)
        answer = await self._ask(call, "aembedding", embedding_arguments(call))
        document = answer.model_dump(mode="json")
        usage = embeddings_usage(document)
        vectors = [each["embedding"] for each in document["data"]]
        # Without believable figures the reply tells none, and what was sent is charged.
        return replace(embeddings_reply(call, vectors, usage.input_tokens if usage else 0), usage=usage)

    async def _ask(self, call: ProviderCall, name: str, asked: dict[str, Any]) -> Any:
        await self.warm()
        function: Callable[..., Awaitable[Any]] = getattr(self._sdk, name)
        try:
            # The SDK's clients are shared, so the limit of connecting is part of this one.
            async with asyncio.timeout(call.deployment.timeouts.first_byte):
                return await function(**asked)
        except TimeoutError:
            raise ProviderFailed(Fault.TIMEOUT, may_have_run=True, detail="no answer in time") from None
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises is a failure of its provider
            raise failure_of(error, secrets=secrets_of(call)) from None

    def _import(self) -> Any:
        require_clean(version("litellm"))
        self._prepare()
        sdk: Any = importlib.import_module("litellm")
        sdk.suppress_debug_info = True
        sdk.disable_streaming_logging = True
        sdk.turn_off_message_logging = True
        # Usage that the provider did not tell must stay missing: we charge for that by rules of our own.
        sdk.disable_token_counter = True
        # It would have Gemini keep what a caller marks: a call and a storage that nobody has a hold for.
        sdk.disable_anthropic_gemini_context_caching_transform = True
        return sdk

    def _let_go(self, closing: Awaitable[None]) -> None:
        async def close() -> None:
            await closing

        task = asyncio.get_running_loop().create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def secrets_of(call: ProviderCall) -> Iterator[str]:
    """What no message may hold."""
    dialect = call.deployment.dialect
    values = [call.deployment.api_key, *(value for _, value in (*dialect.options, *dialect.headers))]
    if call.deployment.provider in vertex.NAMES:
        with suppress(vertex.InvalidVertex):
            account = vertex.service_account(vertex_key(call.deployment), anywhere=True)
            values += [account.document, account.private_key, *account.private_key.splitlines()[1:-1]]
    return iter([value for value in values if value and len(value) > 4])  # noqa: PLR2004 - a region is no secret


class _SdkStream:
    """The SDK's chunks as OpenAI's events; see ProviderStream."""

    def __init__(self, chunks: Any, call: ProviderCall, let_go: Callable[[Awaitable[None]], None]) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self._chunks = chunks
        self._call = call
        self._let_go = let_go
        self._content_bytes = 0
        self._began = False
        self._closed = False

    async def next(self) -> bytes:
        while not self.finished:
            timeouts = self._call.deployment.timeouts
            try:
                async with asyncio.timeout(timeouts.idle if self._began else timeouts.first_byte):
                    chunk = await anext(self._chunks, None)
            except TimeoutError:
                raise ProviderFailed(
                    Fault.TIMEOUT, may_have_run=True, detail="the stream went silent"
                ) from None
            except Exception as error:  # noqa: BLE001 - as above
                raise failure_of(error, secrets=secrets_of(self._call), began=self._began) from None
            if chunk is None:
                return self._end()
            event = self._event(chunk.model_dump(mode="json", exclude_none=True))
            if event:
                return event
        return b""

    def content_bytes(self) -> int:
        return self._content_bytes

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._let_go(self._chunks.aclose())

    def _end(self) -> bytes:
        # The SDK ends a stream that was cut as if it were whole; only the provider's own reason proves it.
        if self._chunks.received_finish_reason is None and self._chunks.intermittent_finish_reason is None:
            raise ProviderFailed(Fault.BROKEN, status=200, may_have_run=True, detail="ended in the middle")
        self.finished = True
        return b"data: [DONE]\n\n"

    def _event(self, document: dict[str, Any]) -> bytes:
        self._began = True
        document.pop("citations", None)
        self.usage = read_usage(document) or self.usage
        choices = document.get("choices") or []
        for choice in choices:
            delta = choice.get("delta") or {}
            self._content_bytes += sum(
                len(orjson.dumps(value)) for name, value in delta.items() if name != "role" and value
            )
        if document.get("usage") is not None and not self._call.include_usage:
            del document["usage"]
            if not any(choice.get("delta") or choice.get("finish_reason") for choice in choices):
                return b""
        return b"data: " + orjson.dumps(document) + b"\n\n"
