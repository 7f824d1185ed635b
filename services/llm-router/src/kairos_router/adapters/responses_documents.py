"""The Responses API's own documents, as a provider that has it speaks them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from kairos_router.adapters.openai_documents import EventTail, event_documents, without_choices
from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed, ProviderReply
from kairos_router.application.usage_documents import read_usage
from kairos_router.domain.pricing import Usage

_OVER = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "error"})
_HOSTED_CALLS = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
}


def response_body(call: ProviderCall) -> bytes:
    """The caller's document with our model and output limit. Nothing is stored at the provider."""
    body = {
        **without_choices(call.payload),
        "model": call.deployment.model,
        "max_output_tokens": call.max_tokens,
    }
    body["store"] = False
    return orjson.dumps(body)


def read_response_usage(document: Mapping[str, Any]) -> Usage | None:
    """The usage of a response with the calls of paid tools, or None when it is missing or can't be true."""
    usage = read_usage(document)
    calls = _hosted_calls(document)
    return replace(usage, tool_calls=calls) if usage is not None and calls else usage


def _hosted_calls(document: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    output = document.get("output")
    for item in output if isinstance(output, list) else []:
        name = _HOSTED_CALLS.get(item.get("type", "")) if isinstance(item, dict) else None
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    return tuple(sorted(counts.items()))


def response_reply(body: bytes) -> ProviderReply:
    """Read a whole response. Raises ProviderFailed when it is something else, or failed."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("output"), list):
        raise ProviderFailed(Fault.BROKEN, status=200, may_have_run=True, detail="the answer is no response")
    if document.get("status") == "failed":
        raise ProviderFailed(Fault.FAILED, status=200, may_have_run=True, detail="the response failed")
    return ProviderReply(body, document, read_response_usage(document))


class ResponseTail(EventTail):
    """A stream of response events; see EventTail. Its usage stands in the last one."""

    def _ends(self, events: bytes) -> bool:  # noqa: ARG002 - `_inspect` sees the last event, which has usage
        return False

    def _inspect(self, events: bytes) -> bytes:
        for document in event_documents(events):
            if not isinstance(document, dict):
                continue
            response = document.get("response")
            if isinstance(response, dict):
                self.usage = read_response_usage(response) or self.usage
            if document.get("type") in _FAILED:
                raise ProviderFailed(
                    Fault.FAILED, status=200, may_have_run=True, detail="error in the stream"
                )
            self.finished = self.finished or document.get("type") in _OVER
        return events

    def _content_size(self, document: Any) -> int:
        """Every kind of answer comes as a `delta` that is text."""
        delta = document.get("delta") if isinstance(document, dict) else None
        return len(delta.encode()) if isinstance(delta, str) else 0
