"""Leases in memory: who asks the authority when, and what is given back."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from kairos_router.application.hold_money import DRY_S, LOST_AFTER_S, LeasePolicy, Wallet
from kairos_router.application.ports import BudgetExceeded, BudgetUnavailable
from kairos_router.domain.ask import Caller
from kairos_router.domain.lease import Scope

SLICE = 1_000


@pytest.fixture
def clock(kit: SimpleNamespace) -> Any:
    return kit.Clock()


@pytest.fixture
def caller(kit: SimpleNamespace) -> Caller:
    return Caller(Scope(kit.organisation))


def wallet_on(budgets: Any, clock: Any) -> Wallet:
    return Wallet(budgets, LeasePolicy(slice_nano_usd=SLICE, idle_after=20.0), clock=clock)


async def test_a_warm_lease_gives_holds_without_a_call(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    assert wallet.try_hold(caller, 100, uuid4()) is None
    await wallet.hold(caller, 100, uuid4())
    assert [wallet.try_hold(caller, 100, uuid4()) is not None for _ in range(9)] == [True] * 9
    assert budgets.calls == ["grant"]


async def test_what_costs_nothing_needs_no_lease(kit: SimpleNamespace, clock: Any, caller: Caller) -> None:
    budgets = kit.Budgets(0)
    hold = await wallet_on(budgets, clock).hold(caller, 0, uuid4())
    assert (hold.lease_id, budgets.calls) == (None, [])


async def test_many_requests_at_once_share_one_grant(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    await asyncio.gather(*(wallet.hold(caller, 50, uuid4()) for _ in range(20)))
    assert budgets.calls == ["grant"]


async def test_holds_never_exceed_the_limit_and_a_refusal_says_what_remains(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(1_000)
    wallet = wallet_on(budgets, clock)

    async def attempt() -> bool:
        try:
            await wallet.hold(caller, 150, uuid4())
        except BudgetExceeded:
            return False
        return True

    taken = await asyncio.gather(*(attempt() for _ in range(30)))
    assert sum(taken) * 150 <= 1_000
    assert sum(taken) >= 5
    assert budgets.remaining() >= 0
    with pytest.raises(BudgetExceeded) as caught:
        await wallet.hold(caller, 5_000, uuid4())
    assert caught.value.refusal.limit == 1_000


async def test_a_refusal_is_remembered_for_a_moment_only(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(100)
    wallet = wallet_on(budgets, clock)
    for _ in range(5):
        with pytest.raises(BudgetExceeded):
            await wallet.hold(caller, 500, uuid4())
    assert budgets.calls == ["grant"]
    assert await wallet.hold(caller, 50, uuid4()), "what fits is not refused for what does not"
    clock.now += 1.0
    budgets.limit = 10_000
    assert await wallet.hold(caller, 500, uuid4())


async def test_many_requests_that_do_not_fit_are_one_call(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(100)
    budgets.gate = asyncio.Event()
    wallet = wallet_on(budgets, clock)
    asking = [asyncio.create_task(wallet.hold(caller, 500, uuid4())) for _ in range(20)]
    await kit.until(lambda: budgets.calls)
    budgets.gate.set()
    refused = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(each) for each in refused} == {BudgetExceeded}
    assert budgets.calls == ["grant"]
    clock.now += LOST_AFTER_S + 1
    await wallet.maintain()
    assert budgets.calls == ["grant"], "nothing was granted that could be given back"


@pytest.mark.parametrize("how", ["a hold has ended", "the budgets have changed"])
async def test_a_refusal_is_forgotten_when_there_may_be_money_again(
    kit: SimpleNamespace, clock: Any, caller: Caller, how: str
) -> None:
    budgets = kit.Budgets(2_000)
    wallet = wallet_on(budgets, clock)
    hold = await wallet.hold(caller, 900, uuid4())
    with pytest.raises(BudgetExceeded):
        await wallet.hold(caller, 1_500, uuid4())
    if how == "a hold has ended":
        wallet.finish(hold, "released", 0)
    else:
        budgets.limit = 4_000
        wallet.forget(kit.organisation)
    assert (await wallet.hold(caller, 1_500, uuid4())).amount == 1_500


async def test_a_budget_that_gave_nothing_is_not_asked_again_at_once(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    await wallet.hold(caller, 600, uuid4())
    assert wallet.low.is_set()
    budgets.limit = SLICE
    await wallet.maintain()
    wallet.low.clear()
    assert wallet.try_hold(caller, 10, uuid4()) is not None
    await wallet.maintain()
    (lease,) = wallet.leases()
    assert budgets.reported[lease.lease_id].want_more == 0
    assert not wallet.low.is_set()
    clock.now += DRY_S
    assert wallet.try_hold(caller, 10, uuid4()) is not None
    assert wallet.low.is_set()


async def test_a_lease_has_as_much_free_as_is_in_use_and_gives_back_what_is_far_more(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(100_000)
    wallet = wallet_on(budgets, clock)
    hold = await wallet.hold(caller, 5_000, uuid4())
    await wallet.maintain()
    (lease,) = wallet.leases()
    assert (lease.balance.held, lease.balance.free) == (5_000, 5_000)
    wallet.finish(hold, "settled", 600)
    await wallet.maintain()
    assert lease.balance.free == SLICE
    assert budgets.remaining() == 100_000 - 600 - SLICE
    await wallet.hold(caller, 500, uuid4())
    await wallet.maintain()
    assert lease.balance.free == 500, "half of it is enough"


async def test_where_no_budget_applies_nothing_more_is_asked_for(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(None)
    wallet = wallet_on(budgets, clock)
    await wallet.hold(caller, 10**9, uuid4())
    assert not wallet.low.is_set()
    await wallet.maintain()
    (lease,) = wallet.leases()
    assert budgets.reported[lease.lease_id].want_more == 0


async def test_unused_leases_are_given_back_before_the_authority_is_asked_for_more(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(1_000)
    wallet = wallet_on(budgets, clock)
    hold = await wallet.hold(caller, 100, uuid4())
    wallet.finish(hold, "released", 0)
    assert await wallet.hold(caller, 1_000, uuid4())
    assert budgets.calls == ["grant", "close", "grant"]


async def test_unknown_outcomes_keep_the_whole_hold_spent(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    wallet = wallet_on(kit.Budgets(10_000), clock)
    for outcome, cost in (("unknown", 0), ("settled", 30), ("released", 0)):
        wallet.finish(await wallet.hold(caller, 100, uuid4()), outcome, cost)
    (lease,) = wallet.leases()
    assert (lease.balance.settled, lease.balance.held) == (130, 0)


async def test_a_hold_ends_once_whatever_is_told_twice(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    wallet = wallet_on(kit.Budgets(10_000), clock)
    hold = await wallet.hold(caller, 100, uuid4())
    wallet.finish(hold, "settled", 40)
    wallet.finish(hold, "unknown", 0)
    (lease,) = wallet.leases()
    assert lease.balance.settled == 40


async def test_an_expired_lease_takes_no_holds_and_an_unreachable_authority_is_said(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(10_000, ttl=10.0)
    wallet = wallet_on(budgets, clock)
    await wallet.hold(caller, 100, uuid4())
    budgets.away = True
    clock.now += 9.0
    assert wallet.try_hold(caller, 100, uuid4()) is not None
    clock.now += 0.6
    assert wallet.try_hold(caller, 100, uuid4()) is None
    with pytest.raises(BudgetUnavailable):
        await wallet.hold(caller, 100, uuid4())


async def test_a_heartbeat_prolongs_reports_and_tops_up(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(100_000, ttl=10.0)
    wallet = wallet_on(budgets, clock)
    hold = await wallet.hold(caller, 700, uuid4())
    wallet.finish(hold, "settled", 650)
    clock.now += 9.0
    await wallet.maintain()
    (lease,) = wallet.leases()
    assert lease.balance.free == SLICE
    assert budgets.leases[lease.lease_id].settled == 650
    clock.now += 9.0
    assert wallet.try_hold(caller, 100, uuid4()) is not None


async def test_a_low_lease_wakes_the_upkeep(kit: SimpleNamespace, clock: Any, caller: Caller) -> None:
    budgets = kit.Budgets(100_000)
    wallet = wallet_on(budgets, clock)
    keeper = asyncio.create_task(wallet.keep())
    await wallet.hold(caller, 700, uuid4())
    await kit.until(lambda: next(wallet.leases()).balance.granted > SLICE)
    keeper.cancel()


async def test_idle_leases_are_given_back(kit: SimpleNamespace, clock: Any, caller: Caller) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    wallet.finish(await wallet.hold(caller, 100, uuid4()), "settled", 60)
    open_hold = await wallet.hold(caller, 100, uuid4())
    budgets.ttl = 60.0
    await wallet.maintain()
    clock.now += 21.0
    await wallet.maintain()
    assert wallet.try_hold(caller, 0, uuid4()) is not None
    assert [lease.retired for lease in wallet.leases()] == [False], "with an open hold it is in use"
    wallet.finish(open_hold, "released", 0)
    await wallet.maintain()
    assert list(wallet.leases()) == []
    assert not wallet._purses, "nothing is kept for an organisation that is gone"
    assert budgets.remaining() == 10_000 - 60


async def test_a_lease_the_authority_expired_finishes_its_holds_and_is_closed(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    hold = await wallet.hold(caller, 100, uuid4())
    (lease,) = wallet.leases()
    budgets.leases[lease.lease_id].open = False
    await wallet.maintain()
    assert wallet.try_hold(caller, 10, uuid4()) is None
    assert (list(wallet.leases()), wallet.extend(hold, 110)) == ([lease], None)
    budgets.reported.clear()
    wallet.low.clear()
    await wallet.maintain()
    assert lease.lease_id in budgets.reported, "the authority hears of it while a hold is open"
    wallet.finish(hold, "settled", 100)
    assert wallet.low.is_set(), "the upkeep has something to close"
    await wallet.maintain()
    assert list(wallet.leases()) == []
    assert budgets.leases[lease.lease_id].settled == 100


async def test_changed_budgets_retire_the_organisations_leases(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(None)
    wallet = wallet_on(budgets, clock)
    await wallet.hold(caller, 10**12, uuid4())
    wallet.forget(uuid4())
    assert wallet.try_hold(caller, 10, uuid4()) is not None
    wallet.low.clear()
    wallet.forget(kit.organisation)
    assert wallet.try_hold(caller, 10, uuid4()) is None
    assert wallet.low.is_set()
    contact = Caller(Scope(kit.organisation, contact_id=uuid4()))
    budgets.limits(("contact", contact.scope.contact_id, False))
    await wallet.hold(caller, 10, uuid4())
    assert wallet.try_hold(contact, 10, uuid4()) is None, "the new budget is known"


async def test_a_grant_whose_caller_has_gone_still_arrives(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(10_000)
    budgets.gate = asyncio.Event()
    wallet = wallet_on(budgets, clock)
    waiting = asyncio.create_task(wallet.hold(caller, 100, uuid4()))
    await kit.until(lambda: budgets.calls)
    waiting.cancel()
    await asyncio.wait([waiting])
    budgets.gate.set()
    await kit.until(lambda: list(wallet.leases()))
    (lease,) = wallet.leases()
    await kit.until(lambda: lease.balance.held == 0)
    assert lease.balance.free == SLICE


async def test_a_lost_answer_is_asked_for_again_by_the_same_id(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    grant = budgets.grant

    async def lost(*args: Any, **kwargs: Any) -> Any:
        await grant(*args, **kwargs)
        raise BudgetUnavailable("the answer was lost")

    budgets.grant = lost
    with pytest.raises(BudgetUnavailable):
        await wallet.hold(caller, 100, uuid4())
    budgets.grant = grant
    await wallet.hold(caller, 100, uuid4())
    assert len(budgets.leases) == 1


@pytest.mark.parametrize("over", [False, True])
async def test_a_lost_grant_that_does_not_serve_any_more_is_followed_by_another(
    kit: SimpleNamespace, clock: Any, caller: Caller, over: bool
) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    grant = budgets.grant

    async def lost(*args: Any, **kwargs: Any) -> Any:
        await grant(*args, **kwargs)
        raise BudgetUnavailable("the answer was lost")

    budgets.grant = lost
    with pytest.raises(BudgetUnavailable):
        await wallet.hold(caller, 100, uuid4())
    budgets.grant = grant
    (first,) = budgets.leases.values()
    first.open = not over
    assert (await wallet.hold(caller, 3_000, uuid4())).amount == 3_000
    assert budgets.calls == ["grant", "grant", *(["close"] if over else []), "grant"]


async def test_closing_gives_everything_back_that_is_not_in_use(
    kit: SimpleNamespace, clock: Any, caller: Caller
) -> None:
    budgets = kit.Budgets(100_000)
    other = Caller(Scope(kit.organisation, uuid4()))
    budgets.limits(("project", other.scope.project_id, False))
    wallet = wallet_on(budgets, clock)
    busy = await wallet.hold(caller, 100, uuid4())
    wallet.finish(await wallet.hold(other, 100, uuid4()), "settled", 70)
    await wallet.close()
    assert [lease.lease_id for lease in wallet.leases()] == [busy.lease_id]
    assert budgets.remaining() == 100_000 - 70 - SLICE
