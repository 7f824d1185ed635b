"""How little a stream may begin with, and when it must end, so that its hold covers what it may cost.

A provider generates ahead of what we have read: it fills buffers, and goes on for a moment after we let go.
Where nobody can say how far ahead, the hold covers all of `max_tokens` from the start. Only a deployment with
`stream_lead_tokens` begins with a part and grows: its operator vouches that it is never further ahead,
counting a stall of our own and the time a closed connection takes to stop it. Reasoning that is not streamed
has no such bound, so a model that reasons must not have the setting.
"""

from dataclasses import dataclass
from typing import Any

from kairos_router.domain.ask import Ask, hold_on
from kairos_router.domain.catalogue import Deployment

# What was read between two looks may be as much as the lead, and the same again may be on its way.
LEADS_AHEAD = 2
# A smaller part would be cut before the first growth could arrive.
LEADS_IN_A_CHUNK = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """Tokens of output. `most` is what the provider was told; `chunk` is how much is held at a time."""

    most: int
    chunk: int
    lead: int

    def needed(self, seen: int) -> int:
        """What the hold must cover when this much was seen, or the stream ends here."""
        return min(self.most, seen + LEADS_AHEAD * self.lead)

    def wanted(self, seen: int) -> int:
        return min(self.most, self.needed(seen) + self.chunk)

    def low(self, covered: int, seen: int) -> bool:
        """Whether to grow now: half a chunk ahead, so that the authority has time to answer."""
        return covered < self.most and covered < self.needed(seen) + self.chunk // 2


def plan_of(ask: Ask, deployment: Deployment, max_tokens: int) -> Plan | None:
    """How a stream's hold grows; None when it must cover everything from the start."""
    lead, chunk = deployment.stream_lead_tokens, deployment.stream_chunk_tokens
    if not (ask.stream and lead and chunk and ask.choices == 1 and ask.operation == "chat"):
        return None
    return Plan(max_tokens, max(chunk, LEADS_IN_A_CHUNK * lead), lead)


def opening_tokens(ask: Ask, deployment: Deployment, max_tokens: int) -> int:
    plan = plan_of(ask, deployment, max_tokens)
    return max_tokens if plan is None else plan.wanted(0)


def opening_hold(ask: Ask, deployment: Deployment, max_tokens: int) -> int:
    """What an attempt is begun with, in nano-USD: its worst case, or for such a stream its first part."""
    return hold_on(ask, deployment, opening_tokens(ask, deployment, max_tokens))


def closing_chunk(first: dict[str, Any] | None, reason: str) -> dict[str, Any]:
    """The chunk that ends a stream which was cut: complete to every client, with the reason for people."""
    first = first or {}
    return {
        "id": first.get("id", "chatcmpl-cut"),
        "object": "chat.completion.chunk",
        "created": first.get("created", 0),
        "model": first.get("model", ""),
        "choices": [{"index": 0, "delta": {}, "finish_reason": "length", "kairos_reason": reason}],
    }
