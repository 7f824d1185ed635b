"""Gemini's generateContent and streamGenerateContent, as documented."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from kairos_testkit.fake_answers import Asked, Said, count_tokens, say
from kairos_testkit.fake_server import FakeServer
from kairos_testkit.faults_script import Fault, FaultScript

_OK: Final = 200
_STATES: Final = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True)
class GeminiRecord:
    """One request and what it would be billed for."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    usage: Mapping[str, Any]


def _text(parts: Any) -> str:
    return "".join(part.get("text", "") for part in parts or () if isinstance(part, dict))


class FakeGemini(FakeServer):
    """`url` is the deployment's address. `thoughts` tokens are charged with every answer."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self.records: list[GeminiRecord] = []
        self.script = FaultScript()
        self.cached = 0
        self.thoughts = 0

    @property
    def url(self) -> str:
        return f"{self.base_url}/v1beta"

    def fail(self, fault: Fault) -> None:
        self.script.add(fault)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(r"/v1beta/models/{model}:generateContent", self._generate),
            web.post(r"/v1beta/models/{model}:streamGenerateContent", self._stream),
        ]

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        said, usage, refusal = await self._asked(request)
        if refusal is not None:
            return refusal
        return web.json_response(_document(request, _parts(said), usage, _finish(said)))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        said, usage, refusal = await self._asked(request)
        if refusal is not None:
            return refusal
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        parts = _parts(said)
        words = said.text.split(" ") if said.text else []
        pieces = [[{"text": word if at == 0 else f" {word}"}] for at, word in enumerate(words)] or [parts]
        for number, piece in enumerate(pieces, 1):
            last = number == len(pieces)
            document = _document(request, piece, usage, _finish(said) if last else None)
            await response.write(f"data: {json.dumps(document)}\r\n\r\n".encode())
        return response

    async def _asked(self, request: web.Request) -> tuple[Said, dict[str, Any], web.Response | None]:
        body = await request.json()
        parts = body["contents"][-1]["parts"]
        # Both spellings are read, as of all fields that protocol buffers define.
        named = (part.get("functionResponse") or part.get("function_response") for part in parts)
        results = [each for each in named if each]
        config = body.get("generationConfig") or {}
        declared = [
            each for tool in body.get("tools") or () for each in tool.get("function_declarations") or ()
        ]
        asked = Asked(
            last=json.dumps(results[-1]["response"]) if results else _text(parts),
            prompt_tokens=sum(count_tokens(_text(content["parts"])) for content in body["contents"]),
            last_is_result=bool(results),
            tools=[(each["name"], each.get("parameters") or {}) for each in declared],
            max_tokens=config.get("maxOutputTokens") or config.get("max_output_tokens"),
        )
        fault = self.script.take("gemini", asked.last)
        said = say(asked, fault.reply if fault else None)
        usage = {
            "promptTokenCount": asked.prompt_tokens,
            "candidatesTokenCount": said.tokens,
            "totalTokenCount": asked.prompt_tokens + said.tokens + self.thoughts,
        }
        usage |= {"cachedContentTokenCount": self.cached} if self.cached else {}
        usage |= {"thoughtsTokenCount": self.thoughts} if self.thoughts else {}
        self.records.append(GeminiRecord(request.path_qs, dict(request.headers), body, usage))
        status = fault.status if fault and fault.status else _OK
        return said, usage, None if status == _OK else _error(status)


def _parts(said: Said) -> list[dict[str, Any]]:
    text = [] if said.text is None else [{"text": said.text}]
    calls = [{"functionCall": {"name": call.name, "args": json.loads(call.arguments)}} for call in said.calls]
    return [*text, *calls]


def _finish(said: Said) -> str:
    return "MAX_TOKENS" if said.finish == "length" else "STOP"


def _document(
    request: web.Request, parts: list[dict[str, Any]], usage: Mapping[str, Any], finish: str | None
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": dict(usage),
        "modelVersion": request.match_info["model"],
        "responseId": "fake",
    }


def _error(status: int) -> web.Response:
    error = {"code": status, "message": "scripted failure", "status": _STATES.get(status, "INTERNAL")}
    return web.json_response({"error": error}, status=status)
