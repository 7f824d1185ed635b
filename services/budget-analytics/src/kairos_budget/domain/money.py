"""Nano-USD as decimal text and back. No floating point anywhere: every figure is exact."""

from decimal import Decimal, InvalidOperation
from typing import Final

NANO_PER_USD: Final = 1_000_000_000
# PostgreSQL's bigint bounds the figures; one budget stays far below it so that sums fit too.
MAX_NANO: Final = 1_000_000_000 * NANO_PER_USD


class NotAnAmount(ValueError):  # noqa: N818 - reads as the fact it states
    """The text is not a decimal amount in USD with at most nine decimals; the request is refused."""


def usd(nano: int) -> str:
    """Decimal USD with at least two decimals and no more than needed: 12_345_000_000 -> "12.345"."""
    sign, magnitude = ("-", -nano) if nano < 0 else ("", nano)
    whole, rest = divmod(magnitude, NANO_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def nano_from_usd(text: str) -> int:
    """Read "12.345" as 12_345_000_000. Raises NotAnAmount."""
    try:
        scaled = Decimal(text) * NANO_PER_USD
    except InvalidOperation as error:
        raise NotAnAmount(text) from error
    if not scaled.is_finite() or scaled != scaled.to_integral_value() or abs(scaled) > MAX_NANO:
        raise NotAnAmount(text)
    return int(scaled)


def price_of(tokens: int, nano_per_million: int) -> int:
    """What tokens cost, rounded up: a fraction of a nano-USD is owed, never given away."""
    return -(-tokens * nano_per_million // 1_000_000)
