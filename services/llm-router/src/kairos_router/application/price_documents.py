"""A price as people and files write it: nano-USD per token, image, request or call."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from kairos_router.domain.pricing import (
    PER_MILLION,
    RATE_NAMES,
    InvalidPrice,
    LongContext,
    Price,
    Rates,
    Service,
)


def _plain(value: Decimal) -> int | str:
    """A whole number as one, a fraction as text: no reader may round it."""
    return int(value) if value == value.to_integral_value() else str(value.normalize())


DearestNano = Decimal(10) ** 12
Nano = Annotated[Decimal, Field(ge=0, le=DearestNano, decimal_places=6), PlainSerializer(_plain)]
ServiceName = Literal["batch", "flex", "priority"]
ToolName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.]{0,39}$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Optional(_Document):
    input: Nano | None = None
    output: Nano | None = None
    cached_input: Nano | None = None
    cache_write: Nano | None = None
    cache_write_1h: Nano | None = None
    reasoning: Nano | None = None
    audio_input: Nano | None = None
    cached_audio_input: Nano | None = None
    audio_output: Nano | None = None
    image_input: Nano | None = None
    image_output: Nano | None = None


class LongContextDocument(_Optional):
    """The rates of a request with more than `above` input tokens; those left out stay as they are."""

    above: int = Field(gt=0, le=1 << 40)


class ServiceDocument(_Optional):
    """Rates of a service tier: a percentage of the standard ones, or the ones that differ."""

    percent: int | None = Field(default=None, ge=0, le=1_000)
    long_context: tuple[LongContextDocument, ...] = ()


class PriceDocument(_Optional):
    """nano-USD per token; fractions down to a millionth are exact. Only input and output are needed.

    `per_image`, `per_request` and `tools` (by name) are nano-USD per image, request and call.
    """

    input: Nano
    output: Nano
    long_context: tuple[LongContextDocument, ...] = ()
    services: dict[ServiceName, ServiceDocument] = {}
    per_image: Nano = Decimal(0)
    per_request: Nano = Decimal(0)
    tools: dict[ToolName, Nano] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "PriceDocument":
        price_of(self, "")
        return self

    def short(self) -> dict[str, Any]:
        """The document as it is stored: what is not said is left out."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


def _rate(value: Decimal | None) -> int | None:
    return None if value is None else int(value * PER_MILLION)


def _rates(document: _Optional, base: Rates | None = None) -> Rates:
    given = {name: _rate(getattr(document, name)) for name in RATE_NAMES}
    if base is not None:
        given = {name: getattr(base, name) if rate is None else rate for name, rate in given.items()}
    return Rates(**given)  # type: ignore[arg-type] # a document without a base has input and output


def _tiers(documents: tuple[LongContextDocument, ...], base: Rates) -> tuple[LongContext, ...]:
    ordered = sorted(documents, key=lambda each: each.above)
    return tuple(LongContext(each.above, _rates(each, base)) for each in ordered)


def _service(name: str, document: ServiceDocument, base: Rates, tiers: tuple[LongContext, ...]) -> Service:
    if document.percent is not None:
        scaled = tuple(LongContext(tier.above, tier.rates.scaled(document.percent)) for tier in tiers)
        return Service(name, _rates(document, base.scaled(document.percent)), scaled)
    rates = _rates(document, base)
    # A service without long-context rates of its own has the standard ones there, never cheaper ones.
    own = _tiers(document.long_context, rates)
    return Service(name, rates, own or tiers)


def price_of(document: PriceDocument, version: str) -> Price:
    """Raises InvalidPrice (a ValueError) when the document contradicts itself."""
    base = _rates(document)
    tiers = _tiers(document.long_context, base)
    return Price(
        version,
        **{name: getattr(base, name) for name in RATE_NAMES},
        long_context=tiers,
        services=tuple(_service(name, each, base, tiers) for name, each in sorted(document.services.items())),
        per_request=int(document.per_request * PER_MILLION),
        per_image=int(document.per_image * PER_MILLION),
        tools=tuple((name, int(value * PER_MILLION)) for name, value in sorted(document.tools.items())),
    )


def read_price(document: Mapping[str, Any], version: str) -> Price:
    """A stored document as a price. Raises InvalidPrice, pydantic's ValidationError."""
    return price_of(PriceDocument.model_validate(document), version)


__all__ = ["InvalidPrice", "LongContextDocument", "Nano", "PriceDocument", "price_of", "read_price"]
