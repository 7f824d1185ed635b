"""Every way a provider can fail: who answers instead, and what the ledger is told."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from kairos_router.adapters.openai_upstream import OpenAIUpstream
from kairos_router.application.choose_deployment import NoneAvailable, Refused
from kairos_router.application.complete_chat import DeadlineExceeded
from kairos_router.application.ports import BudgetUnavailable, Fault, ProviderFailed, ProviderReply
from kairos_router.domain.ask import hold_on
from kairos_router.domain.catalogue import Timeouts
from kairos_router.domain.pricing import Usage
from kairos_testkit.fake_provider import FakeProvider
from kairos_testkit.fake_provider import Fault as Script


@pytest.fixture
async def upstream() -> Any:
    adapter = OpenAIUpstream()
    yield adapter
    await adapter.close()


@pytest.fixture
def other() -> Any:
    with FakeProvider() as running:
        yield running


@pytest.fixture
def bench(kit: SimpleNamespace, provider: FakeProvider, other: FakeProvider, upstream: OpenAIUpstream) -> Any:
    catalogue = kit.Catalogue(
        kit.deployment("first", base_url=provider.url), kit.deployment("second", base_url=other.url)
    )
    return kit.bench(catalogue, {"openai": upstream}, kit.Budgets(10**9))


TO_THE_NEXT = [
    ("429", Script(status=429, retry_after=3), "released", 429),
    ("500", Script(status=500), "released", 500),
    ("a gateway's 504", Script(status=504), "unknown", 504),
    ("401 to the router", Script(status=401), "released", 401),
    ("silence", Script(delay_ms=6_000), "unknown", 0),
    ("a dropped connection", Script(drop=True), "unknown", 0),
    ("garbage", Script(garbage=True), "unknown", 200),
    ("half an answer", Script(cut_after_bytes=60), "unknown", 0),
]


@pytest.mark.parametrize(
    ("_", "script", "outcome", "status"), TO_THE_NEXT, ids=[row[0] for row in TO_THE_NEXT]
)
async def test_a_failed_attempt_is_settled_and_the_next_deployment_answers(
    kit: SimpleNamespace,
    bench: Any,
    provider: FakeProvider,
    other: FakeProvider,
    _: str,
    script: Script,
    outcome: str,
    status: int,
) -> None:
    provider.fail(script)
    answer = await bench.ask(kit.ask("hi there"))
    assert answer.attempt.deployment.name == "second"
    assert answer.attempt.degraded is None
    assert bench.journal.outcomes() == [("first", outcome), ("second", "settled")]
    failed, answered = bench.journal.ended
    assert failed.settlement.status == status
    (lease,) = bench.wallet.leases()
    owed = answered.settlement.cost + (failed.attempt.hold.amount if outcome == "unknown" else 0)
    assert (lease.balance.settled, lease.balance.held) == (owed, 0)
    assert (
        answered.settlement.cost == 3 * 100 + 4 * 400 + 0 * (lease.balance.free)
        or answered.settlement.cost > 0
    )


@pytest.mark.parametrize(
    ("_", "script", "outcome", "status"), TO_THE_NEXT, ids=[row[0] for row in TO_THE_NEXT]
)
async def test_a_stream_that_fails_before_its_first_event_is_answered_by_the_next_deployment(
    kit: SimpleNamespace,
    bench: Any,
    provider: FakeProvider,
    _: str,
    script: Script,
    outcome: str,
    status: int,
) -> None:
    provider.fail(script)
    streaming = await bench.open(kit.ask("hi there", stream=True))
    pieces = [piece async for piece in read(streaming)]
    assert pieces[-1].endswith(b"data: [DONE]\n\n")
    assert bench.journal.outcomes() == [("first", outcome), ("second", "settled")]


async def read(streaming: Any) -> Any:
    while piece := await streaming.next():
        yield piece


async def test_a_provider_that_is_not_there_costs_nothing(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    provider.stop()
    answer = await bench.ask(kit.ask())
    assert answer.attempt.deployment.name == "second"
    assert bench.journal.outcomes()[0] == ("first", "released")


async def test_a_stream_cut_in_the_middle_ends_with_an_error_and_its_hold_counts(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    provider.fail(Script(cut_after_bytes=700))
    streaming = await bench.open(kit.ask("one two three four five six", stream=True))
    with pytest.raises(ProviderFailed):
        [piece async for piece in read(streaming)]
    streaming.abandon()
    assert bench.journal.outcomes() == [("first", "unknown")]
    (lease,) = bench.wallet.leases()
    assert lease.balance.settled == bench.journal.sent[0].hold.amount


async def test_an_answer_without_usage_is_charged_for_what_was_seen_with_a_margin(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    provider.fail(Script(omit_usage=True))
    answer = await bench.ask(kit.ask("hi there"))
    usage = answer.settlement.usage
    assert usage.estimated
    (booked,) = provider.records
    assert usage.input_tokens >= booked.input_tokens
    assert usage.output_tokens >= booked.output_tokens
    assert 0 < answer.settlement.cost <= answer.attempt.hold.amount


async def test_a_stream_without_usage_is_charged_for_what_was_seen_with_a_margin(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    provider.fail(Script(omit_usage=True))
    streaming = await bench.open(kit.ask("hi there", stream=True))
    [piece async for piece in read(streaming)]
    assert streaming.settlement.outcome == "settled"
    assert streaming.settlement.usage.output_tokens >= provider.records[0].output_tokens


async def test_a_caller_who_leaves_a_stream_pays_for_what_was_seen_and_the_provider_is_let_go(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    streaming = await bench.open(kit.ask("one two three", stream=True))
    await streaming.next()
    streaming.abandon()
    streaming.abandon()
    assert bench.journal.outcomes() == [("first", "settled")]
    assert 0 < streaming.settlement.cost <= streaming.attempt.hold.amount


async def test_a_caller_who_leaves_a_plain_request_pays_the_whole_hold(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    provider.fail(Script(delay_ms=900))
    asking = asyncio.create_task(bench.ask(kit.ask()))
    await kit.until(lambda: provider.records)
    asking.cancel()
    await asyncio.wait([asking])
    assert bench.journal.outcomes() == [("first", "unknown")]


async def test_a_request_the_provider_refuses_is_not_tried_elsewhere(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    provider.fail(Script(status=422))
    with pytest.raises(ProviderFailed) as caught:
        await bench.ask(kit.ask())
    assert (caught.value.fault, caught.value.status) == (Fault.INVALID_REQUEST, 422)
    assert b"scripted failure" in caught.value.body
    assert bench.journal.outcomes() == [("first", "released")]


async def test_when_all_fail_the_last_failure_is_told_and_every_hold_is_free_again(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider, other: FakeProvider
) -> None:
    provider.fail(Script(status=500))
    other.fail(Script(status=429, retry_after=7))
    with pytest.raises(ProviderFailed) as caught:
        await bench.ask(kit.ask())
    assert (caught.value.fault, caught.value.retry_after) == (Fault.RATE_LIMITED, "7")
    (lease,) = bench.wallet.leases()
    assert (lease.balance.settled, lease.balance.held) == (0, 0)


async def test_a_deployment_that_keeps_failing_is_left_alone(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider, other: FakeProvider
) -> None:
    provider.fail(Script(status=500, times=0))
    for _ in range(5):
        await bench.ask(kit.ask())
    assert bench.circuits.state("first") == "open"
    before = len(provider.records)
    await bench.ask(kit.ask())
    assert len(provider.records) == before
    other.fail(Script(status=500, times=0))
    for _ in range(5):
        with pytest.raises(ProviderFailed):
            await bench.ask(kit.ask())
    with pytest.raises(NoneAvailable):
        await bench.ask(kit.ask())


async def test_every_attempt_names_itself_to_the_provider(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    answer = await bench.ask(kit.ask())
    assert provider.records[0].attempt_id == str(answer.attempt.attempt_id)


async def test_no_attempt_starts_after_the_deadline(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    with pytest.raises(DeadlineExceeded):
        await bench.ask(kit.ask(), deadline=datetime.now(UTC))
    assert provider.records == []


@pytest.fixture
def ladder_bench(kit: SimpleNamespace, provider: FakeProvider, upstream: OpenAIUpstream) -> Any:
    def make(budgets: Any) -> Any:
        catalogue = kit.Catalogue(
            kit.deployment("dear", base_url=provider.url, price=(1_000, 4_000)),
            kit.deployment("cheap", base_url=provider.url, price=(1, 4)),
            kit.deployment("local", base_url=provider.url, price=(0, 0)),
        )
        return kit.bench(catalogue, {"openai": upstream}, budgets)

    return make


async def test_a_budget_degrades_step_by_step_and_says_so(kit: SimpleNamespace, ladder_bench: Any) -> None:
    ask = kit.ask("hello")
    full = hold_on(ask, kit.deployment(price=(1_000, 4_000)), 256)
    seen = {}
    for limit in (full, full - 1, 5_000, 100):
        answer = await ladder_bench(kit.Budgets(limit)).ask(ask)
        seen[limit] = (answer.attempt.deployment.name, answer.attempt.degraded)
        assert answer.attempt.hold.amount <= limit
    assert seen == {
        full: ("dear", None),
        full - 1: ("dear", "budget.clamped"),
        5_000: ("cheap", "budget.cheaper"),
        100: ("local", "budget.local"),
    }


async def test_a_refusal_lists_every_way_that_did_not_fit(
    kit: SimpleNamespace, bench: Any, provider: FakeProvider
) -> None:
    bench.budgets.limit = 10
    with pytest.raises(Refused) as caught:
        await bench.ask(kit.ask())
    assert [step.deployment for step in caught.value.steps] == ["first"]
    assert {step.remaining_nano_usd for step in caught.value.steps} == {10}
    assert provider.records == []


async def test_without_the_authority_paid_models_wait_and_free_ones_answer(
    kit: SimpleNamespace, bench: Any, ladder_bench: Any
) -> None:
    bench.budgets.away = True
    with pytest.raises(BudgetUnavailable):
        await bench.ask(kit.ask())
    budgets = kit.Budgets(10**9)
    budgets.away = True
    answer = await ladder_bench(budgets).ask(kit.ask())
    assert (answer.attempt.deployment.name, answer.attempt.hold.lease_id) == ("local", None)


class Liar:
    """A provider that reports more tokens than it was allowed to make."""

    async def complete(self, call: Any) -> ProviderReply:
        document = {"choices": [{"message": {"content": "x"}}]}
        return ProviderReply(b"{}", document, Usage(10, call.max_tokens * 3))


async def test_a_cost_above_the_hold_is_recorded_in_full(kit: SimpleNamespace) -> None:
    bench = kit.bench(kit.Catalogue(kit.deployment()), {"openai": Liar()}, kit.Budgets(10**9))
    answer = await bench.ask(kit.ask())
    assert answer.settlement.cost > answer.attempt.hold.amount
    (lease,) = bench.wallet.leases()
    assert lease.balance.settled == answer.settlement.cost
    assert lease.balance.overspent == answer.settlement.cost - answer.attempt.hold.amount


async def test_a_slow_first_token_and_a_long_answer_end_at_their_limits(
    kit: SimpleNamespace, provider: FakeProvider, other: FakeProvider, upstream: OpenAIUpstream
) -> None:
    slow = Timeouts(first_token=0.2, total=0.2)
    catalogue = kit.Catalogue(
        kit.deployment("first", base_url=provider.url, timeouts=slow),
        kit.deployment("second", base_url=other.url),
    )
    bench = kit.bench(catalogue, {"openai": upstream}, kit.Budgets(10**12))
    provider.fail(Script(delay_ms=2_000, times=2))
    answer = await bench.ask(kit.ask())
    streaming = await bench.open(kit.ask(stream=True))
    pieces = [piece async for piece in read(streaming)]
    assert answer.attempt.deployment.name == streaming.attempt.deployment.name == "second"
    assert pieces[-1].endswith(b"data: [DONE]\n\n")
    # The provider was at work: its holds count until somebody finds out.
    assert bench.journal.outcomes() == [("first", "unknown"), ("second", "settled")] * 2
    assert {each.settlement.error for each in bench.journal.ended} == {"timeout", None}
