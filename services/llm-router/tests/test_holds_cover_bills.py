"""A hold covers what the provider may charge, also where the size of the request tells nothing."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import orjson
import pytest

from kairos_router.adapters.operations import encode
from kairos_router.adapters.simulator import Simulator
from kairos_router.application.ports import ProviderCall
from kairos_router.domain.ask import Caller, InvalidAsk, bounds_on, estimate_usage, hold_on, parse_ask
from kairos_router.domain.attempt import Attempt, Hold, settled
from kairos_router.domain.embedding_ask import parse_embedding_ask
from kairos_router.domain.lease import MOST_ATTEMPT, MOST_UNLIMITED, Balance, Scope
from kairos_router.domain.pricing import UNPRICED, Price, Usage, cost
from kairos_router.domain.response_ask import parse_response_ask


def user(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}], **more}


@pytest.mark.parametrize(
    ("payload", "windows"),
    [
        (user({"type": "file", "file": {"file_id": "file-abc"}}), 1),
        (user({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}}), 1),
        (user({"type": "video_url", "video_url": {"url": "https://example.test/a.mp4"}}), 1),
        (user({"type": "audio_url", "audio_url": {"url": "https://example.test/a.mp3"}}), 1),
        (user(web_search_options={}), 1),
        (user(tools=[{"type": "web_search_20250305", "max_uses": 2}]), 3),
        (user(tools=[{"type": "web_search_20250305"}]), 17),
        (user(tools=[{"type": "openrouter:something"}, {"type": "function"}]), 5),
        ({"model": "m", "messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, 1),
    ],
)
def test_what_bytes_do_not_bound_is_bounded_by_the_context_window(
    kit: SimpleNamespace, payload: dict[str, Any], windows: int
) -> None:
    deployment = kit.deployment(context_window=32_000)
    ask = parse_ask(payload, 200)
    assert bounds_on(ask, deployment, 10).input_tokens == windows * 32_000
    counted = replace(ask, tokens=20, tokenizer=deployment.tokenizer)
    assert bounds_on(counted, deployment, 10).input_tokens == windows * 32_000
    unreported = estimate_usage(ask, deployment, 10, 5)
    assert unreported.input_tokens == windows * 32_000, "nobody saw how little it was"
    assert cost(deployment.price, unreported) <= hold_on(ask, deployment, 10)


def test_plain_parts_and_tools_of_the_caller_stay_bounded_by_bytes(kit: SimpleNamespace) -> None:
    deployment = kit.deployment(context_window=32_000, input_margin=0, image_tokens=100)
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x.test/a"}}]
    ask = parse_ask(user(*parts, tools=[{"type": "function"}, {"type": "custom"}]), 200)
    assert bounds_on(ask, deployment, 10).input_tokens == 300


def test_a_file_in_a_response_is_bounded_by_the_context_window(kit: SimpleNamespace) -> None:
    deployment = kit.deployment(context_window=32_000)
    content = [{"type": "input_file", "file_url": "https://example.test/long.pdf"}]
    ask = parse_response_ask({"model": "m", "input": [{"role": "user", "content": content}]}, 200)
    assert bounds_on(ask, deployment, 10).input_tokens == 32_000


def test_a_foretold_answer_may_be_charged_beside_the_real_one(kit: SimpleNamespace) -> None:
    prediction = {"type": "content", "content": "a" * 500}
    ask = parse_ask(user({"type": "text", "text": "a"}, prediction=prediction), 700)
    assert bounds_on(ask, kit.deployment(), 10).output_tokens == 710


@pytest.mark.parametrize("limit", [0, -1, 10**15, "3", True])
def test_a_limit_of_calls_that_money_could_not_bound_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidAsk):
        parse_ask(user(tools=[{"type": "web_search_20250305", "max_uses": limit}]), 200)
    tools = [{"type": "web_search"}]
    with pytest.raises(InvalidAsk):
        parse_response_ask({"model": "m", "input": "a", "tools": tools, "max_tool_calls": limit}, 200)


def test_pictures_and_the_search_of_a_model_that_searches_are_charged_though_no_provider_counts_them(
    kit: SimpleNamespace,
) -> None:
    price = Price("v", 0, 0, per_image=2 * 10**15, tools=(("web_search", 3 * 10**16),))
    deployment = replace(kit.deployment(), price=price)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    ask = parse_ask(user(picture, picture, web_search_options={"search_context_size": "low"}), 200)
    hold = Hold(uuid4(), Caller(Scope(uuid4())), hold_on(ask, deployment, 10), None, 0.0)
    attempt = Attempt(
        uuid4(), uuid4(), deployment, 10, None, hold, stream=False, started_at=datetime.now(UTC)
    )
    told = settled(attempt, ask, Usage(300, 5), content_bytes=0, latency_ms=1)
    silent = settled(attempt, ask, None, content_bytes=9, latency_ms=1)
    counted = replace(Usage(300, 5), tool_calls=(("web_search", 3),))
    assert (
        told.cost
        == silent.cost
        == cost(price, replace(Usage(300, 5), images=2, tool_calls=(("web_search", 1),)))
    )
    assert told.cost == hold.amount
    assert settled(attempt, ask, counted, content_bytes=0, latency_ms=1).cost > told.cost
    seen = replace(Usage(300, 5), images=3)
    assert settled(attempt, ask, seen, content_bytes=0, latency_ms=1).usage.images == 3


def test_no_attempt_costs_more_than_the_ledger_can_add_up(kit: SimpleNamespace) -> None:
    deployment = replace(kit.deployment(), price=Price("v", 10**18, 10**18))
    ask = parse_ask(user({"type": "text", "text": "a"}), 200)
    hold = Hold(uuid4(), Caller(Scope(uuid4())), 1, None, 0.0)
    attempt = Attempt(
        uuid4(), uuid4(), deployment, 10, None, hold, stream=False, started_at=datetime.now(UTC)
    )
    told = settled(attempt, ask, Usage(1 << 30, 1 << 30), content_bytes=0, latency_ms=1)
    assert told.cost == MOST_ATTEMPT


def test_a_lease_without_a_limit_never_holds_more_than_can_be_reported() -> None:
    balance = Balance(1, unlimited=True)
    assert balance.fits(MOST_UNLIMITED)
    assert not balance.take(MOST_UNLIMITED).fits(1)


async def test_a_hold_beyond_all_reason_is_made_smaller_or_refused(kit: SimpleNamespace) -> None:
    deployment = replace(kit.deployment(kind="simulator"), price=Price("v", 0, 10**19))
    bench = kit.bench(kit.Catalogue(deployment), {"simulator": Simulator()}, kit.Budgets(None))
    answer = await bench.ask(kit.ask(model="paid", max_tokens=256))
    assert answer.attempt.hold.amount <= MOST_ATTEMPT
    assert answer.attempt.degraded == "budget.clamped"


async def test_a_model_nobody_has_a_price_of_leaves_the_answer_to_one_that_a_budget_can_vouch_for(
    kit: SimpleNamespace,
) -> None:
    unpriced = replace(kit.deployment("unpriced", kind="simulator"), price=UNPRICED)
    catalogue = kit.Catalogue(unpriced, kit.deployment("priced", kind="simulator"))
    bench = kit.bench(catalogue, {"simulator": Simulator()}, kit.Budgets(10**9))
    answer = await bench.ask(kit.ask())
    assert (answer.attempt.deployment.name, answer.attempt.degraded) == ("priced", "budget.cheaper")


def test_many_short_embeddings_are_held_with_the_tokens_put_around_each(kit: SimpleNamespace) -> None:
    ask = parse_embedding_ask({"model": "m", "input": ["a"] * 2_000})
    assert bounds_on(ask, kit.deployment(input_margin=0), 0).input_tokens == 6_000


def test_a_gateway_behind_us_is_not_told_to_take_another_model(kit: SimpleNamespace) -> None:
    other = {
        "models": ["dear"],
        "fallbacks": ["dear"],
        "provider": {"only": ["dear"]},
        "plugins": [{"id": "web"}],
    }
    for operation, asked in (
        ("chat", {"messages": []}),
        ("responses", {"input": "a"}),
        ("embeddings", {"input": "a"}),
    ):
        call = ProviderCall(kit.deployment(), {**asked, **other, "seed": 7}, 10, uuid4(), operation=operation)
        sent = orjson.loads(encode(call, stream=False))
        assert sent["seed"] == 7
        assert not sent.keys() & other.keys()
        assert sent["model"] == "model-of-paid"
