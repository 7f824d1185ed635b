"""Chat completions of the fake provider: read a request, write the answer whole or in pieces."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from kairos_testkit.fake_answers import Asked, Said, count_tokens, text_of


def read_chat(body: Mapping[str, Any]) -> Asked:
    messages = body["messages"]
    functions = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    functions += body.get("functions") or ()
    choice = body.get("tool_choice") or body.get("function_call") or "auto"
    force = (choice.get("function") or choice).get("name") if isinstance(choice, dict) else choice
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return Asked(
        last=text_of(messages[-1].get("content")),
        prompt_tokens=sum(count_tokens(text_of(message.get("content"))) for message in messages),
        last_is_result=messages[-1].get("role") in {"tool", "function"},
        tools=[(function["name"], function.get("parameters") or {}) for function in functions],
        force=str(force),
        schema=_schema(body.get("response_format")),
        max_tokens=limit if isinstance(limit, int) else None,
    )


def _schema(response_format: Any) -> Mapping[str, Any] | None:
    if not isinstance(response_format, dict) or response_format.get("type") == "text":
        return None
    wanted = response_format.get("json_schema") or {}
    return wanted.get("schema") or {"type": "object", "properties": {"echo": {"type": "string"}}}


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """`usage` None leaves it out. `legacy` answers with function_call as before tools existed."""

    id: str
    model: str
    said: Said
    usage: Mapping[str, Any] | None
    choices: int = 1
    logprobs: bool = False
    legacy: bool = False

    async def whole(self) -> AsyncIterator[bytes]:
        finish = "function_call" if self.legacy and self.said.calls else self.said.finish
        choices = [
            {
                "index": index,
                "message": self._message(),
                "finish_reason": finish,
                "logprobs": self._logprobs(self.said.text),
            }
            for index in range(self.choices)
        ]
        body = self._head("chat.completion") | {"choices": choices}
        if self.usage is not None:
            body["usage"] = self.usage
        yield json.dumps(body).encode()

    async def stream(self, *, include_usage: bool) -> AsyncIterator[bytes]:
        for index in range(self.choices):
            yield self._chunk(index, {"role": "assistant", "content": None if self.said.calls else ""})
            for number, word in enumerate((self.said.text or "").split(" ") if self.said.text else ()):
                piece = word if number == 0 else f" {word}"
                yield self._chunk(index, {"content": piece}, logprobs=self._logprobs(piece))
            for number, call in enumerate(self.said.calls):
                head = {"index": number, "id": call.id, "type": "function"}
                yield self._chunk(
                    index, {"tool_calls": [head | {"function": {"name": call.name, "arguments": ""}}]}
                )
                half = len(call.arguments) // 2
                for part in (call.arguments[:half], call.arguments[half:]):
                    yield self._chunk(
                        index, {"tool_calls": [{"index": number, "function": {"arguments": part}}]}
                    )
            yield self._chunk(index, {}, self.said.finish)
        if include_usage and self.usage is not None:
            yield self._event({"choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"

    def _message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.said.text, "refusal": None}
        functions = [{"name": call.name, "arguments": call.arguments} for call in self.said.calls]
        if functions and self.legacy:
            message["function_call"] = functions[0]
        elif functions:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": function}
                for call, function in zip(self.said.calls, functions, strict=True)
            ]
        return message

    def _logprobs(self, text: str | None) -> dict[str, Any] | None:
        if not (self.logprobs and text):
            return None
        token = {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}
        return {"content": [token], "refusal": None}

    def _chunk(
        self, index: int, delta: Mapping[str, Any], finish: str | None = None, logprobs: Any = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return self._event({"choices": [choice]})

    def _event(self, values: Mapping[str, Any]) -> bytes:
        return f"data: {json.dumps(self._head('chat.completion.chunk') | dict(values))}\n\n".encode()

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model}
