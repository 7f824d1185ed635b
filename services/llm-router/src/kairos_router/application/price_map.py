"""LiteLLM's price map: a JSON object of models, prices in USD per token, many optional fields.

`prices/litellm.json` here is a copy trimmed by `trim` to the models that answer text and the fields read
here; its licence stands beside it. `kairos prices import` brings a newer one in.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from importlib import resources
from typing import Any

import orjson
from pydantic import ValidationError

from kairos_router.application.price_documents import PriceDocument

NANO_PER_USD = 1_000_000_000
_SMALLEST = Decimal("0.000001")
_MODES = frozenset({"chat", "completion", "responses", "embedding"})
# The map's name of each rate, before a long-context or service suffix.
_RATES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "cache_read_input_audio_token_cost": "cached_audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
}
_SERVICES = {"batches": "batch", "flex": "flex", "priority": "priority"}
_FIELD = re.compile(
    "(?P<rate>" + "|".join(sorted(_RATES, key=len, reverse=True)) + ")"
    r"(?:_above_(?P<above>\d+)k_tokens)?(?:_(?P<service>batches|flex|priority))?"
)
_FEES = {"input_cost_per_image": "per_image", "input_cost_per_request": "per_request"}
_SEARCH = "search_context_cost_per_query"
_SIZES = ("low", "medium", "high")
_BY_THOUSAND = {"file_search_cost_per_1k_calls": "file_search"}
_BY_ONE = {"code_interpreter_cost_per_session": "code_interpreter"}


class InvalidPriceMap(ValueError):  # noqa: N818 - reads as the fact it states
    """The document is no price map; nothing of it is imported."""


def _nano(usd: object, units: int = 1) -> int | str | None:
    """nano-USD of one unit, rounded to a millionth; the map's figures are floats with float noise."""
    if isinstance(usd, bool) or not isinstance(usd, int | float | Decimal | str):
        return None
    try:
        value = (Decimal(str(usd)) * NANO_PER_USD / units).quantize(_SMALLEST, ROUND_HALF_EVEN)
    except ArithmeticError:
        return None
    if value < 0:
        return None
    return int(value) if value == value.to_integral_value() else str(value.normalize())


def _rates(entry: Mapping[str, Any]) -> Iterator[tuple[str, int, str, int | str]]:
    """(rate, above or 0, service or "", nano-USD) of every price of a token in the entry."""
    for name, value in entry.items():
        match = _FIELD.fullmatch(name)
        nano = _nano(value) if match else None
        if match and nano is not None:
            above = int(match["above"] or 0) * 1_000
            yield _RATES[match["rate"]], above, _SERVICES.get(match["service"] or "", ""), nano


def _tools(entry: Mapping[str, Any]) -> dict[str, int | str]:
    tools: dict[str, int | str] = {}
    search = entry.get(_SEARCH)
    if isinstance(search, dict):
        sizes = {size: _nano(search.get(f"search_context_size_{size}")) for size in _SIZES}
        known = {size: nano for size, nano in sizes.items() if nano is not None}
        if len(known) == len(_SIZES) and len(set(known.values())) == 1:
            tools["web_search"] = known["low"]
        else:
            tools |= {f"web_search.{size}": nano for size, nano in known.items()}
    for names, units in ((_BY_THOUSAND, 1_000), (_BY_ONE, 1)):
        for field, tool in names.items():
            nano = _nano(entry.get(field), units)
            if nano is not None:
                tools[tool] = nano
    return tools


def _stepped(entry: Mapping[str, Any]) -> dict[str, Any]:
    """`tiered_pricing`: rates by ranges of input tokens, as long-context rates."""
    tiers = [tier for tier in entry.get("tiered_pricing") or () if isinstance(tier, dict)]
    document: dict[str, Any] = {}
    for tier in sorted(tiers, key=lambda each: each.get("range", [0])[0]):
        rates = {rate: nano for rate, above, service, nano in _rates(tier) if not (above or service)}
        start = int(tier.get("range", [0])[0])
        if start:
            document.setdefault("long_context", []).append({"above": start, **rates})
        else:
            document |= rates
    return document


def _all_rates(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Every rate of the entry, at its place in a price document."""
    document: dict[str, Any] = _stepped(entry) if entry.get("tiered_pricing") else {}
    for rate, above, service, nano in _rates(entry):
        place = document
        if service:
            place = place.setdefault("services", {}).setdefault(service, {})
        if above:
            tiers: list[dict[str, Any]] = place.setdefault("long_context", [])
            tier = next((each for each in tiers if each["above"] == above), None)
            if tier is None:
                tier = {"above": above}
                tiers.append(tier)
            place = tier
        place[rate] = nano
    return document


def document_of(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """One model's price, or None when the map has no price of its tokens."""
    document = _all_rates(entry)
    if "input" not in document:
        return None
    if document.get("reasoning") == document.get("output"):
        # So that it follows the output's rate in every tier that does not name it.
        document.pop("reasoning", None)
    # An embedding has no output.
    document.setdefault("output", 0)
    fees = {name: _nano(entry.get(field)) for field, name in _FEES.items()}
    document |= {name: fee for name, fee in fees.items() if fee}
    tools = {name: nano for name, nano in _tools(entry).items() if nano}
    if tools:
        document["tools"] = tools
    try:
        return PriceDocument.model_validate(document).short()
    except ValidationError:
        return None


def read_map(content: bytes) -> dict[str, dict[str, Any]]:
    """Every model with a price, by name, as price documents. Raises InvalidPriceMap."""
    try:
        entries = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidPriceMap("not a JSON document") from error
    if not isinstance(entries, dict):
        raise InvalidPriceMap("not an object of models")
    found = {}
    for name, entry in entries.items():
        if isinstance(entry, dict) and entry.get("mode") in _MODES:
            document = document_of(entry)
            if document is not None:
                found[name] = document
    if not found:
        raise InvalidPriceMap("no model in it has a price")
    return found


def trim(content: bytes) -> bytes:
    """The same map with only what `read_map` reads, one model per line, sorted."""
    lines = []
    for name, entry in sorted(orjson.loads(content).items()):
        if not isinstance(entry, dict) or entry.get("mode") not in _MODES or document_of(entry) is None:
            continue
        kept = {field: value for field, value in sorted(entry.items()) if _read(field)}
        lines.append(orjson.dumps(name) + b":" + orjson.dumps(kept))
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def _read(field: str) -> bool:
    known = {"mode", "tiered_pricing", _SEARCH, *_FEES, *_BY_ONE, *_BY_THOUSAND}
    return field in known or _FIELD.fullmatch(field) is not None


def fingerprint(models: Mapping[str, Any]) -> str:
    """Names the content of a book, so that two imports of the same prices are one version."""
    return hashlib.sha256(orjson.dumps(models, option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]


def vendored() -> bytes:
    return resources.files("kairos_router.application").joinpath("prices", "litellm.json").read_bytes()


def price_version(document: Mapping[str, Any]) -> str:
    """Names a single price: the day it was set, and its content."""
    return f"{datetime.now(UTC).date().isoformat()}.{fingerprint(document)}"
