"""A provider whose streams never get further ahead of their reader than it vouches for (decision 0009).

It bills what it has written, also when the connection is closed on it. The crowd tells what it has heard:
what has reached a client was looked at by the router that passed it on.
"""

import asyncio
import json
import time
import zlib
from dataclasses import replace

from aiohttp import web

from kairos_testkit.fake_chat import read_chat
from kairos_testkit.fake_provider import ATTEMPT_HEADER, FakeProvider, ProviderRecord

WRITER = "fake-writer"
LEAD, BATCH = 16, 8
# Four bytes, as tokens of plain text are; the first one is counted by who listens.
MARK, TOKEN = b"~", "~abc"
LONGEST = 600
# A listener this quiet is taken for gone.
PATIENCE_S = 8.0
WHOLE, CUT = "written to its end", "written until it was cut"


class PacedProvider(FakeProvider):
    """`writing` is what runs now, as it would be billed now."""

    def __init__(self) -> None:
        super().__init__()
        self.writing: dict[str, ProviderRecord] = {}
        self._heard: dict[str, int] = {}

    def hear(self, tag: str, tokens: int) -> None:
        """The client of this request has read so many tokens of its answer."""
        self._heard[tag] = tokens

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body.get("model") != WRITER:
            return await super()._chat(request)
        asked = read_chat(body)
        tag = asked.last.partition(" ")[0]
        self._heard.pop(tag, None)
        attempt = str(request.headers.get(ATTEMPT_HEADER))
        record = self.writing[attempt] = ProviderRecord(
            0, time.time(), request.path, attempt, None, WRITER, stream=True, text=asked.last,
            input_tokens=asked.prompt_tokens, output_tokens=0, billed=True, status=200, fault=CUT,
        )  # fmt: skip
        wish = min(asked.max_tokens or 1, 50 + zlib.crc32(tag.encode()) % LONGEST)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            while record.output_tokens < wish:
                more = min(BATCH, wish - record.output_tokens)
                await self._listened_to(request, tag, record.output_tokens + more - LEAD)
                # Generated first, then sent: that is the order in which it costs.
                record = self.writing[attempt] = replace(record, output_tokens=record.output_tokens + more)
                await response.write(b"".join(_event({"content": TOKEN}) for _ in range(more)))
            usage = {"prompt_tokens": record.input_tokens, "completion_tokens": wish}
            await response.write(_event({}, "stop") + _event(None, usage=usage) + b"data: [DONE]\n\n")
            record = replace(record, fault=WHOLE)
        except ConnectionError:
            return response
        finally:
            self.records.append(replace(record, number=len(self.records) + 1))
            del self.writing[attempt]
        return response

    async def _listened_to(self, request: web.Request, tag: str, tokens: int) -> None:
        """Raises ConnectionResetError when nobody listens any more."""
        deadline = time.monotonic() + PATIENCE_S
        while self._heard.get(tag, 0) < tokens:
            if request.transport is None or request.transport.is_closing() or time.monotonic() > deadline:
                raise ConnectionResetError
            await asyncio.sleep(0.01)


def _event(delta: dict[str, str] | None, finish: str | None = None, **more: object) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "chatcmpl-paced", "object": "chat.completion.chunk", "created": 7, "model": WRITER}
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"
