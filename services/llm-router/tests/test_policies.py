"""In which order a route's deployments are asked, when they are asked again, and when tokens are counted."""

from collections import Counter
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from kairos_router.adapters.openai_upstream import OpenAIUpstream
from kairos_router.adapters.token_counter import PER_MESSAGE, PER_REQUEST, Tiktoken
from kairos_router.application.choose_deployment import Chooser, Circuits, NoneAvailable
from kairos_router.application.complete_chat import CompleteChat, Dispatcher
from kairos_router.application.ports import Fault, ProviderFailed, ProviderReply
from kairos_router.application.retry_budget import RetryBudgets
from kairos_router.domain.ask import Caller, bounds_on
from kairos_router.domain.catalogue import Balance, Catalogue, ModelNotFound, Retries, Route
from kairos_router.domain.lease import Scope
from kairos_router.domain.policy import Latency, Ranking
from kairos_router.domain.pricing import Usage
from kairos_router.domain.selection import NothingFits
from kairos_testkit.fake_provider import FakeProvider
from kairos_testkit.fake_provider import Fault as Script

NAMES = ("a", "b", "c")
CALLER = Caller(Scope(UUID(int=1)))


@pytest.fixture
def order(kit: SimpleNamespace) -> Any:
    """The order of a route over a, b and c as a word."""
    prices = {"a": (30, 30), "b": (10, 10), "c": (20, 20)}
    deployments = {name: kit.deployment(name, price=prices[name]) for name in NAMES}

    def of(
        *, caller: Caller = CALLER, chance: Any = 0.5, quality: Any = None, p95: Any = None, **route: Any
    ) -> str:
        made = Route("r", NAMES, **route)
        catalogue = Catalogue(deployments, {"r": made}, quality or {})
        circuits = Circuits()
        for name, seconds in (p95 or {}).items():
            circuits.took(name, seconds)
        ranking = Ranking(
            kit.ask(), caller, catalogue, circuits, chance if callable(chance) else lambda: chance
        )
        return "".join(each.name for each in ranking.order(catalogue.choice("r")))

    return of


def test_fixed_cost_latency_and_quality_rank_as_they_say(order: Any) -> None:
    assert order() == "abc"
    assert order(policy="cost") == "bca"
    assert order(policy="latency", p95={"a": 0.3, "b": 0.2, "c": 0.1}) == "cba"
    assert order(policy="quality", quality={"a": 0.2, "b": 0.3, "c": 0.9}) == "cba"
    assert order(policy="quality", quality={"a": 0.2, "c": 0.9}) == "cba", (
        "nobody knows b: it is of the middle"
    )


def test_a_deployment_nobody_has_tried_is_tried_first_by_latency(order: Any) -> None:
    assert order(policy="latency", p95={"a": 0.1, "b": 0.2}) == "cab"


def test_balanced_weighs_cost_latency_and_quality(order: Any) -> None:
    quality = {"a": 1.0, "b": 0.0, "c": 0.5}
    p95 = {"a": 1.0, "b": 1.0, "c": 1.0}
    assert order(policy="balanced", quality=quality, p95=p95, balance=Balance(9, 0, 1)) == "bca"
    assert order(policy="balanced", quality=quality, p95=p95, balance=Balance(1, 0, 9)) == "acb"
    p95 = {"a": 0.3, "b": 0.2, "c": 0.1}
    assert order(policy="balanced", quality=quality, p95=p95, balance=Balance(1, 9, 1)) == "cba"


def test_weights_and_canaries_get_their_shares(kit: SimpleNamespace, order: Any) -> None:
    callers = [replace(CALLER, affinity=UUID(int=number)) for number in range(2_000)]
    first = Counter(
        order(caller=each, policy="weighted", weights=(7, 2, 1), sticky=True)[0] for each in callers
    )
    assert first["a"] / 2_000 == pytest.approx(0.7, abs=0.05)
    assert first["b"] / 2_000 == pytest.approx(0.2, abs=0.05)
    canary = Counter(order(caller=each, canaries=(("c", 10),), sticky=True)[0] for each in callers)
    assert canary["c"] / 2_000 == pytest.approx(0.1, abs=0.03)
    # Whom the canary does not take, it answers last.
    assert order(chance=0.5, canaries=(("a", 10),)) == "bca"
    assert order(chance=0.05, canaries=(("c", 10),)) == "cab"
    assert order(chance=0.1, canaries=(("c", 10),)) == "abc"
    two = (("b", 10), ("c", 10))
    assert [order(chance=chance, canaries=two) for chance in (0.05, 0.15, 0.2)] == ["bac", "cab", "abc"]


