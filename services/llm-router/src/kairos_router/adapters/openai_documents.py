"""OpenAI's documents: what we set in a request, and what we read from an answer."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed
from kairos_router.application.usage_documents import read_usage
from kairos_router.domain.pricing import Usage

# An answer longer than this without the end of an event is not an event stream.
LONGEST_EVENT = 1_048_576
# Content is counted only when the provider told no usage, so pieces are kept unparsed up to this many bytes.
UNCOUNTED_BYTES = 65_536

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_EVENT = re.compile(rb".*?(?:\r?\n){2}", re.DOTALL)
# Line ends of an event of one line, its separator included.
_ONE_LINE = 2
_SHORTEST_SEPARATOR = 2


# By these a gateway behind us would answer with another model, or with tools, than the hold was made for.
_CHOICES = frozenset({"models", "fallbacks", "provider", "plugins", "route", "transforms"})
_OURS = _CHOICES | {"max_tokens", "max_completion_tokens"}


def without_choices(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's document without what would choose anew there: a price is for its model."""
    return {name: value for name, value in payload.items() if name not in _CHOICES}


def request_body(call: ProviderCall, *, stream: bool) -> bytes:
    """The caller's document with our model, the clamped output limit and, for streams, usage asked for."""
    body = {name: value for name, value in call.payload.items() if name not in _OURS}
    body["model"] = call.deployment.model
    body[call.deployment.max_tokens_field] = call.max_tokens
    if stream:
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return orjson.dumps(body)


def parse_answer(body: bytes) -> Mapping[str, Any]:
    """A chat completion document. Raises ProviderFailed when it is something else."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ProviderFailed(
            Fault.BROKEN, status=200, may_have_run=True, detail="the answer is no chat completion"
        )
    return document  # type: ignore[no-any-return] # checked above


class EventTail:
    """Cuts a byte stream into whole server-sent events and reads from them only what money needs.

    Pieces without usage pass through unparsed: that is what keeps a stream cheap.
    """

    def __init__(self, *, include_usage: bool) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self._include_usage = include_usage
        self._partial = b""
        self._began = False
        self._uncounted: list[bytes] = []
        self._uncounted_size = 0
        self._content_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """The whole events that are now complete, for the caller. Raises ProviderFailed."""
        data = self._partial + data if self._partial else data
        end = _end_of_events(data)
        self._partial = data[end:]
        if len(self._partial) > LONGEST_EVENT:
            raise _broken("an event without an end")
        events = data[:end]
        if not self._began:
            events = self._begin(events)
        if not events:
            return b""
        self._uncounted.append(events)
        self._uncounted_size += len(events)
        if self._uncounted_size > UNCOUNTED_BYTES:
            self._count_kept()
        if self._ends(events):
            self.finished = True
        if (b'"usage"' in events and _USAGE.search(events)) or b'"error"' in events:
            return self._inspect(events)
        return events

    def content_bytes(self) -> int:
        """Bytes of answer text seen so far."""
        self._count_kept()
        return self._content_bytes

    def _begin(self, events: bytes) -> bytes:
        # Nothing goes to the caller before the provider has proved that it answers: until then
        # another deployment can take over. Comments are held back until the first event.
        if b"data:" not in events:
            self._partial = events + self._partial
            return b""
        first = next((data for _, data in _split(events) if data), b"")
        if first != b"[DONE]" and not isinstance(_document(first), dict):
            raise _broken("the stream is no chat completion")
        self._began = True
        return events

    def _count_kept(self) -> None:
        kept, self._uncounted, self._uncounted_size = b"".join(self._uncounted), [], 0
        for _, data in _split(kept):
            self._content_bytes += self._content_size(_document(data))

    def _ends(self, events: bytes) -> bool:
        return b"[DONE]" in events and events.rstrip().endswith(b"[DONE]")

    def _content_size(self, document: Any) -> int:
        return _content_size(document)

    def _inspect(self, events: bytes) -> bytes:
        passed = []
        for event, data in _split(events):
            # Most events of a burst tell neither; parsing each would cost as much as the rest of a stream.
            document = _document(data) if b'"usage"' in data or b'"error"' in data else None
            if not isinstance(document, dict):
                passed.append(event)
                continue
            if document.get("error") and not document.get("choices"):
                raise ProviderFailed(
                    Fault.FAILED, status=200, may_have_run=True, detail="error in the stream"
                )
            usage = read_usage(document)
            self.usage = usage or self.usage
            if self._include_usage or document.get("choices") or not document.get("usage"):
                passed.append(event)
        return b"".join(passed)


def _end_of_events(data: bytes) -> int:
    end = data.rfind(b"\n\n") + 2
    if b"\r" in data:
        end = max(end, data.rfind(b"\n\r\n") + 3)
    # Without a separator rfind is -1 and the sums are 1 and 2. A separator alone waits for what follows.
    return end if end > _SHORTEST_SEPARATOR else 0


def _broken(detail: str) -> ProviderFailed:
    return ProviderFailed(Fault.BROKEN, status=200, may_have_run=True, detail=detail)


def _split(events: bytes) -> list[tuple[bytes, bytes]]:
    """Each event with its separator, and its data."""
    if b"\r" in events:
        whole = _EVENT.findall(events)
    else:
        # A regular expression would look at every byte.
        whole = [event + b"\n\n" for event in events.split(b"\n\n")[:-1]]
    return [(event, _data(event)) for event in whole]


def _data(event: bytes) -> bytes:
    if event.count(b"\n") == _ONE_LINE and event.startswith(b"data:"):
        return event[5:].strip()
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def event_documents(events: bytes) -> list[Any]:
    """The parsed data of whole events, None for what is no JSON."""
    return [_document(data) for _, data in _split(events)]


def _document(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _content_size(document: Any) -> int:
    """Bytes a chunk adds to the answer: everything of its deltas, tool calls and reasoning too."""
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list):
        return 0
    deltas = [choice.get("delta") for choice in choices if isinstance(choice, dict)]
    return sum(
        len(value.encode()) if isinstance(value, str) else len(orjson.dumps(value))
        for delta in deltas
        if isinstance(delta, dict)
        for name, value in delta.items()
        if name != "role" and value
    )
