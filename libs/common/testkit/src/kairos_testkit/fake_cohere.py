"""Cohere's /v2/chat as documented: whole, as events named by `type`, with tools and errors."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from kairos_testkit.fake_answers import Asked, Said, count_tokens, say, text_of
from kairos_testkit.fake_server import FakeServer
from kairos_testkit.faults_script import Fault, FaultScript

_OK: Final = 200
_FINISH: Final = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL"}


@dataclass(frozen=True, slots=True)
class CohereRecord:
    """One request and what it would be billed for."""

    headers: Mapping[str, str]
    body: Mapping[str, Any]
    usage: Mapping[str, Any]


def _read(body: Mapping[str, Any]) -> Asked:
    messages = body["messages"]
    tools = [tool["function"] for tool in body.get("tools") or ()]
    return Asked(
        last=text_of(messages[-1].get("content")),
        prompt_tokens=sum(count_tokens(text_of(message.get("content"))) for message in messages),
        last_is_result=messages[-1]["role"] == "tool",
        tools=[(tool["name"], tool.get("parameters") or {}) for tool in tools],
        max_tokens=body.get("max_tokens"),
    )


class FakeCohere(FakeServer):
    """`url` is the deployment's address. Script it with `fail`."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self.records: list[CohereRecord] = []
        self.script = FaultScript()

    @property
    def url(self) -> str:
        return f"{self.base_url}/v2/chat"

    def fail(self, fault: Fault) -> None:
        self.script.add(fault)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v2/chat", self._chat)]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            return web.json_response({"message": "no api key supplied"}, status=401)
        asked = _read(body)
        fault = self.script.take("chat", asked.last)
        said = say(asked, fault.reply if fault else None)
        tokens = {"input_tokens": asked.prompt_tokens, "output_tokens": said.tokens}
        usage = {"billed_units": tokens, "tokens": tokens}
        self.records.append(CohereRecord(dict(request.headers), body, usage))
        if fault and fault.status:
            return web.json_response({"message": "scripted failure"}, status=fault.status)
        if not body.get("stream"):
            message = {"role": "assistant"} | _content(said)
            finish = _FINISH[said.finish]
            return web.json_response(
                {"id": "c14c80c3", "finish_reason": finish, "message": message, "usage": usage}
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in _events(said, usage):
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response


def _content(said: Said) -> dict[str, Any]:
    if said.text is not None:
        return {"content": [{"type": "text", "text": said.text}]}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in said.calls
    ]
    return {"tool_plan": "I will ask a tool.", "tool_calls": calls}


def _events(said: Said, usage: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"type": "message-start", "id": "c14c80c3", "delta": {"message": {"role": "assistant"}}}
    for index, call in enumerate(said.calls):
        begun = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield _of_call("tool-call-start", index, begun)
        half = len(call.arguments) // 2
        for piece in (call.arguments[:half], call.arguments[half:]):
            yield _of_call("tool-call-delta", index, {"function": {"arguments": piece}})
        yield {"type": "tool-call-end", "index": index}
    if said.text is not None:
        yield _of_text("content-start", {"type": "text", "text": ""})
        for number, word in enumerate(said.text.split(" ")):
            yield _of_text("content-delta", {"text": word if number == 0 else f" {word}"})
        yield {"type": "content-end", "index": 0}
    yield {"type": "message-end", "delta": {"finish_reason": _FINISH[said.finish], "usage": usage}}


def _of_text(kind: str, content: Mapping[str, str]) -> dict[str, Any]:
    return {"type": kind, "index": 0, "delta": {"message": {"content": content}}}


def _of_call(kind: str, index: int, call: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": kind, "index": index, "delta": {"message": {"tool_calls": call}}}