def test_chance_draws_by_weight_where_nobody_is_kept(order: Any) -> None:
    chance = Random(7).random
    first = Counter(order(chance=chance, policy="weighted", weights=(7, 2, 1))[0] for _ in range(1_000))
    assert first["a"] / 1_000 == pytest.approx(0.7, abs=0.06)
    assert first["b"] / 1_000 == pytest.approx(0.2, abs=0.06)
    assert order(chance=0.0, policy="weighted", weights=(1, 5, 3)) == "bca"


def test_two_routes_try_their_canaries_on_different_callers(kit: SimpleNamespace) -> None:
    deployments = {name: kit.deployment(name) for name in NAMES}
    routes = {name: Route(name, NAMES, canaries=(("c", 30),), sticky=True) for name in "rs"}
    catalogue = Catalogue(deployments, routes)

    def chosen(route: str, number: int) -> bool:
        caller = replace(CALLER, affinity=UUID(int=number))
        ranking = Ranking(kit.ask(), caller, catalogue, Circuits(), lambda: 0.5)
        return ranking.order(catalogue.choice(route))[0].name == "c"

    both = [(chosen("r", number), chosen("s", number)) for number in range(300)]
    assert sum(map(all, both)) / 300 == pytest.approx(0.09, abs=0.06)


def test_only_routes_with_something_to_rank_are_ranked(kit: SimpleNamespace) -> None:
    deployments = {name: kit.deployment(name) for name in NAMES}
    routes = {
        "plain": Route("plain", NAMES),
        "single": Route("single", ("a",), policy="cost", sticky=True),
        "canary": Route("canary", NAMES, canaries=(("c", 1),)),
        "sticky": Route("sticky", NAMES, sticky=True),
        "cost": Route("cost", NAMES, policy="cost"),
        "later": Route("later", ("a",), fallbacks=("cost",)),
    }
    catalogue = Catalogue(deployments, routes)
    assert [name for name in routes if catalogue.choice(name).plain] == ["plain", "single"]
    assert catalogue.choice("a").plain, "a deployment's own name is a route to it alone"


def test_a_sticky_route_keeps_a_conversation_where_it_is(order: Any) -> None:
    callers = [replace(CALLER, affinity=uuid4()) for _ in range(50)]
    for each in callers:
        assert (
            len({order(caller=each, policy="weighted", weights=(1, 1, 1), sticky=True) for _ in "xyz"}) == 1
        )
    # Where the policy knows no weights, all get the same share.
    assert len({order(caller=each, sticky=True, weights=(10**9, 1, 1))[0] for each in callers}) == 3
    keys = [replace(CALLER, api_key_id=each.affinity) for each in callers]
    assert [order(caller=each, sticky=True) for each in keys] == [
        order(caller=each, sticky=True) for each in callers
    ], "whose conversation nobody knows is kept by the key"


def test_the_p95_of_a_steady_latency_is_that_latency_and_of_an_unsteady_one_more() -> None:
    steady = unsteady = Latency(1.0)
    for number in range(200):
        steady, unsteady = steady.seen(1.0), unsteady.seen(0.5 + number % 2)
    assert steady.p95 == pytest.approx(1.0)
    # A mean of 1.0 and a deviation of 0.5.
    assert unsteady.p95 == pytest.approx(1.0 + 1.645 * 0.5, abs=0.1)


def test_fallback_routes_follow_and_nobody_is_asked_twice(kit: SimpleNamespace) -> None:
    deployments = {name: kit.deployment(name) for name in NAMES}
    routes = {
        "r": Route("r", ("a", "b"), fallbacks=("s", "gone")),
        "s": Route("s", ("b", "c")),
    }
    catalogue = Catalogue(deployments, routes)
    assert [each.name for each in catalogue.candidates("r")] == ["a", "b", "c"]
    with pytest.raises(ModelNotFound):
        catalogue.choice("gone")


@pytest.fixture
async def upstream() -> Any:
    adapter = OpenAIUpstream()
    yield adapter
    await adapter.close()


def bench_of(kit: SimpleNamespace, catalogue: Any, providers: Any, **more: Any) -> Any:
    bench = kit.bench(catalogue, providers, kit.Budgets(more.pop("limit", 10**12)))
    chooser = Chooser(catalogue, bench.wallet, bench.circuits)
    bench.complete = CompleteChat(Dispatcher(chooser, bench.wallet, bench.circuits, providers, **more))
    return bench


