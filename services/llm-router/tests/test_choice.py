"""What a request asks for, which deployments may answer it, and in which order budgets are asked."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_router.domain.ask import InvalidAsk, bounds_on, estimate_usage, hold_on, max_tokens_on, parse_ask
from kairos_router.domain.breaker import Breaker
from kairos_router.domain.catalogue import Capability
from kairos_router.domain.embedding_ask import parse_embedding_ask
from kairos_router.domain.pricing import Price, cost
from kairos_router.domain.selection import (
    TOO_SMALL,
    NothingFits,
    Rung,
    clamped,
    fitting,
    ladder,
    unfit,
    unsure,
)

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ([], None),
        ({"messages": MESSAGES}, "model"),
        ({"model": "", "messages": MESSAGES}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": ["hi"]}, "messages"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({"model": "m", "messages": MESSAGES, "max_tokens": True}, "max_tokens"),
        ({"model": "m", "messages": MESSAGES, "max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"model": "m", "messages": MESSAGES, "n": 129}, "n"),
        ({"model": "m", "messages": MESSAGES, "stream": "yes"}, "stream"),
        ({"model": "m", "messages": MESSAGES, "stream_options": []}, "stream_options"),
    ],
)
def test_a_request_that_can_not_be_understood_names_its_field(payload: Any, param: str | None) -> None:
    with pytest.raises(InvalidAsk) as caught:
        parse_ask(payload, 10)
    assert caught.value.param == param


def test_a_request_says_what_it_needs() -> None:
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    ask = parse_ask(
        {
            "model": "m",
            "messages": [picture, picture],
            "tools": [{}],
            "stream": True,
            "response_format": {"type": "json_schema"},
            "stream_options": {"include_usage": True},
            "max_tokens": 50,
            "max_completion_tokens": 40,
            "n": 3,
        },
        100,
    )
    wanted = "tools vision json json_schema streaming"
    assert ask.needs == frozenset(map(Capability, wanted.split()))
    assert (ask.images, ask.max_tokens, ask.choices, ask.include_usage) == (2, 40, 3, True)


def test_functions_of_old_need_what_tools_need(kit: SimpleNamespace) -> None:
    assert kit.ask(functions=[{"name": "clock"}]).needs == {Capability.TOOLS}
    assert kit.ask(tools=[{"type": "function"}]).needs == {Capability.TOOLS}
    assert kit.ask(tools=[]).needs == frozenset()


def test_every_image_and_every_choice_is_in_the_bounds(kit: SimpleNamespace) -> None:
    deployment = kit.deployment(image_tokens=1_000, input_margin=10)
    picture = [{"role": "user", "content": [{"type": "image_url"}]}]
    ask = parse_ask({"model": "m", "messages": picture, "n": 3}, 100)
    bounds = bounds_on(ask, deployment, 50)
    assert (bounds.input_tokens, bounds.output_tokens) == (1_110, 150)
    narrow = kit.deployment(context_window=500)
    assert bounds_on(ask, narrow, 50).input_tokens == 500


def test_a_request_asks_for_no_more_than_the_deployment_writes(kit: SimpleNamespace) -> None:
    deployment = kit.deployment(max_output_tokens=100)
    asked = [max_tokens_on(kit.ask(max_tokens=wanted), deployment) for wanted in (50, 100, 9_999)]
    assert asked == [50, 100, 100]
    assert max_tokens_on(kit.ask(), deployment) == 100
    assert max_tokens_on(parse_embedding_ask({"model": "m", "input": "a"}), deployment) == 0


def test_only_a_count_by_the_deployments_own_tokenizer_bounds_its_input(kit: SimpleNamespace) -> None:
    deployment = kit.deployment(tokenizer="own")
    plain = parse_ask({"model": "m", "messages": MESSAGES}, 100)
    counts = [("own", 40), ("own", 400), ("another", 40), (None, 40)]
    bounds = [
        bounds_on(replace(plain, tokens=tokens, tokenizer=name), deployment, 5).input_tokens
        for name, tokens in counts
    ]
    assert bounds == [40, 100, 100, 100]


def test_writes_to_a_providers_cache_are_held_for_wherever_the_request_asks_for_them(
    kit: SimpleNamespace,
) -> None:
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    marked = kit.ask(messages=[{"role": "user", "content": [part]}])
    bare = replace(marked, payload={"model": "m", "messages": MESSAGES})
    for price, dearer in (
        (Price("v", 1_000_000, 0, cache_write=2_000_000), 2),
        (Price("v", 1_000_000, 0), 1),
    ):
        deployment = replace(kit.deployment(), price=price)
        assert hold_on(marked, deployment, 5) == dearer * hold_on(bare, deployment, 5)


@given(size=st.integers(0, 100_000), content=st.integers(0, 1_000_000), wanted=st.integers(1, 5_000))
def test_an_estimate_is_never_zero_and_never_above_the_hold(
    kit: SimpleNamespace, size: int, content: int, wanted: int
) -> None:
    deployment = kit.deployment(input_margin=256)
    ask = parse_ask({"model": "m", "messages": MESSAGES, "max_tokens": wanted}, size)
    max_tokens = max_tokens_on(ask, deployment)
    usage = estimate_usage(ask, deployment, max_tokens, content)
    assert 0 < cost(deployment.price, usage) <= hold_on(ask, deployment, max_tokens)


def test_deployments_that_lack_something_are_left_out_with_the_reason(kit: SimpleNamespace) -> None:
    blind = kit.deployment("blind", capabilities=frozenset())
    small = kit.deployment("small", context_window=300)
    good = kit.deployment("good")
    ask = kit.ask("x" * 1_000, tools=[{}])
    sighted = kit.deployment("sighted", capabilities=frozenset({Capability.VISION}))
    assert fitting(ask, [blind, small, good, sighted]) == (good,)
    with pytest.raises(NothingFits) as caught:
        fitting(ask, [blind, small])
    assert caught.value.reasons == {"blind": "lacks tools", "small": "context window too small"}
    both = kit.ask(tools=[{}], response_format={"type": "json_object"})
    some = kit.deployment("some", capabilities=frozenset({Capability.TOOLS}))
    assert unfit(both, some) == "lacks json"


def test_what_makes_embeddings_only_answers_no_completions(kit: SimpleNamespace) -> None:
    only = kit.deployment(capabilities=frozenset({Capability.EMBEDDINGS}))
    also = kit.deployment(capabilities=frozenset({Capability.EMBEDDINGS, Capability.CHAT}))
    embedding = parse_embedding_ask({"model": "m", "input": "a"})
    assert [unfit(kit.ask(), each) for each in (only, also)] == ["makes embeddings only", None]
    assert [unfit(embedding, each) for each in (only, also)] == [None, None]


def test_a_context_window_that_is_just_large_enough_is(kit: SimpleNamespace) -> None:
    plain = parse_ask({"model": "m", "messages": MESSAGES, "max_tokens": 50}, 800)
    counted = replace(plain, tokens=100, images=2)
    inputs = ["a" * 800, "b" * 80]
    embedding = parse_embedding_ask({"model": "m", "input": inputs})
    for ask, needed in ((plain, 150), (counted, 350), (embedding, 100)):
        fits = [
            unfit(ask, kit.deployment(context_window=size, image_tokens=100)) for size in (needed, needed - 1)
        ]
        assert fits == [None, TOO_SMALL]
    # Every byte a token: then it fits surely. In between, somebody has to count.
    for ask, surely in ((plain, 850), (embedding, 800)):
        doubts = [unsure(ask, kit.deployment(context_window=size)) for size in (surely, surely - 1)]
        assert doubts == [False, True]
    assert not unsure(counted, kit.deployment(context_window=200)), "nothing is left to count"


def test_the_ladder_goes_from_the_preferred_to_cheaper_to_free(kit: SimpleNamespace) -> None:
    rungs = ladder(
        kit.ask(),
        [
            kit.deployment("preferred"),
            kit.deployment("free", price=(0, 0)),
            kit.deployment("dearer", price=(200, 900)),
            kit.deployment("as dear"),
            kit.deployment("cheaper", price=(10, 40)),
        ],
    )
    assert [(rung.deployment.name, rung.degraded) for rung in rungs] == [
        ("preferred", None),
        ("cheaper", "budget.cheaper"),
        ("free", "budget.local"),
    ]


@given(remaining=st.integers(0, 200_000))
def test_a_clamped_answer_fits_what_remains_and_is_worth_having(kit: SimpleNamespace, remaining: int) -> None:
    ask, deployment = kit.ask("hello"), kit.deployment()
    rung = Rung(deployment, max_tokens_on(ask, deployment), None)
    less = clamped(ask, rung, remaining)
    if less is not None:
        assert hold_on(ask, deployment, less.max_tokens) <= remaining
        assert 16 <= less.max_tokens < rung.max_tokens
        assert less.degraded == "budget.clamped"


def test_a_shorter_answer_is_worth_having_from_16_tokens_for_every_choice(kit: SimpleNamespace) -> None:
    ask, deployment = kit.ask("hello", n=3), kit.deployment()
    cheaper = Rung(deployment, 256, "budget.cheaper")
    least = hold_on(ask, deployment, 16)
    assert clamped(ask, cheaper, least) == Rung(deployment, 16, "budget.cheaper")
    assert clamped(ask, cheaper, least - 1) is None


def test_a_circuit_opens_after_repeated_failures_and_lets_one_probe_through() -> None:
    breaker = Breaker(threshold=2, rest=5.0)
    breaker = breaker.failed(0.0)
    assert breaker.allows(0.1)
    breaker = breaker.failed(1.0)
    assert not breaker.allows(5.9)
    assert (breaker.state_at(5.9), breaker.left(5.5)) == ("open", 0.5)
    assert breaker.allows(6.0)
    assert (breaker.state_at(6.0), breaker.left(7.0)) == ("half_open", 0.0)
    breaker = breaker.tried(6.0)
    assert not breaker.allows(6.1)
    assert breaker.failed(6.2).allows(11.3)


def test_neither_a_failure_nor_a_hint_ends_the_rest_a_provider_asked_for() -> None:
    resting = Breaker(threshold=3, rest=5.0).resting(0.0, 30.0)
    for breaker in (resting, resting.failed(1.0), resting.suspected()):
        assert not breaker.allows(29.9)
        assert breaker.allows(30.0)


PLAIN_REQUESTS: list[dict[str, Any]] = [
    {},
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": False, "max_tokens": 5, "temperature": 0.1},
    {"max_tokens": 50, "max_completion_tokens": 7},
    {"max_tokens": None, "messages": [*MESSAGES, {"role": "assistant", "content": "hi"}]},
]


@pytest.mark.parametrize("fields", PLAIN_REQUESTS)
def test_a_plain_request_is_read_as_if_everything_were_looked_at(fields: dict[str, Any]) -> None:
    payload = {"model": "m", "messages": MESSAGES, **fields}
    # A field nobody knows makes the reader look at all of them.
    looked_at = parse_ask({**payload, "vendor_field": 1}, 100)
    assert parse_ask(payload, 100) == replace(looked_at, payload=payload)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3},
        {"tools": [{"type": "web_search"}]},
        {"modalities": ["audio"]},
        {"response_format": {"type": "json_object"}},
        {"service_tier": "priority"},
        {"prediction": {"type": "content", "content": "x"}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [*MESSAGES, {"role": "assistant", "content": "", "audio": {"id": "1"}}]},
    ],
)
def test_what_may_cost_more_or_need_more_is_not_taken_for_plain(fields: dict[str, Any]) -> None:
    plain = {"model": "m", "messages": MESSAGES}
    asked = parse_ask({**plain, **fields}, 100)
    assert replace(asked, payload=plain) != parse_ask(plain, 100)
