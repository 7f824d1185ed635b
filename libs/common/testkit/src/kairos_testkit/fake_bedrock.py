"""Bedrock's Converse and ConverseStream as AWS documents them, the stream in its binary event encoding.

A request must carry a signature; what it signs is AWS's business. Errors are named by `x-amzn-errortype`
when the request is refused, and by an exception event when a stream has begun.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from kairos_testkit.fake_answers import Asked, Said, count_tokens, say
from kairos_testkit.fake_server import FakeServer
from kairos_testkit.faults_script import Fault, FaultScript

_OK: Final = 200
_ERRORS: Final = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_STOP: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_STRING: Final = 7
"""The number of a header's type in the event encoding."""


@dataclass(frozen=True, slots=True)
class ConverseRecord:
    """One request and what it would be billed for."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    usage: Mapping[str, int]


def _text(content: Any) -> str:
    return "".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def _read(body: Mapping[str, Any]) -> Asked:
    last = body["messages"][-1]["content"]
    results = [part["toolResult"]["content"] for part in last if "toolResult" in part]
    specs = [tool["toolSpec"] for tool in (body.get("toolConfig") or {}).get("tools") or ()]
    return Asked(
        last=_text(results[-1]) if results else _text(last),
        prompt_tokens=sum(count_tokens(_text(message["content"])) for message in body["messages"]),
        last_is_result=bool(results),
        tools=[(spec["name"], spec["inputSchema"]["json"]) for spec in specs],
        max_tokens=(body.get("inferenceConfig") or {}).get("maxTokens"),
    )


class FakeBedrock(FakeServer):
    """`base_url` is the deployment's `aws_bedrock_runtime_endpoint`. Script it with `fail`."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self.records: list[ConverseRecord] = []
        self.script = FaultScript()
        # Tokens of every further request that come from the cache; they stand beside the input.
        self.cached = 0
        # A stream ends after this many events as if it were over.
        self.events_at_most: int | None = None
        # A stream ends with this exception after its first piece of text.
        self.exception: str | None = None

    def fail(self, fault: Fault) -> None:
        self.script.add(fault)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(r"/model/{model}/converse", self._converse),
            web.post(r"/model/{model}/converse-stream", self._stream),
        ]

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        said, usage, refusal, _ = await self._asked(request)
        if refusal is not None:
            return refusal
        message = {"role": "assistant", "content": _content(said)}
        return web.json_response(
            {
                "output": {"message": message},
                "stopReason": _STOP[said.finish],
                "usage": usage,
                "metrics": {"latencyMs": 1},
            }
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        said, usage, refusal, fault = await self._asked(request)
        if refusal is not None:
            return refusal
        left = fault.cut_after_bytes if fault else None
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.amazon.eventstream"})
        await response.prepare(request)
        for number, (kind, values) in enumerate(_events(said, usage)):
            if number == self.events_at_most:
                break
            event = event_bytes({":event-type": kind, ":message-type": "event"}, values)
            if left is not None:
                left -= len(event)
                if left < 0:
                    if request.transport is not None:
                        request.transport.close()
                    break
            await response.write(event)
            if self.exception is not None and kind == "contentBlockDelta":
                names = {":exception-type": self.exception, ":message-type": "exception"}
                await response.write(event_bytes(names, {"message": "scripted failure"}))
                break
        return response

    async def _asked(
        self, request: web.Request
    ) -> tuple[Said, dict[str, int], web.Response | None, Fault | None]:
        body = await request.json()
        authorization = request.headers.get("Authorization", "")
        if not authorization.startswith(("AWS4-HMAC-SHA256", "Bearer ")):
            return Said(None), {}, _error(403, "Missing Authentication Token"), None
        asked = _read(body)
        fault = self.script.take("converse", asked.last)
        said = say(asked, fault.reply if fault else None)
        usage = {
            "inputTokens": asked.prompt_tokens,
            "outputTokens": said.tokens,
            "totalTokens": asked.prompt_tokens + said.tokens + self.cached,
            "cacheReadInputTokens": self.cached,
            "cacheWriteInputTokens": 0,
        }
        self.records.append(ConverseRecord(request.path_qs, dict(request.headers), body, usage))
        status = fault.status if fault and fault.status else _OK
        return said, usage, None if status == _OK else _error(status), fault


def _content(said: Said) -> list[dict[str, Any]]:
    text = [] if said.text is None else [{"text": said.text}]
    calls = [
        {
            "toolUse": {
                "toolUseId": f"tooluse_{call.id}",
                "name": call.name,
                "input": json.loads(call.arguments),
            }
        }
        for call in said.calls
    ]
    return [*text, *calls]


def _events(said: Said, usage: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "messageStart", {"role": "assistant"}
    for index, block in enumerate(_content(said)):
        if "text" in block:
            deltas: list[dict[str, Any]] = [{"text": word} for word in _words(block["text"])]
        else:
            use = block["toolUse"]
            start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
            yield "contentBlockStart", {"start": start, "contentBlockIndex": index}
            text = json.dumps(use["input"])
            half = len(text) // 2
            deltas = [{"toolUse": {"input": piece}} for piece in (text[:half], text[half:])]
        for delta in deltas:
            yield "contentBlockDelta", {"delta": delta, "contentBlockIndex": index}
        yield "contentBlockStop", {"contentBlockIndex": index}
    yield "messageStop", {"stopReason": _STOP[said.finish]}
    yield "metadata", {"usage": dict(usage), "metrics": {"latencyMs": 1}}


def _words(text: str) -> Iterator[str]:
    for number, word in enumerate(text.split(" ")):
        yield word if number == 0 else f" {word}"


def event_bytes(headers: Mapping[str, str], payload: Mapping[str, Any]) -> bytes:
    """One message of AWS's event encoding: lengths and their CRC, headers, payload, the CRC of it all."""
    named = {**headers, ":content-type": "application/json"}
    encoded = b"".join(
        struct.pack(">B", len(name))
        + name.encode()
        + struct.pack(">BH", _STRING, len(value))
        + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(encoded) + len(body), len(encoded))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + encoded + body
    return message + struct.pack(">I", zlib.crc32(message))


def _error(status: int, message: str = "scripted failure") -> web.Response:
    kind = _ERRORS.get(status, "InternalServerException")
    return web.json_response({"message": message}, status=status, headers={"x-amzn-errortype": kind})