async def test_a_failure_that_passes_is_tried_again_on_the_same_deployment_with_a_hold_of_its_own(
    kit: SimpleNamespace, provider: FakeProvider, upstream: OpenAIUpstream
) -> None:
    catalogue = kit.Catalogue(kit.deployment("only", base_url=provider.url, retries=2))
    bench = bench_of(kit, catalogue, {"openai": upstream}, retries=RetryBudgets(chance=lambda: 0.0))
    provider.fail(Script(status=500, times=2))
    await bench.ask(kit.ask())
    assert bench.journal.outcomes() == [("only", "released"), ("only", "released"), ("only", "settled")]
    assert len({attempt.attempt_id for attempt in bench.journal.sent}) == 3
    assert bench.free() == [0]


async def test_a_routes_retries_end_with_its_budget(
    kit: SimpleNamespace, provider: FakeProvider, upstream: OpenAIUpstream
) -> None:
    catalogue = kit.Catalogue(kit.deployment("only", base_url=provider.url, retries=3))
    route = replace(catalogue.value.routes["default"], retries=Retries(percent=0, burst=2))
    catalogue.value = Catalogue(catalogue.value.deployments, {"default": route})
    bench = bench_of(kit, catalogue, {"openai": upstream}, retries=RetryBudgets(chance=lambda: 0.0))
    provider.fail(Script(status=500, times=0))
    with pytest.raises(ProviderFailed):
        await bench.ask(kit.ask())
    assert len(provider.records) == 3


def test_answers_earn_retries_and_the_burst_is_the_most(kit: SimpleNamespace) -> None:
    budgets, route = RetryBudgets(), Route("r", ("a",), retries=Retries(percent=50, burst=1))
    assert budgets.spend(route)
    assert not budgets.spend(route)
    budgets.earn(route)
    assert not budgets.spend(route)
    for _ in range(10):
        budgets.earn(route)
    assert budgets.spend(route)
    assert not budgets.spend(route)


async def test_a_provider_that_says_when_to_come_back_is_left_alone_until_then(
    kit: SimpleNamespace, provider: FakeProvider, upstream: OpenAIUpstream
) -> None:
    clock = kit.Clock()
    catalogue = kit.Catalogue(kit.deployment("only", base_url=provider.url))
    bench = kit.bench(catalogue, {"openai": upstream}, kit.Budgets(10**12), clock)
    provider.fail(Script(status=429, retry_after=20))
    with pytest.raises(ProviderFailed):
        await bench.ask(kit.ask())
    clock.now += 19
    with pytest.raises(NoneAvailable) as caught:
        await bench.ask(kit.ask())
    assert caught.value.retry_after == pytest.approx(1)
    clock.now += 1.5
    await bench.ask(kit.ask())
    assert bench.circuits.state("only") == "closed"


def test_a_full_deployment_is_passed_over_until_a_call_ends(kit: SimpleNamespace) -> None:
    busy, other = kit.deployment("busy", max_concurrency=1), kit.deployment("other")
    circuits = Circuits()
    circuits.tried(busy)
    assert circuits.closed((busy, other)) == (other,)
    with pytest.raises(NoneAvailable):
        circuits.closed((busy,))
    circuits.ended(busy)
    assert circuits.closed((busy, other)) == (busy, other)
    circuits.tried(other)
    assert circuits.running(other) == 0, "nobody limits it, so nobody counts"


def test_callers_are_told_the_shortest_wait_and_no_wait_is_beyond_reason(kit: SimpleNamespace) -> None:
    clock = kit.Clock()
    circuits = Circuits(clock=clock)
    long, short, full = kit.deployment("l"), kit.deployment("s"), kit.deployment("f", max_concurrency=1)
    circuits.rest("l", 3_600.0)
    circuits.rest("s", 20.0)
    circuits.tried(full)
    waits = []
    for those in ((long,), (long, short), (long, full)):
        with pytest.raises(NoneAvailable) as caught:
            circuits.closed(those)
        waits.append(caught.value.retry_after)
    assert waits == [60.0, 20.0, 1.0]
    clock.now += 60.0
    assert circuits.closed((long,)) == (long,)


def test_latencies_of_a_deployment_are_weighed_together_and_organisations_apart(kit: SimpleNamespace) -> None:
    circuits = Circuits()
    shared = kit.deployment("d")
    mine, theirs = (replace(shared, owner=uuid4()) for _ in "ab")
    circuits.took(mine.uid, 1.0)
    circuits.took(mine.uid, 3.0)
    assert circuits.p95(mine) == pytest.approx(Latency(1.0).seen(3.0).p95)
    assert circuits.p95(theirs) is circuits.p95(shared) is None


