"""Which requests share a lease, what moves between leases, and what goes back when money is short."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from kairos_contracts.scopes import model_scope_id
from kairos_router.application.hold_money import LOST_AFTER_S, LeasePolicy, Wallet
from kairos_router.application.ports import BudgetExceeded, BudgetUnavailable
from kairos_router.domain.ask import Caller
from kairos_router.domain.lease import Scope

SLICE = 1_000


@pytest.fixture
def clock(kit: SimpleNamespace) -> Any:
    return kit.Clock()


def wallet_on(budgets: Any, clock: Any) -> Wallet:
    return Wallet(budgets, LeasePolicy(slice_nano_usd=SLICE, idle_after=20.0), clock=clock)


def caller_of(kit: SimpleNamespace, priority: Any = None, **scopes: Any) -> Caller:
    return Caller(Scope(kit.organisation, **scopes), priority=priority)


async def test_requests_that_differ_in_scopes_without_a_budget_share_a_lease(
    kit: SimpleNamespace, clock: Any
) -> None:
    budgets = kit.Budgets(100_000)
    wallet = wallet_on(budgets, clock)
    for _ in range(5):
        await wallet.hold(
            caller_of(kit, contact_id=uuid4(), api_key_id=uuid4()), 10, uuid4(), f"model-{uuid4()}"
        )
    assert budgets.calls == ["grant"]


async def test_every_scope_with_a_budget_has_leases_of_its_own(kit: SimpleNamespace, clock: Any) -> None:
    budgets, contact = kit.Budgets(100_000), uuid4()
    budgets.limits(("contact", contact, False), ("model", model_scope_id("dear-1"), False))
    wallet = wallet_on(budgets, clock)
    plain, limited = caller_of(kit, contact_id=uuid4()), caller_of(kit, contact_id=contact)
    for caller, model in ((plain, "cheap-1"), (limited, "cheap-1"), (limited, "dear-1"), (plain, "dear-1")):
        await wallet.hold(caller, 10, uuid4(), model)
        assert wallet.try_hold(caller, 10, uuid4(), model) is not None
    assert budgets.calls == ["grant"] * 4
    chains = {(lease.scope.contact_id, lease.scope.model_id) for lease in wallet.leases()}
    dear = model_scope_id("dear-1")
    assert chains == {(None, None), (contact, None), (contact, dear), (None, dear)}


@pytest.mark.parametrize("kind", ["project", "bot", "team", "contact", "api_key"])
async def test_each_kind_of_scope_can_have_a_budget(kit: SimpleNamespace, clock: Any, kind: str) -> None:
    budgets, scope_id = kit.Budgets(100_000), uuid4()
    budgets.limits((kind, scope_id, False))
    wallet = wallet_on(budgets, clock)
    await wallet.hold(caller_of(kit, **{f"{kind}_id": scope_id}), 10, uuid4())
    assert wallet.try_hold(caller_of(kit, **{f"{kind}_id": uuid4()}), 10, uuid4()) is None
    assert wallet.try_hold(caller_of(kit), 10, uuid4()) is None
    assert wallet.try_hold(caller_of(kit, **{f"{kind}_id": scope_id}), 10, uuid4()) is not None


@pytest.mark.parametrize("told_by", ["heartbeat", "grant"])
async def test_a_hold_is_never_taken_from_a_lease_that_is_newer_than_the_index(
    kit: SimpleNamespace, clock: Any, told_by: str
) -> None:
    """The race: a contact gets a budget, and the event that says so is late or lost."""
    budgets, contact = kit.Budgets(100_000), uuid4()
    wallet = wallet_on(budgets, clock)
    limited, plain = caller_of(kit, contact_id=contact), caller_of(kit)
    await wallet.hold(plain, 10, uuid4())
    assert wallet.try_hold(limited, 10, uuid4()) is not None
    budgets.limits(("contact", contact, False), told=False)
    # The first answer names the new version: from now on the old index decides nothing any more.
    if told_by == "heartbeat":
        await wallet.maintain()
    else:
        await wallet.hold(plain, 5_000, uuid4())
    assert wallet.try_hold(limited, 10, uuid4()) is None
    assert wallet.try_hold(plain, 10, uuid4()) is None
    budgets.index = budgets.truth.index
    await wallet.hold(limited, 10, uuid4())
    assert {lease.scope.contact_id for lease in wallet.leases()} == {None, contact}
    assert wallet.try_hold(plain, 10, uuid4()) is not None


async def test_a_grant_is_for_the_chain_the_authority_says_whatever_the_index_said(
    kit: SimpleNamespace, clock: Any
) -> None:
    budgets, contact = kit.Budgets(100_000), uuid4()
    budgets.limits(("contact", contact, False), told=False)
    wallet = wallet_on(budgets, clock)
    await wallet.hold(caller_of(kit, contact_id=contact), 10, uuid4())
    (lease,) = wallet.leases()
    assert lease.scope.contact_id == contact
    # It was asked for with every scope of the request, not with those the router thought to matter.
    assert budgets.asked[0][0].contact_id == contact
    assert budgets.asked[0][0].model_id == model_scope_id("")


async def test_a_priority_has_its_own_lease_where_reserves_are_kept_and_may_use_lower_ones(
    kit: SimpleNamespace, clock: Any
) -> None:
    budgets = kit.Budgets(100_000)
    budgets.limits(("organisation", kit.organisation, True))
    wallet = wallet_on(budgets, clock)
    batch, interactive = caller_of(kit, "batch"), caller_of(kit, "interactive")
    await wallet.hold(batch, 10, uuid4())
    assert wallet.try_hold(interactive, 10, uuid4()) is not None
    assert budgets.calls == ["grant"]
    wallet.finish(await wallet.hold(interactive, 2_000, uuid4()), "released", 0)
    assert [priority for _, priority in budgets.asked] == ["batch", "interactive"]
    for lease in wallet.leases():
        lease.retired = lease.key[6] == "batch"
    # What was reserved for customers is not for batches.
    for lower in (batch, caller_of(kit, "normal"), caller_of(kit)):
        assert wallet.try_hold(lower, 10, uuid4()) is None
    await wallet.hold(caller_of(kit), 100, uuid4())
    for lease in wallet.leases():
        lease.retired = lease.key[6] != "normal"
    assert wallet.try_hold(caller_of(kit), 10, uuid4()) is not None
    assert wallet.try_hold(batch, 10, uuid4()) is None


async def test_recalled_money_goes_back_with_the_next_heartbeat_and_holds_stay(
    kit: SimpleNamespace, clock: Any
) -> None:
    budgets = kit.Budgets(100_000)
    wallet = wallet_on(budgets, clock)
    caller = caller_of(kit)
    hold = await wallet.hold(caller, 300, uuid4())
    budgets.keep = 0
    await wallet.maintain()
    (lease,) = wallet.leases()
    assert (lease.balance.free, lease.balance.held) == (0, 300)
    assert wallet.low.is_set()
    await wallet.maintain()
    assert budgets.remaining() == 100_000 - 300
    wallet.finish(hold, "settled", 120)
    assert lease.balance.free == 180


async def test_a_refused_request_first_takes_back_what_lies_unused_in_other_leases_of_the_process(
    kit: SimpleNamespace, clock: Any
) -> None:
    budgets, contact = kit.Budgets(2_000), uuid4()
    budgets.limits(("contact", contact, False))
    wallet = wallet_on(budgets, clock)
    kept = await wallet.hold(caller_of(kit, contact_id=contact), 100, uuid4())
    assert budgets.remaining() == 1_000
    assert (await wallet.hold(caller_of(kit), 1_900, uuid4())).amount == 1_900
    assert budgets.calls == ["grant", "grant", "renew", "grant"]
    assert budgets.remaining() == 0
    with pytest.raises(BudgetExceeded):
        await wallet.hold(caller_of(kit), 1, uuid4())
    wallet.finish(kept, "settled", 100)


async def test_long_open_holds_are_reported_oldest_first(kit: SimpleNamespace, clock: Any) -> None:
    budgets = kit.Budgets(100_000)
    wallet = wallet_on(budgets, clock)
    attempts = [uuid4() for _ in range(3)]
    for number, attempt in enumerate(attempts):
        await wallet.hold(caller_of(kit), 10 + number, attempt, "dear-1")
        clock.now += 20.0
        budgets.ttl = 1_000.0
        await wallet.maintain()
    (lease,) = wallet.leases()
    reported = budgets.reported[lease.lease_id].holds
    assert [(each.attempt_id, each.amount, each.age) for each in reported] == [
        (attempts[0], 10, 60.0),
        (attempts[1], 11, 40.0),
    ]
    assert {each.model for each in reported} == {"dear-1"}


async def test_a_grant_nobody_asks_for_again_is_given_back(kit: SimpleNamespace, clock: Any) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    grant = budgets.grant

    async def lost(*args: Any, **kwargs: Any) -> Any:
        await grant(*args, **kwargs)
        raise BudgetUnavailable("the answer was lost")

    budgets.grant = lost
    with pytest.raises(BudgetUnavailable):
        await wallet.hold(caller_of(kit), 100, uuid4())
    assert budgets.remaining() == 9_000
    await wallet.maintain()
    assert budgets.remaining() == 9_000
    clock.now += LOST_AFTER_S + 1
    budgets.grant, budgets.gate = grant, asyncio.Event()
    asking = asyncio.create_task(wallet.hold(caller_of(kit), 100, uuid4()))
    await kit.until(lambda: budgets.calls == ["grant", "grant"])
    await asyncio.wait_for(wallet.maintain(), 5)
    asking.cancel()
    await asyncio.wait([asking])
    assert budgets.calls == ["grant", "grant"], "somebody asks for it right now"
    budgets.gate.set()
    await kit.until(lambda: not wallet._asking)
    await wallet.close()
    assert budgets.remaining() == 10_000


async def test_a_lost_grant_is_closed_when_nobody_came_back_for_it(kit: SimpleNamespace, clock: Any) -> None:
    budgets = kit.Budgets(10_000)
    wallet = wallet_on(budgets, clock)
    grant = budgets.grant

    async def lost(*args: Any, **kwargs: Any) -> Any:
        await grant(*args, **kwargs)
        raise BudgetUnavailable("the answer was lost")

    budgets.grant = lost
    with pytest.raises(BudgetUnavailable):
        await wallet.hold(caller_of(kit), 100, uuid4())
    clock.now += LOST_AFTER_S + 1
    await wallet.maintain()
    assert budgets.remaining() == 10_000


async def test_a_hold_grows_in_its_lease_and_moves_to_another_when_its_own_is_too_small(
    kit: SimpleNamespace, clock: Any
) -> None:
    budgets = kit.Budgets(100_000)
    wallet = wallet_on(budgets, clock)
    hold = await wallet.hold(caller_of(kit), 600, uuid4())
    clock.now += 1.0
    grown = wallet.extend(hold, 900)
    assert grown is not None
    assert (grown.amount, grown.lease_id) == (900, hold.lease_id)
    assert wallet.extend(grown, 5_000) is None
    other = await wallet.hold(caller_of(kit), 6_000, uuid4())
    wallet.finish(other, "released", 0)
    moved = wallet.extend(grown, 5_000)
    assert moved is not None
    assert (moved.amount, moved.lease_id, moved.taken_at) == (5_000, other.lease_id, hold.taken_at)
    assert sum(lease.balance.held for lease in wallet.leases()) == 5_000
    wallet.finish(moved, "settled", 4_000)
    wallet.finish(hold, "unknown", 0)
    assert sum(lease.balance.settled for lease in wallet.leases()) == 4_000
    assert wallet.extend(moved, 6_000) is None


async def test_widening_gets_money_here_that_the_hold_can_grow_into(kit: SimpleNamespace, clock: Any) -> None:
    budgets = kit.Budgets(100_000)
    wallet = wallet_on(budgets, clock)
    hold = await wallet.hold(caller_of(kit), 900, uuid4())
    await wallet.widen(hold, 4_000)
    assert budgets.calls == ["grant", "renew"]
    assert sum(lease.balance.held for lease in wallet.leases()) == 900
    grown = wallet.extend(hold, 4_000)
    assert grown is not None
    assert grown.amount == 4_000
    with pytest.raises(BudgetExceeded):
        await wallet.widen(grown, 200_000)
    assert wallet.extend(grown, 4_000) == grown
    wallet.forget(kit.organisation)
    await wallet.widen(grown, 6_000)
    assert sum(lease.balance.held for lease in wallet.leases()) == 4_000, "what was kept for it is free"
    moved = wallet.extend(grown, 6_000)
    assert moved is not None
    assert moved.lease_id != grown.lease_id, "a lease that takes no holds takes no more of one either"


async def test_many_chains_at_once_read_the_index_once(kit: SimpleNamespace, clock: Any) -> None:
    budgets = kit.Budgets(1_000_000)
    reads = []
    scopes = budgets.scopes

    async def counted(organisation_id: Any) -> Any:
        reads.append(organisation_id)
        return await scopes(organisation_id)

    budgets.scopes = counted
    wallet = wallet_on(budgets, clock)
    await asyncio.gather(*(wallet.hold(caller_of(kit, contact_id=uuid4()), 10, uuid4()) for _ in range(20)))
    assert len(reads) == 1
