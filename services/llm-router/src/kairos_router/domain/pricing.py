"""What tokens cost, exactly, and the most an attempt can cost.

Prices are integers of nano-USD per million tokens, so that a price of a fraction of a nano-dollar per
token stays exact. An attempt's cost is rounded up once, to a whole nano-dollar.
"""

from dataclasses import dataclass

TOKENS_PER_PRICE = 1_000_000


class InvalidPrice(ValueError):  # noqa: N818 - reads as the fact it states
    """A price is negative; the deployment is not loaded."""


@dataclass(frozen=True, slots=True)
class Price:
    """nano-USD per million tokens. Without `cached_input`, cached tokens cost what input costs."""

    version: str
    input: int
    output: int
    cached_input: int | None = None

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.cached_input or 0) < 0:
            raise InvalidPrice(self.version)

    @property
    def free(self) -> bool:
        return not (self.input or self.output or self.cached_input)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt. Cached tokens are part of the input; reasoning tokens of the output.

    `estimated`: counted here because the provider's own figures never came.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most tokens an attempt can use."""

    input_tokens: int
    output_tokens: int


def _rounded_up(micro: int) -> int:
    return -(-micro // TOKENS_PER_PRICE)


def cost(price: Price, usage: Usage) -> int:
    """What the usage costs in nano-USD."""
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = usage.input_tokens - cached
    return _rounded_up(fresh * price.input + cached * cached_price + usage.output_tokens * price.output)


def worst_case(price: Price, bounds: Bounds) -> int:
    """The most an attempt within the bounds can cost in nano-USD: every token at its dearest price."""
    dearest_input = max(price.input, price.cached_input or 0)
    return _rounded_up(bounds.input_tokens * dearest_input + bounds.output_tokens * price.output)


def affordable_output(price: Price, input_tokens: int, amount: int) -> int:
    """The largest output bound whose worst case fits into `amount`; 0 when the input alone does not."""
    rest = amount * TOKENS_PER_PRICE - input_tokens * max(price.input, price.cached_input or 0)
    if rest < 0 or price.output == 0:
        return 0
    return rest // price.output
