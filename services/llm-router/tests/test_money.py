"""Prices, bounds and leases: what must hold for any figures."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kairos_router.domain.lease import Balance, DoesNotFit, NotHeld
from kairos_router.domain.pricing import (
    Bounds,
    InvalidPrice,
    Price,
    Usage,
    affordable_output,
    cost,
    worst_case,
)

amounts = st.integers(0, 10**15)
tokens = st.integers(0, 2_000_000)
prices = st.builds(
    Price,
    st.just("test"),
    st.integers(0, 10**11),
    st.integers(0, 10**12),
    st.none() | st.integers(0, 10**11),
)


@given(prices, tokens, tokens, tokens)
def test_a_cost_is_never_negative(price: Price, read: int, written: int, cached: int) -> None:
    assert cost(price, Usage(read, written, cached)) >= 0


@given(prices, tokens, tokens, tokens, tokens, tokens)
def test_more_tokens_never_cost_less(
    price: Price, read: int, written: int, cached: int, more_read: int, more_written: int
) -> None:
    less = Usage(read + cached, written, cached)
    more = Usage(read + cached + more_read, written + more_written, cached)
    assert cost(price, more) >= cost(price, less)


@given(prices, tokens, tokens, st.data())
def test_the_worst_case_covers_every_usage_within_its_bounds(
    price: Price, read: int, written: int, data: st.DataObject
) -> None:
    inside = Usage(
        data.draw(st.integers(0, read)), data.draw(st.integers(0, written)), data.draw(st.integers(0, read))
    )
    assert worst_case(price, Bounds(read, written)) >= cost(price, inside)


@given(prices, tokens, amounts)
def test_an_affordable_answer_fits_and_one_token_more_does_not(price: Price, read: int, amount: int) -> None:
    output = affordable_output(price, Bounds(read, 0), amount)
    if output:
        assert worst_case(price, Bounds(read, output)) <= amount
        assert worst_case(price, Bounds(read, output + 1)) > amount


def test_published_prices_compute_to_the_nano_dollar() -> None:
    small = Price("2026-11", 150 * 10**6, 600 * 10**6, 75 * 10**6)
    # 1,000 input tokens of which 400 are cached at 0.075 USD/M, 200 output tokens at 0.60 USD/M.
    assert cost(small, Usage(1_000, 200, 400)) == 600 * 150 + 400 * 75 + 200 * 600
    tiny = Price("2026-11", 37_500_000, 150_000_000)
    assert cost(tiny, Usage(1, 0)) == 38  # 37.5 nano-USD, rounded up once for the attempt
    assert cost(tiny, Usage(2, 0)) == 75


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(InvalidPrice):
        Price("test", -1, 0)


def test_a_lease_gives_no_more_than_it_has() -> None:
    balance = Balance(100).take(60)
    with pytest.raises(DoesNotFit):
        balance.take(41)
    with pytest.raises(NotHeld):
        balance.settle(61, 0)
    assert balance.settle(60, 10).free == 90


class LeaseMachine(RuleBasedStateMachine):
    """Any order of holds, settlements, releases and top-ups."""

    def __init__(self) -> None:
        super().__init__()
        self.balance = Balance(1_000)
        self.holds: dict[object, int] = {}

    @rule(amount=st.integers(0, 800))
    def take(self, amount: int) -> None:
        if self.balance.fits(amount):
            self.balance = self.balance.take(amount)
            self.holds[uuid4()] = amount
        else:
            with pytest.raises(DoesNotFit):
                self.balance.take(amount)

    @precondition(lambda self: self.holds)
    @rule(share=st.floats(0, 1.5))
    def settle(self, share: float) -> None:
        _, amount = self.holds.popitem()
        self.balance = self.balance.settle(amount, int(amount * share))

    @rule(more=st.integers(0, 300))
    def extend(self, more: int) -> None:
        self.balance = self.balance.extend(more)

    @invariant()
    def nothing_is_spent_twice(self) -> None:
        balance = self.balance
        assert balance.held == sum(self.holds.values())
        assert balance.held + balance.settled <= balance.granted + balance.overspent
        assert balance.free >= 0


TestLease = LeaseMachine.TestCase


def test_no_hold_or_end_of_one_makes_money() -> None:
    balance = Balance(10, held=4)
    with pytest.raises(DoesNotFit):
        balance.take(-1)
    for hold, cost_of_it in ((5, 0), (-1, 0), (4, -1)):
        with pytest.raises(NotHeld):
            balance.settle(hold, cost_of_it)
    assert balance.shrink(-5).granted == 4
