"""One attempt after another: who is asked next, what is counted, and what each leaves behind. No servers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from kairos_router.application.choose_deployment import Chooser, NoneAvailable, Refused
from kairos_router.application.complete_chat import CompleteChat, Dispatcher
from kairos_router.application.ports import Fault, JournalFull, ProviderCall, ProviderFailed, ProviderReply
from kairos_router.application.retry_budget import LONGEST_PAUSE_S, RetryBudgets
from kairos_router.application.stream_chat import StreamChat
from kairos_router.domain.ask import Caller, hold_on
from kairos_router.domain.catalogue import Catalogue, Retries, Route, Timeouts
from kairos_router.domain.embedding_ask import parse_embedding_ask
from kairos_router.domain.lease import Scope
from kairos_router.domain.pricing import UNPRICED, Usage
from kairos_router.domain.selection import NothingFits

FAILED = ProviderFailed(Fault.FAILED, status=500)
ANSWER = ProviderReply(b"{}", {"choices": [{"message": {"content": "x"}}]}, Usage(1, 1))


@dataclass
class Stream:
    """These pieces, then the end; an exception among them is raised, None is waited for without end."""

    pieces: list[Any]
    usage: Usage | None = None
    finished: bool = True
    closed: bool = False

    async def next(self) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece is None:
            await asyncio.Event().wait()
        if isinstance(piece, Exception):
            raise piece
        return bytes(piece)

    def content_bytes(self) -> int:
        return 300

    def close(self) -> None:
        self.closed = True


@dataclass
class Provider:
    """Says what its script tells next, by the deployment's name; without a script it answers."""

    script: dict[str, list[Any]] = field(default_factory=dict)
    calls: list[ProviderCall] = field(default_factory=list)
    gate: asyncio.Event | None = None

    def _next(self, call: ProviderCall, otherwise: Any) -> Any:
        self.calls.append(call)
        said = self.script.get(call.deployment.name)
        said = said.pop(0) if said else otherwise
        if isinstance(said, Exception):
            raise said
        return said

    async def complete(self, call: ProviderCall) -> ProviderReply:
        said = self._next(call, ANSWER)
        if self.gate is not None:
            await self.gate.wait()
        return said  # type: ignore[no-any-return] # as scripted

    async def open_stream(self, call: ProviderCall) -> Stream:
        said = self._next(call, Stream([b"data: {}\n\n"], Usage(1, 1)))
        if said is None:
            await asyncio.Event().wait()
        return said  # type: ignore[no-any-return] # as scripted

    def names(self) -> list[str]:
        return [call.deployment.name for call in self.calls]


@dataclass
class Counter:
    """Finds this many tokens in whatever it is given, or fails."""

    tokens: int
    calls: int = 0
    failure: Exception | None = None

    async def count(self, _payload: Any, tokenizer: str | None) -> tuple[int, str]:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return self.tokens, tokenizer or "guessed"


@pytest.fixture
def bench_of(kit: SimpleNamespace) -> Callable[..., Any]:
    def make(
        provider: Provider, *deployments: Any, limit: int | None = 10**12, route: Any = None, **more: Any
    ) -> Any:
        catalogue = kit.Catalogue(*deployments)
        if route:
            default = replace(catalogue.value.routes["default"], **route)
            catalogue.value = Catalogue(catalogue.value.deployments, {"default": default})
        clock = more.setdefault("clock", kit.Clock())
        bench = kit.bench(catalogue, {"openai": provider}, kit.Budgets(limit), clock)
        chooser = Chooser(catalogue, bench.wallet, bench.circuits)
        dispatcher = Dispatcher(chooser, bench.wallet, bench.circuits, {"openai": provider}, **more)
        bench.complete, bench.stream = CompleteChat(dispatcher), StreamChat(dispatcher)
        return bench

    return make


def settled(bench: Any) -> int:
    assert not any(bench.free()), "no hold is left open"
    return sum(lease.balance.settled for lease in bench.wallet.leases())


