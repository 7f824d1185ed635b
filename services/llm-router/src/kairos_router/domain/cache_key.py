"""What makes two requests the same question, for the answer cache.

The key covers the whole request as it was sent, unknown fields too; left out is only what can't change the
answer. A request is kept out of the cache when the same bytes may rightly get another answer tomorrow.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kairos_router.domain.ask import Ask, Caller
from kairos_router.domain.cache_policy import CachePolicy, Mode

# How the answer travels, who asks, and what the provider files it under: none of it changes the answer.
_NOT_THE_QUESTION = frozenset(
    {
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "service_tier",
    }
)
_NUMBERS = re.compile(r"\d+(?:[.,:/-]\d+)*")


@dataclass(frozen=True, slots=True)
class Question:
    """`text` is the last user message and `space` all else, where the meaning of the text may be compared.

    `numbers` are those in the text: questions about other numbers are other questions, however alike.
    """

    text: str
    space: str
    numbers: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How the cache treats a request. `key` is 64 hexadecimal digits."""

    key: str
    policy: CachePolicy
    question: Question | None


def plan(ask: Ask, caller: Caller, policy: CachePolicy, generation: int, fingerprint: str) -> Plan | None:
    """None when the request takes no part in the cache. `fingerprint` tells who would answer it now."""
    payload = ask.payload
    if not policy.on or ask.operation == "responses" or not _cacheable(ask, policy):
        return None
    sharer = policy.sharer(caller)
    if sharer is None:
        return None
    head = [str(policy.organisation_id), str(sharer), ask.operation, ask.model, policy.generation, generation]
    head.append(fingerprint)
    body = {name: value for name, value in payload.items() if name not in _NOT_THE_QUESTION}
    question = None
    if policy.semantic and (text := _comparable(body)) is not None:
        rest = {**body, "messages": body["messages"][:-1]}
        question = Question(text, _digest([*head, rest]), " ".join(_NUMBERS.findall(text)))
    return Plan(_digest([*head, body]), policy, question)


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _cacheable(ask: Ask, policy: CachePolicy) -> bool:
    if ask.operation == "embeddings":
        return True
    payload = ask.payload
    # At any other temperature a caller may mean to get a new answer each time.
    if policy.mode is Mode.DETERMINISTIC and payload.get("temperature") != 0:
        return False
    if payload.get("web_search_options") or payload.get("modalities") not in (None, ["text"]):
        return False
    return not any(_remote(part) for part in _parts(payload))


def _parts(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    contents = (message.get("content") for message in payload.get("messages", ()))
    return [
        part
        for content in contents
        if isinstance(content, list)
        for part in content
        if isinstance(part, dict)
    ]


def _remote(part: Mapping[str, Any]) -> bool:
    """Whether the request names something elsewhere, whose content may change while its name stays."""
    if part.get("type") == "image_url":
        image = part.get("image_url")
        address = image.get("url") if isinstance(image, dict) else image
        return not (isinstance(address, str) and address.startswith("data:"))
    return part.get("type") not in {None, "text", "refusal"}


def _comparable(body: Mapping[str, Any]) -> str | None:
    """The last message when it is a user's plain text and nothing else decides about the answer's form."""
    if body.get("tools") or body.get("functions") or body.get("response_format") or body.get("n", 1) != 1:
        return None
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user":
        return None
    text = last.get("content")
    return text if isinstance(text, str) and text.strip() else None
