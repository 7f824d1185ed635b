"""What providers report as used, in their own words, as the dimensions we charge for.

OpenAI counts cached and written tokens within the input, Anthropic beside it; Gemini counts thoughts
and tool prompts beside the rest. A figure that can't be true makes the whole report unbelievable.
"""

from collections.abc import Mapping
from typing import Any

from kairos_router.domain.pricing import MOST_TOKENS, STANDARD, Usage

_SERVICES = frozenset({"batch", "flex", "priority"})
_NOTHING: Mapping[str, Any] = {}


def _count(value: object) -> int | None:
    believable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return value if believable else None  # type: ignore[return-value] # an int, as was checked


def _of(document: Mapping[str, Any], *names: str) -> int:
    """The first of the names that has a count, else 0."""
    return next((count for name in names if (count := _count(document.get(name)))), 0)


def _within(document: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The first of the names that holds a document."""
    return next((found for name in names if isinstance(found := document.get(name), dict)), _NOTHING)


def service_of(name: object) -> str:
    """The service tier a provider says it served the request at."""
    text = str(name).lower().removeprefix("on_demand_")
    return text if text in _SERVICES else STANDARD


def read_usage(document: Mapping[str, Any]) -> Usage | None:
    """The usage of an answer, or None when it is missing or can't be true."""
    usage = document.get("usage")
    if isinstance(usage, dict):
        service = document.get("service_tier") or usage.get("service_tier")
        if "prompt_tokens" in usage:
            return _openai(usage, service)
        if "input_tokens_details" in usage or "output_tokens_details" in usage:
            return _responses(usage, service)
        return _anthropic(usage, service) if "input_tokens" in usage else None
    usage = document.get("usageMetadata") or document.get("usage_metadata")
    return _gemini(usage, document) if isinstance(usage, dict) else None


def _openai(usage: Mapping[str, Any], service: object) -> Usage | None:
    prompt, completion = _count(usage["prompt_tokens"]), _count(usage.get("completion_tokens", 0))
    if prompt is None or completion is None or prompt + completion == 0:
        return None
    details = usage.get("prompt_tokens_details")
    more = usage.get("completion_tokens_details")
    if not (details or more or len(usage) > _PLAIN_FIELDS or service):
        return Usage(prompt, completion)
    details = details if isinstance(details, dict) else _NOTHING
    more = more if isinstance(more, dict) else _NOTHING
    cached = _within(details, "cached_tokens_details")
    written = _within(usage, "cache_creation") or _within(details, "cache_creation_token_details")
    long = _of(written, "ephemeral_1h_input_tokens")
    writes = _of(usage, "cache_creation_input_tokens") or _of(
        details, "cache_write_tokens", "cache_creation_tokens"
    )
    tools = _within(usage, "server_tool_use")
    searches = _of(tools, "web_search_requests") or _of(usage, "num_search_queries")
    return Usage(
        prompt,
        completion,
        # DeepSeek and Moonshot put the count beside the details.
        _of(details, "cached_tokens")
        or _of(usage, "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"),
        cache_write_tokens=max(0, writes - long),
        cache_write_1h_tokens=long,
        reasoning_tokens=_of(more, "reasoning_tokens"),
        audio_input_tokens=_of(details, "audio_tokens"),
        cached_audio_tokens=_of(cached, "audio_tokens"),
        audio_output_tokens=_of(more, "audio_tokens"),
        image_input_tokens=_of(details, "image_tokens"),
        image_output_tokens=_of(more, "image_tokens"),
        tool_calls=(("web_search", searches),) if searches else (),
        service=service_of(service),
    )


# prompt_tokens, completion_tokens, total_tokens: nothing more to read.
_PLAIN_FIELDS = 3


def _responses(usage: Mapping[str, Any], service: object) -> Usage | None:
    given, made = _count(usage.get("input_tokens")), _count(usage.get("output_tokens", 0))
    if given is None or made is None or given + made == 0:
        return None
    details, more = _within(usage, "input_tokens_details"), _within(usage, "output_tokens_details")
    return Usage(
        given,
        made,
        _of(details, "cached_tokens"),
        cache_write_tokens=_of(details, "cache_write_tokens"),
        reasoning_tokens=_of(more, "reasoning_tokens"),
        audio_input_tokens=_of(details, "audio_tokens"),
        audio_output_tokens=_of(more, "audio_tokens"),
        image_input_tokens=_of(details, "image_tokens"),
        image_output_tokens=_of(more, "image_tokens"),
        service=service_of(service),
    )


def _anthropic(usage: Mapping[str, Any], service: object) -> Usage | None:
    fresh, made = _count(usage["input_tokens"]), _count(usage.get("output_tokens", 0))
    if fresh is None or made is None:
        return None
    written = _within(usage, "cache_creation")
    long = _of(written, "ephemeral_1h_input_tokens")
    writes = max(_of(usage, "cache_creation_input_tokens"), long + _of(written, "ephemeral_5m_input_tokens"))
    read = _of(usage, "cache_read_input_tokens")
    given = fresh + writes + read
    if given + made == 0:
        return None
    tools = _within(usage, "server_tool_use")
    searches = _of(tools, "web_search_requests")
    return Usage(
        given,
        made,
        read,
        cache_write_tokens=writes - long,
        cache_write_1h_tokens=long,
        tool_calls=(("web_search", searches),) if searches else (),
        service=service_of(service),
    )


def _modalities(usage: Mapping[str, Any], *names: str) -> dict[str, int]:
    """Gemini's list of counts by modality as a table."""
    found: list[Any] = next((usage[name] for name in names if isinstance(usage.get(name), list)), [])
    table: dict[str, int] = {}
    for each in found:
        if isinstance(each, dict):
            kind = str(each.get("modality", "")).upper()
            table[kind] = table.get(kind, 0) + _of(each, "tokenCount", "token_count")
    return table


def _gemini(usage: Mapping[str, Any], document: Mapping[str, Any]) -> Usage | None:
    given = _of(usage, "promptTokenCount", "prompt_token_count")
    given += _of(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count")
    thoughts = _of(usage, "thoughtsTokenCount", "thoughts_token_count")
    made = _of(usage, "candidatesTokenCount", "candidates_token_count") + thoughts
    if given + made == 0:
        return None
    read = _modalities(usage, "promptTokensDetails", "prompt_tokens_details")
    written = _modalities(usage, "candidatesTokensDetails", "candidates_tokens_details")
    cached = _modalities(usage, "cacheTokensDetails", "cache_tokens_details")
    candidates = document.get("candidates")
    grounded = isinstance(candidates, list) and any(
        isinstance(each, dict) and each.get("groundingMetadata") for each in candidates
    )
    return Usage(
        given,
        made,
        _of(usage, "cachedContentTokenCount", "cached_content_token_count"),
        reasoning_tokens=thoughts,
        audio_input_tokens=read.get("AUDIO", 0),
        cached_audio_tokens=cached.get("AUDIO", 0),
        audio_output_tokens=written.get("AUDIO", 0),
        image_input_tokens=max(0, read.get("IMAGE", 0) - cached.get("IMAGE", 0)),
        image_output_tokens=written.get("IMAGE", 0),
        # A grounded answer is charged once, however many searches it took.
        tool_calls=(("web_search", 1),) if grounded else (),
        service=service_of(usage.get("trafficType")),
    )


def embeddings_usage(document: Mapping[str, Any]) -> Usage | None:
    """Input tokens only; None when the provider did not say how many."""
    usage = document.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return Usage(tokens, 0) if type(tokens) is int and 0 < tokens <= MOST_TOKENS else None