async def read(streaming: Any) -> bytes:
    answer = b""
    while piece := await streaming.next():
        answer += piece
    return answer


# Who is asked next.


async def test_a_failure_is_told_rather_than_that_the_budget_does_not_reach_for_the_next(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    first, dear = kit.deployment("first"), kit.deployment("dear", price=(10**9, 10**9))
    bench = bench_of(Provider({"first": [FAILED]}), first, dear, limit=hold_on(kit.ask(), first, 256))
    with pytest.raises(ProviderFailed):
        await bench.ask(kit.ask())
    assert settled(bench) == 0
    with pytest.raises(Refused):
        await bench_of(Provider(), dear, limit=100).ask(kit.ask())


async def test_the_authority_is_not_asked_for_every_model_when_it_does_not_answer(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    paid = [kit.deployment(name, price=(price, price)) for name, price in (("dear", 9), ("cheap", 1))]
    provider = Provider()
    bench = bench_of(provider, *paid, kit.deployment("free", price=(0, 0)))
    scopes, reads = bench.budgets.scopes, []
    bench.budgets.away = True

    async def counted(organisation_id: Any) -> Any:
        reads.append(organisation_id)
        return await scopes(organisation_id)

    bench.budgets.scopes = counted
    await bench.ask(kit.ask())
    assert (provider.names(), len(reads)) == (["free"], 1)


async def test_a_model_nobody_has_a_price_of_runs_where_no_budget_applies_and_holds_nothing_elsewhere(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    unpriced = replace(kit.deployment("unpriced"), price=UNPRICED)
    answer = await bench_of(Provider(), unpriced, limit=None).ask(kit.ask())
    assert (answer.attempt.deployment.name, answer.settlement.cost) == ("unpriced", 0)
    bench = bench_of(Provider(), unpriced)
    with pytest.raises(Refused) as caught:
        await bench.ask(kit.ask())
    assert [step.reason for step in caught.value.steps] == ["no_price"]
    assert settled(bench) == 0


async def test_where_the_only_one_that_fits_rests_a_request_is_not_at_fault(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    provider = Provider({"able": [ProviderFailed(Fault.RATE_LIMITED, status=429, retry_after="5")]})
    bench = bench_of(provider, kit.deployment("blind", capabilities=frozenset()), kit.deployment("able"))
    asked = kit.ask(tools=[{}])
    with pytest.raises(ProviderFailed):
        await bench.ask(asked)
    with pytest.raises(NoneAvailable):
        await bench.ask(asked)


@pytest.mark.parametrize(
    ("failure", "calls"),
    [
        (FAILED, 2),
        (ProviderFailed(Fault.TIMEOUT, may_have_run=True), 1),
        (ProviderFailed(Fault.MISCONFIGURED, status=401), 1),
        (ProviderFailed(Fault.RATE_LIMITED, status=429, retry_after="20"), 1),
    ],
    ids=["failed", "timeout", "misconfigured", "told to wait"],
)
async def test_a_deployment_is_tried_again_as_often_as_it_says_and_only_when_that_may_help(
    kit: SimpleNamespace, bench_of: Any, failure: ProviderFailed, calls: int
) -> None:
    provider = Provider({"first": [failure] * 9})
    first, second = kit.deployment("first", retries=1), kit.deployment("second")
    bench = bench_of(provider, first, second, retries=RetryBudgets(chance=lambda: 0.0))
    await bench.ask(kit.ask())
    assert provider.names() == ["first"] * calls + ["second"]


async def test_answers_earn_the_next_retries(kit: SimpleNamespace, bench_of: Any) -> None:
    provider = Provider({"only": [FAILED, ANSWER, FAILED, ANSWER]})
    retries = RetryBudgets(chance=lambda: 0.0)
    route = {"retries": Retries(percent=100, burst=1)}
    bench = bench_of(provider, kit.deployment("only", retries=1), retries=retries, route=route)
    await bench.ask(kit.ask())
    await bench.ask(kit.ask())
    assert len(provider.calls) == 4


async def test_a_retry_waits_and_each_one_longer(kit: SimpleNamespace, bench_of: Any) -> None:
    budgets = RetryBudgets(chance=lambda: 1.0)
    assert [budgets.pause(done) for done in range(3)] == [0.1, 0.2, 0.4]
    assert budgets.pause(10) == LONGEST_PAUSE_S
    retries = RetryBudgets(chance=lambda: 0.5)
    bench = bench_of(Provider({"only": [FAILED]}), kit.deployment("only", retries=1), retries=retries)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await bench.ask(kit.ask())
    assert loop.time() - began >= 0.04


def test_retries_of_two_organisations_with_a_route_of_one_name_are_two_budgets() -> None:
    budgets, retries = RetryBudgets(), Retries(percent=0, burst=1)
    mine, theirs = (Route("r", (), retries=retries, owner=uuid4()) for _ in "ab")
    assert budgets.spend(mine)
    assert not budgets.spend(mine)
    assert budgets.spend(theirs)


async def test_a_full_deployment_takes_no_call_until_one_has_ended_however(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    provider = Provider({"only": [ANSWER, FAILED]}, gate=asyncio.Event())
    bench = bench_of(provider, kit.deployment("only", max_concurrency=1))
    running = asyncio.create_task(bench.ask(kit.ask()))
    await kit.until(lambda: provider.calls)
    with pytest.raises(NoneAvailable) as caught:
        await asyncio.wait_for(bench.ask(kit.ask()), 5)
    assert caught.value.retry_after == 1.0
    running.cancel()
    await asyncio.wait([running])
    with pytest.raises(ProviderFailed):
        await bench.ask(kit.ask())
    provider.gate = None
    await bench.ask(kit.ask())


async def test_one_request_probes_a_rested_deployment_and_the_others_wait_for_it(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    clock = kit.Clock()
    provider = Provider({"only": [ProviderFailed(Fault.RATE_LIMITED, status=429, retry_after="5")]})
    bench = bench_of(provider, kit.deployment("only"), clock=clock)
    with pytest.raises(ProviderFailed):
        await bench.ask(kit.ask())
    clock.now += 5.0
    provider.gate = asyncio.Event()
    probe = asyncio.create_task(bench.ask(kit.ask()))
    await kit.until(lambda: len(provider.calls) == 2)
    with pytest.raises(NoneAvailable):
        await asyncio.wait_for(bench.ask(kit.ask()), 5)
    provider.gate.set()
    await probe
    await bench.ask(kit.ask())


async def test_requests_that_are_at_fault_themselves_leave_the_deployment_trusted(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    invalid = ProviderFailed(Fault.INVALID_REQUEST, status=400)
    provider = Provider({"only": [invalid] * 6 + [FAILED] * 4 + [invalid] + [FAILED] * 4})
    bench = bench_of(provider, kit.deployment("only"))
    for _ in range(15):
        with pytest.raises(ProviderFailed):
            await bench.ask(kit.ask())
    assert bench.circuits.state("only") == "closed"


@pytest.mark.parametrize(("policy", "known"), [("fixed", False), ("latency", True)])
async def test_how_long_a_deployment_took_is_remembered_where_it_decides(
    kit: SimpleNamespace, bench_of: Any, policy: str, known: bool
) -> None:
    clock = kit.Clock()
    first, second = kit.deployment("first"), kit.deployment("second")

    class Slow(Provider):
        async def complete(self, call: ProviderCall) -> ProviderReply:
            clock.now += 2.0
            return await super().complete(call)

        async def open_stream(self, call: ProviderCall) -> Stream:
            clock.now += 1.0
            return await super().open_stream(call)

    bench = bench_of(Slow(), first, second, clock=clock, route={"policy": policy})
    await bench.ask(kit.ask())
    assert bench.circuits.p95(first) == (2.0 if known else None)
    streaming = await bench.open(kit.ask(stream=True))
    clock.now += 7.0
    await read(streaming)
    # Nobody knew the second one, so it was asked: a stream's time is that to its first token.
    assert bench.circuits.p95(second) == (1.0 if known else None)


async def test_a_caller_without_a_priority_has_the_routes(kit: SimpleNamespace, bench_of: Any) -> None:
    key, affinity = uuid4(), uuid4()

    async def held(priority: Any, of_route: Any) -> Caller:
        bench = bench_of(Provider(), kit.deployment(), route={"priority": of_route})
        bench.caller = Caller(Scope(kit.organisation), key, priority, affinity)
        answer = await bench.ask(kit.ask())
        return answer.attempt.hold.caller  # type: ignore[no-any-return] # a Caller

    callers = [await held(*each) for each in ((None, None), (None, "batch"), ("interactive", "batch"))]
    assert [each.priority for each in callers] == ["normal", "batch", "interactive"]
    assert {(each.api_key_id, each.affinity) for each in callers} == {(key, affinity)}


# What is counted.


TEXT = "a" * 16_000


async def test_a_request_that_may_be_too_long_is_counted_and_goes_where_it_fits(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    small, large = kit.deployment("small", context_window=4_000), kit.deployment("large")
    provider, counter = Provider({"large": [FAILED]}), Counter(5_000)
    bench = bench_of(provider, small, large, kit.deployment("last"), counter=counter)
    await bench.ask(kit.ask(TEXT))
    assert provider.names() == ["large", "last"]
    assert counter.calls == 1, "what was counted once is known"
    assert settled(bench) == 500
    with pytest.raises(NothingFits):
        await bench_of(provider, small, counter=counter).ask(kit.ask(TEXT))


@pytest.mark.parametrize("limit", [None, 10**12])
async def test_a_count_that_fails_leaves_no_hold(kit: SimpleNamespace, bench_of: Any, limit: Any) -> None:
    small = kit.deployment("small", context_window=4_000)
    for counter in (Counter(5_000), Counter(0, failure=OSError("no vocabulary"))):
        bench = bench_of(Provider(), small, counter=counter, limit=limit)
        with pytest.raises((NothingFits, OSError)):
            await bench.ask(kit.ask(TEXT))
        assert settled(bench) == 0


async def test_a_long_request_is_counted_before_its_answer_is_cut_short(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    exact = kit.deployment("exact", tokenizer="exact")
    ask, counter = kit.ask(TEXT), Counter(2_000)
    bench = bench_of(Provider(), exact, limit=hold_on(ask, exact, 256) - 1_000, counter=counter)
    answer = await bench.ask(ask)
    assert (answer.attempt.degraded, answer.attempt.max_tokens) == (None, 256)
    short = kit.ask()
    bench = bench_of(Provider(), exact, limit=hold_on(short, exact, 256) - 1_000, counter=counter)
    assert (await bench.ask(short)).attempt.degraded == "budget.clamped"
    assert counter.calls == 1, "a short request is bound closely by its bytes"
    counter = Counter(15_000)
    counted = replace(ask, tokens=15_000, tokenizer="exact")
    provider, other = Provider({"exact": [FAILED]}), replace(exact, name="other")
    bench = bench_of(provider, exact, other, limit=hold_on(counted, exact, 256) - 1_000, counter=counter)
    answer = await bench.ask(ask)
    assert (answer.attempt.deployment.name, answer.attempt.degraded) == ("other", "budget.clamped")
    assert counter.calls == 1, "what was counted once is known"


async def test_embeddings_are_not_counted_as_if_they_were_one_text(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    counter = Counter(10**6)
    bench = bench_of(Provider(), kit.deployment(context_window=4_000), counter=counter)
    await bench.ask(replace(parse_embedding_ask({"model": "default", "input": TEXT}), model="default"))
    assert counter.calls == 0


# What an attempt leaves behind.


class Forgetful:
    """A journal that can't be written to at one of these."""

    def __init__(self, journal: Any, step: str) -> None:
        self._journal = journal
        self._step = step

    def __getattr__(self, name: str) -> Any:
        if name != self._step:
            return getattr(self._journal, name)

        async def full(*_: Any) -> None:
            raise JournalFull

        return full


@pytest.mark.parametrize(("step", "whole"), [("dispatched", False), ("answered", True), ("failed", True)])
async def test_what_nobody_could_write_down_counts_once_the_provider_may_have_been_asked(
    kit: SimpleNamespace, bench_of: Any, step: str, whole: bool
) -> None:
    script = {"only": [FAILED]} if step == "failed" else {}
    bench = bench_of(Provider(script), kit.deployment("only"))
    bench.journal = Forgetful(bench.journal, step)
    with pytest.raises(JournalFull):
        await bench.ask(kit.ask())
    assert settled(bench) == (hold_on(kit.ask(), kit.deployment("only"), 256) if whole else 0)


async def test_an_answer_of_unknown_shape_without_usage_is_charged_by_its_length(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    reply = ProviderReply(b"x" * 300, {"output": []}, None)
    bench = bench_of(Provider({"only": [reply]}), kit.deployment("only"))
    answer = await bench.ask(kit.ask())
    assert answer.settlement.usage.output_tokens == 108


async def test_a_stream_that_ends_without_its_end_is_broken(kit: SimpleNamespace, bench_of: Any) -> None:
    cut = Stream([b"data: {}\n\n"], finished=False)
    whole = Stream([b"data: {}\n\n"], finished=True)
    bench = bench_of(Provider({"only": [cut, whole]}), kit.deployment("only"))
    streaming = await bench.open(kit.ask(stream=True))
    with pytest.raises(ProviderFailed):
        await read(streaming)
    assert bench.journal.outcomes() == [("only", "unknown")]
    streaming = await bench.open(kit.ask(stream=True))
    await read(streaming)
    assert streaming.settlement.usage.output_tokens == 108, "nobody told, so it was counted"
    assert cut.closed
    assert whole.closed
    assert settled(bench) == bench.journal.sent[0].hold.amount + streaming.settlement.cost


async def test_a_stream_that_breaks_after_it_told_its_usage_is_charged_that(
    kit: SimpleNamespace, bench_of: Any
) -> None:
    broken = ProviderFailed(Fault.BROKEN, may_have_run=True)
    bench = bench_of(
        Provider({"only": [Stream([b"data: {}\n\n", broken], Usage(3, 2)) for _ in range(5)]}),
        kit.deployment("only"),
    )
    for _ in range(5):
        streaming = await bench.open(kit.ask(stream=True))
        with pytest.raises(ProviderFailed):
            await read(streaming)
    assert bench.journal.outcomes() == [("only", "settled")] * 5
    assert settled(bench) == 5 * (3 * 100 + 2 * 400)
    assert bench.circuits.state("only") == "open", "a provider that breaks off is not well"


@pytest.mark.parametrize(
    "opening", [None, Stream([None]), Stream([])], ids=["no answer", "no event", "empty"]
)
async def test_a_stream_has_to_begin_in_time_or_another_deployment_answers(
    kit: SimpleNamespace, bench_of: Any, opening: Any
) -> None:
    first = kit.deployment("first", timeouts=Timeouts(first_token=0.02))
    bench = bench_of(Provider({"first": [opening]}), first, kit.deployment("second"))
    streaming = await asyncio.wait_for(bench.open(kit.ask(stream=True)), 5)
    await read(streaming)
    assert bench.journal.outcomes() == [("first", "unknown"), ("second", "settled")]


async def test_a_stream_that_goes_on_for_too_long_is_broken_off(kit: SimpleNamespace, bench_of: Any) -> None:
    only = kit.deployment("only", timeouts=Timeouts(total=0.02))
    endless = Stream([b"data: {}\n\n", None])
    bench = bench_of(Provider({"only": [endless]}), only)
    streaming = await bench.open(kit.ask(stream=True))
    with pytest.raises(ProviderFailed) as caught:
        await asyncio.wait_for(read(streaming), 5)
    assert caught.value.fault is Fault.TIMEOUT
    assert endless.closed