def test_circuits_are_told_of_once_and_a_hint_makes_one_failure_enough(kit: SimpleNamespace) -> None:
    told: list[tuple[str, str, str]] = []
    circuits = Circuits(told=lambda *change: told.append(change))
    circuits.suspect("d")
    assert circuits.state("d") == "closed"
    circuits.failed("d", "timeout")
    circuits.failed("d", "timeout")
    circuits.succeeded("d")
    circuits.failed("d", "timeout")
    circuits.succeeded("d")
    assert told == [("d", "open", "timeout"), ("d", "closed", "answered")]


class Echo:
    async def complete(self, call: Any) -> ProviderReply:
        return ProviderReply(b"{}", {"choices": [{"message": {"content": "x"}}]}, Usage(1, 1))


@pytest.fixture(scope="module")
def counter() -> Tiktoken:
    found = Tiktoken.installed()
    assert found is not None
    return found


# Six bytes of English are about one token, so bytes alone would say 2,400 or more.
PROSE = "international understanding " * 600


async def test_real_counts_decide_which_context_window_fits(kit: SimpleNamespace, counter: Tiktoken) -> None:
    small = kit.deployment("small", context_window=1_000)
    middle = kit.deployment("middle", context_window=4_000)
    catalogue = kit.Catalogue(small, middle)
    bench = bench_of(kit, catalogue, {"openai": Echo()}, counter=counter)
    assert (await bench.ask(kit.ask("hello"))).attempt.deployment.name == "small"
    assert (await bench.ask(kit.ask(PROSE))).attempt.deployment.name == "middle"
    with pytest.raises(NothingFits):
        await bench.ask(kit.ask(PROSE * 3))
    assert bench.free() == [0]


async def test_a_count_holds_less_before_a_budget_makes_the_answer_worse(
    kit: SimpleNamespace, counter: Tiktoken
) -> None:
    exact = kit.deployment("exact", tokenizer="o200k_base", context_window=100_000)
    ask = kit.ask(PROSE)
    by_bytes = bounds_on(ask, exact, 256).input_tokens * 100 + 256 * 400
    bench = bench_of(kit, kit.Catalogue(exact), {"openai": Echo()}, counter=counter, limit=by_bytes // 2)
    answer = await bench.ask(ask)
    assert answer.attempt.degraded is None
    assert answer.attempt.hold.amount <= by_bytes // 2


@pytest.mark.parametrize("tokenizer", ["cl100k_base", "o200k_base"])
async def test_a_count_is_what_tiktoken_counts_and_a_margin_and_leaves_pictures_out(
    counter: Tiktoken, tokenizer: str
) -> None:
    plain = {"messages": [{"role": "user", "content": PROSE}]}
    tokens, by = await counter.count(plain, tokenizer)
    assert by == tokenizer
    assert 1_200 <= tokens <= 3_000
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    with_picture = {"messages": [{"role": "user", "content": [{"type": "text", "text": PROSE}, picture]}]}
    assert (await counter.count(with_picture, tokenizer))[0] < tokens + 60
    posing = {"messages": [{"role": "user", "content": "data:image/png;base64," + PROSE}]}
    assert (await counter.count(posing, tokenizer))[0] >= tokens, "text that begins like a picture is text"


async def test_everything_a_model_reads_is_counted(counter: Tiktoken) -> None:
    async def more(payload: dict[str, Any], than: dict[str, Any]) -> int:
        return (await counter.count(payload, None))[0] - (await counter.count(than, None))[0]

    async def part(kind: str, value: Any) -> int:
        content = [{"type": kind, "image_url": value}]
        return await more({"messages": [{"content": content}]}, {"messages": [{"content": []}]})

    assert (await counter.count({}, None))[0] == PER_MESSAGE + PER_REQUEST
    assert await more({"messages": [{}, {}, {}]}, {"messages": [{}]}) == 2 * PER_MESSAGE
    assert await more({"messages": PROSE * 4}, {"messages": PROSE}) > 3 * 1_100, "also beyond the first piece"
    assert await more({"x": [1234567] * 100}, {"x": []}) >= 200
    assert await more({"tools": {PROSE: True}}, {"tools": {}}) >= 1_100
    assert await part("text", "data:image/" + PROSE) >= 1_100, "what is said to be text is read as text"
    assert await part("image_url", "https://x.test/" + PROSE) >= 1_100
    assert await part("image_url", {"url": "data:image/" + PROSE}) < 60


def test_faults_know_whether_to_try_again_and_when() -> None:
    assert ProviderFailed(Fault.RATE_LIMITED, retry_after="7").wait == 7
    assert ProviderFailed(Fault.RATE_LIMITED, retry_after="Wed, 21 Oct 2026 07:28:00 GMT").wait is None
    assert not ProviderFailed(Fault.TIMEOUT).passing
