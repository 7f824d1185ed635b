"""Decisions about money, without a database."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_budget.domain.budget import ScopeChain
from kairos_budget.domain.lease import slice_for
from kairos_budget.domain.ledger import (
    SOURCES,
    Account,
    Balances,
    Exhausted,
    ImpossibleBalances,
    Movement,
    transfer_key,
)
from kairos_budget.domain.money import MAX_NANO, NotAnAmount, nano_from_usd, price_of, usd

AMOUNTS = st.integers(min_value=0, max_value=10_000)


@given(st.integers(min_value=-MAX_NANO, max_value=MAX_NANO))
def test_an_amount_survives_being_written_in_usd(nano: int) -> None:
    assert nano_from_usd(usd(nano)) == nano


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (12_345_000_000, "12.345"),
        (-500_000_000, "-0.50"),
        (7_000_000_000, "7.00"),
    ],
)
def test_usd_shows_two_decimals_and_no_more_than_needed(nano: int, text: str) -> None:
    assert usd(nano) == text


@pytest.mark.parametrize("text", ["", "1,5", "NaN", "Infinity", "0.0000000001", "1e40", "ten"])
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(NotAnAmount):
        nano_from_usd(text)


@given(st.integers(min_value=0, max_value=10**9), st.integers(min_value=0, max_value=10**12))
def test_a_price_is_rounded_up_by_less_than_one_nano(tokens: int, per_million: int) -> None:
    exact = tokens * per_million
    assert 0 <= price_of(tokens, per_million) * 1_000_000 - exact < 1_000_000


@given(AMOUNTS, st.integers(min_value=1, max_value=10_000), st.data(), st.integers(min_value=0, max_value=9))
def test_a_slice_is_at_least_the_need_and_never_more_than_is_left(
    remaining: int, want: int, data: st.DataObject, holders: int
) -> None:
    need = data.draw(st.integers(min_value=0, max_value=min(want, remaining)))
    granted = slice_for(remaining=remaining, want=want, need=need, holders=holders)
    assert need <= granted <= min(want, remaining)
    assert granted <= max(need, remaining // 2)


def test_a_chain_names_every_scope_it_spends_in() -> None:
    organisation, project, bot = uuid4(), uuid4(), uuid4()
    assert len(ScopeChain(organisation).scopes()) == 1
    assert [key.scope_id for key in ScopeChain(organisation, project, bot).scopes()] == [
        organisation,
        project,
        bot,
    ]


@st.composite
def balances(draw: st.DrawFn) -> Balances:
    limit, leased, settled, suspense = (draw(AMOUNTS) for _ in range(4))
    committed = leased + settled + suspense
    return Balances(
        limit=limit,
        available=max(limit - committed, 0),
        leased=leased,
        settled=settled,
        suspense=suspense,
        excess=max(committed - limit, 0),
    )


def test_accounts_that_do_not_add_up_can_not_be_made() -> None:
    for wrong in (
        {"limit": 10, "available": 9},
        {"limit": 10, "available": 11, "leased": -1},
        {"limit": 10, "available": 5, "leased": 6, "excess": 1},
    ):
        with pytest.raises(ImpossibleBalances):
            Balances(**wrong)


@given(balances(), AMOUNTS)
def test_a_reservation_never_passes_the_limit(before: Balances, amount: int) -> None:
    if amount > before.available:
        with pytest.raises(Exhausted):
            before.reserve(amount)
        return
    after = before.apply(before.reserve(amount))
    assert after.leased == before.leased + amount
    assert amount == 0 or after.committed <= after.limit


@given(balances(), AMOUNTS, st.sampled_from([Account.SETTLED, Account.SUSPENSE]))
def test_unreserved_money_is_committed_in_full_and_what_passes_the_limit_is_recorded(
    before: Balances, amount: int, target: Account
) -> None:
    after = before.apply(before.cover(amount, target))
    assert after.committed == before.committed + amount
    assert after.excess == max(after.committed - after.limit, 0)
    assert after.overspend - before.overspend == after.excess - before.excess


@given(balances(), st.data())
def test_money_given_back_makes_excess_good_first(before: Balances, data: st.DataObject) -> None:
    amount = data.draw(st.integers(min_value=0, max_value=before.leased))
    after = before.apply(before.give_back(amount, Account.LEASED))
    assert after.committed == before.committed - amount
    assert after.excess == max(after.committed - after.limit, 0)
    assert after.overspend == before.overspend


@given(balances(), AMOUNTS)
def test_a_changed_limit_takes_nothing_back(before: Balances, limit: int) -> None:
    after = before.apply(before.change_limit(limit))
    assert after.limit == limit
    assert after.committed == before.committed
    assert after.excess == max(after.committed - limit, 0)
    assert after.overspend == before.overspend


@given(
    balances(), st.lists(st.tuples(st.sampled_from(Account), st.sampled_from(Account), AMOUNTS), max_size=5)
)
def test_any_movement_keeps_debits_equal_to_credits_or_is_refused(
    before: Balances, moves: list[tuple[Account, Account, int]]
) -> None:
    movements = [Movement(source, target, amount) for source, target, amount in moves if source is not target]
    try:
        after = before.apply(movements)
    except ImpossibleBalances:
        return
    held = after.available + after.leased + after.settled + after.suspense
    assert held == after.limit + after.excess
    assert {Account.LIMIT, Account.EXCESS} == SOURCES


def test_the_same_cause_has_the_same_key_and_another_cause_another() -> None:
    period, movement = uuid4(), Movement(Account.LEASED, Account.SETTLED, 5)
    assert transfer_key("post:1", period, movement) == transfer_key("post:1", period, movement)
    assert transfer_key("post:1", period, movement) != transfer_key("post:2", period, movement)
    assert transfer_key("post:1", period, movement) != transfer_key("post:1", uuid4(), movement)
