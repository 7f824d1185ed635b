"""Every dimension of a price, to the nano-dollar, and what must hold for any price and any usage."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_router.application.usage_documents import read_usage
from kairos_router.domain.ask import parse_ask
from kairos_router.domain.pricing import (
    ANYTHING,
    AUDIO_IN,
    AUDIO_OUT,
    CACHE_WRITES,
    IMAGES_IN,
    IMAGES_OUT,
    PLAIN,
    RATE_NAMES,
    UNPRICED,
    Bounds,
    InvalidPrice,
    LongContext,
    Price,
    Rates,
    Service,
    Usage,
    affordable_output,
    cost,
    worst_case,
)
from kairos_router.domain.response_ask import parse_response_ask

rate = st.integers(0, 10**12)
optional = st.none() | rate
tokens = st.integers(0, 1_000_000)
few = st.integers(0, 20)
SERVICES = ("batch", "flex", "priority")


def usd(per_million: str) -> int:
    """A published price in USD per million tokens as a rate; exact, of up to nine decimals."""
    whole, _, fraction = per_million.partition(".")
    return int(whole + fraction.ljust(9, "0"))


all_rates = st.builds(Rates, rate, rate, *[optional] * (len(RATE_NAMES) - 2))


@st.composite
def tiers(draw: st.DrawFn) -> tuple[LongContext, ...]:
    above = sorted(draw(st.sets(tokens, max_size=3)))
    return tuple(LongContext(each, draw(all_rates)) for each in above)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    base = draw(all_rates)
    return Price(
        "any",
        **{name: getattr(base, name) for name in RATE_NAMES},
        long_context=draw(tiers()),
        services=tuple(
            Service(name, draw(all_rates), draw(tiers())) for name in draw(st.sets(st.sampled_from(SERVICES)))
        ),
        per_request=draw(rate),
        per_image=draw(rate),
        tools=draw(
            st.dictionaries(st.sampled_from(["web_search", "web_search.low", "code"]), rate).map(
                lambda each: tuple(each.items())
            )
        ),
    )


def part(draw: st.DrawFn, most: int) -> int:
    return draw(st.integers(0, most * 2))  # A provider may claim a part that is larger than the whole.


@st.composite
def bounded_usage(draw: st.DrawFn) -> tuple[Bounds, Usage]:
    """Bounds, and any usage within them, its parts being nonsense at times."""
    read, written, images, calls = draw(tokens), draw(tokens), draw(few), draw(few)
    kinds = draw(st.integers(0, ANYTHING))
    service = draw(st.sampled_from(("standard", *SERVICES)))
    given_tokens, made = draw(st.integers(0, read)), draw(st.integers(0, written))

    def when(kind: int, whole: int) -> int:
        return part(draw, whole) if kinds & kind else 0

    usage = Usage(
        given_tokens,
        made,
        part(draw, given_tokens),
        cache_write_tokens=when(CACHE_WRITES, given_tokens),
        cache_write_1h_tokens=when(CACHE_WRITES, given_tokens),
        reasoning_tokens=part(draw, made),
        audio_input_tokens=when(AUDIO_IN, given_tokens),
        cached_audio_tokens=when(AUDIO_IN, given_tokens),
        audio_output_tokens=when(AUDIO_OUT, made),
        image_input_tokens=when(IMAGES_IN, given_tokens),
        image_output_tokens=when(IMAGES_OUT, made),
        images=draw(st.integers(0, images)),
        tool_calls=(("web_search.low", draw(st.integers(0, calls))),),
        service=draw(st.sampled_from(("standard", service))),
    )
    return Bounds(read, written, kinds, images, (("web_search.low", calls),), service), usage


@given(prices(), bounded_usage())
def test_no_usage_within_its_bounds_costs_more_than_the_worst_case(
    price: Price, both: tuple[Bounds, Usage]
) -> None:
    bounds, usage = both
    assert 0 <= cost(price, usage) <= worst_case(price, bounds)


@given(prices(), bounded_usage(), tokens, few, few)
def test_more_output_images_or_calls_never_cost_less(
    price: Price, both: tuple[Bounds, Usage], more: int, images: int, calls: int
) -> None:
    _, usage = both
    assert cost(price, replace(usage, output_tokens=usage.output_tokens + more)) >= cost(price, usage)
    assert cost(price, replace(usage, images=usage.images + images)) >= cost(price, usage)
    ((name, made),) = usage.tool_calls
    assert cost(price, replace(usage, tool_calls=((name, made + calls),))) >= cost(price, usage)


@given(prices(), bounded_usage(), tokens)
def test_more_input_within_one_tier_never_costs_less(
    price: Price, both: tuple[Bounds, Usage], more: int
) -> None:
    flat = replace(price, long_context=(), services=())
    _, usage = both
    assert cost(flat, replace(usage, input_tokens=usage.input_tokens + more)) >= cost(flat, usage)


@given(prices(), bounded_usage(), st.integers(0, 10**15))
def test_an_affordable_output_fits_and_one_token_more_does_not(
    price: Price, both: tuple[Bounds, Usage], amount: int
) -> None:
    bounds, _ = both
    output = affordable_output(price, bounds, amount)
    if output:
        assert worst_case(price, replace(bounds, output_tokens=output)) <= amount
        assert worst_case(price, replace(bounds, output_tokens=output + 1)) > amount


@given(prices(), bounded_usage())
def test_wider_bounds_never_hold_less(price: Price, both: tuple[Bounds, Usage]) -> None:
    bounds, _ = both
    assert worst_case(price, replace(bounds, kinds=ANYTHING)) >= worst_case(price, bounds)
    wider = replace(bounds, input_tokens=bounds.input_tokens + 1)
    assert worst_case(price, wider) >= worst_case(price, bounds)


# Providers' published prices in USD per million tokens, as LiteLLM's map of November 2026 has them.
SONNET = Price(
    "v",
    usd("3"),
    usd("15"),
    cached_input=usd("0.30"),
    cache_write=usd("3.75"),
    cache_write_1h=usd("6"),
    services=(
        Service("batch", Rates(usd("1.5"), usd("7.5"), cached_input=usd("0.15"), cache_write=usd("1.875"))),
    ),
    tools=(("web_search", 10_000_000 * 1_000_000),),
)
GEMINI_PRO = Price(
    "v",
    usd("1.25"),
    usd("10"),
    cached_input=usd("0.125"),
    long_context=(LongContext(200_000, Rates(usd("2.50"), usd("15"), cached_input=usd("0.25"))),),
    services=(
        Service(
            "priority",
            Rates(usd("2.25"), usd("18"), cached_input=usd("0.225")),
            (LongContext(200_000, Rates(usd("4.50"), usd("27"), cached_input=usd("0.45"))),),
        ),
        Service("flex", Rates(usd("0.625"), usd("5"), cached_input=usd("0.125"))),
    ),
    tools=(("web_search", 35_000_000 * 1_000_000),),
)
GEMINI_FLASH = Price(
    "v",
    usd("0.30"),
    usd("2.50"),
    cached_input=usd("0.03"),
    audio_input=usd("1"),
    cached_audio_input=usd("0.10"),
    reasoning=usd("2.50"),
)
O4_MINI = Price(
    "v",
    usd("1.10"),
    usd("4.40"),
    cached_input=usd("0.275"),
    services=(
        Service("flex", Rates(usd("0.55"), usd("2.20"), cached_input=usd("0.138"))),
        Service("priority", Rates(usd("2"), usd("8"), cached_input=usd("0.5"))),
    ),
)
IMAGE = Price(
    "v", usd("5"), usd("40"), cached_input=usd("1.25"), image_input=usd("10"), image_output=usd("40")
)
AUDIO = Price("v", usd("2.50"), usd("10"), audio_input=usd("40"), audio_output=usd("80"))
PICTURES = Price("v", usd("2"), usd("12"), image_output=usd("120"), per_image=1_100_000 * 1_000_000)

# (what, price, the provider's own document, nano-USD worked out by hand)
EXAMPLES: list[tuple[str, Price, dict[str, Any], int]] = [
    (
        "anthropic: cache read, both kinds of cache writes",
        SONNET,
        {
            "usage": {
                "input_tokens": 1_000,
                "output_tokens": 500,
                "cache_read_input_tokens": 10_000,
                "cache_creation_input_tokens": 3_000,
                "cache_creation": {"ephemeral_5m_input_tokens": 2_000, "ephemeral_1h_input_tokens": 1_000},
            }
        },
        # 3.000 + 7.500 + 3.000 + 7.500 + 6.000 thousandths of a dollar
        3_000_000 + 7_500_000 + 3_000_000 + 7_500_000 + 6_000_000,
    ),
    (
        "anthropic: a batch at half price, an hour's write without a rate of its own",
        SONNET,
        {
            "usage": {
                "input_tokens": 1_000,
                "output_tokens": 500,
                "cache_creation": {"ephemeral_1h_input_tokens": 1_000},
                "service_tier": "batch",
            }
        },
        1_500_000 + 3_750_000 + 1_875_000,
    ),
    (
        "anthropic: two web searches",
        SONNET,
        {"usage": {"input_tokens": 7, "output_tokens": 1, "server_tool_use": {"web_search_requests": 2}}},
        7 * 3_000 + 15_000 + 20_000_000,
    ),
    (
        "openai: cached and reasoning",
        O4_MINI,
        {
            "usage": {
                "prompt_tokens": 3_001,
                "completion_tokens": 777,
                "total_tokens": 3_778,
                "prompt_tokens_details": {"cached_tokens": 1_001},
                "completion_tokens_details": {"reasoning_tokens": 700},
            }
        },
        2_000 * 1_100 + 1_001 * 275 + 777 * 4_400,
    ),
    (
        "openai: the flex tier, a rate of 0.138 USD",
        O4_MINI,
        {
            "usage": {
                "prompt_tokens": 1_001,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 1_001},
            },
            "service_tier": "flex",
        },
        1_001 * 138 + 10 * 2_200,
    ),
    (
        "openai responses: priority",
        O4_MINI,
        {
            "usage": {
                "input_tokens": 100,
                "output_tokens": 50,
                "input_tokens_details": {"cached_tokens": 40},
                "output_tokens_details": {"reasoning_tokens": 30},
            },
            "service_tier": "priority",
        },
        60 * 2_000 + 40 * 500 + 50 * 8_000,
    ),
    (
        "openai: audio in and out",
        AUDIO,
        {
            "usage": {
                "prompt_tokens": 120,
                "completion_tokens": 80,
                "prompt_tokens_details": {"audio_tokens": 100},
                "completion_tokens_details": {"audio_tokens": 60},
            }
        },
        20 * 2_500 + 100 * 40_000 + 20 * 10_000 + 60 * 80_000,
    ),
    (
        "openai: images as tokens",
        IMAGE,
        {
            "usage": {
                "input_tokens": 350,
                "output_tokens": 1_056,
                "input_tokens_details": {"image_tokens": 323, "text_tokens": 27},
                "output_tokens_details": {"image_tokens": 1_056},
            }
        },
        27 * 5_000 + 323 * 10_000 + 1_056 * 40_000,
    ),
    (
        "gemini: at 200,000 tokens the short rates",
        GEMINI_PRO,
        {"usageMetadata": {"promptTokenCount": 200_000, "candidatesTokenCount": 1_000}},
        200_000 * 1_250 + 1_000 * 10_000,
    ),
    (
        "gemini: one token more, and all of it costs the long rates, thoughts and cache too",
        GEMINI_PRO,
        {
            "usageMetadata": {
                "promptTokenCount": 200_001,
                "cachedContentTokenCount": 100_001,
                "candidatesTokenCount": 1_000,
                "thoughtsTokenCount": 2_000,
            }
        },
        100_000 * 2_500 + 100_001 * 250 + 3_000 * 15_000,
    ),
    (
        "gemini: grounded with search",
        GEMINI_PRO,
        {
            "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 1},
            "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}],
        },
        8 * 1_250 + 10_000 + 35_000_000,
    ),
    (
        "gemini: audio, half of it cached",
        GEMINI_FLASH,
        {
            "usageMetadata": {
                "promptTokenCount": 1_000,
                "candidatesTokenCount": 100,
                "cachedContentTokenCount": 400,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 200},
                    {"modality": "AUDIO", "tokenCount": 800},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 400}],
            }
        },
        200 * 300 + 400 * 1_000 + 400 * 100 + 100 * 2_500,
    ),
]


@pytest.mark.parametrize(
    ("_", "price", "document", "nano_usd"), EXAMPLES, ids=[example[0] for example in EXAMPLES]
)
def test_published_prices_compute_to_the_nano_dollar(
    _: str, price: Price, document: dict[str, Any], nano_usd: int
) -> None:
    usage = read_usage(document)
    assert usage is not None
    assert cost(price, usage) == nano_usd


def test_images_and_requests_may_have_a_fee_each() -> None:
    usage = Usage(100, 1_290, image_output_tokens=1_290, images=2)
    assert cost(PICTURES, usage) == 100 * 2_000 + 1_290 * 120_000 + 2 * 1_100_000
    assert cost(Price("v", 0, 0, per_request=5_000_000 * 1_000_000), Usage(1, 1)) == 5_000_000


def test_a_part_of_a_nano_dollar_is_rounded_up_once_for_the_attempt() -> None:
    price = Price("v", 37_500_000, 12_500_000, cached_input=250_000)
    # 37.5 + 0.25 + 12.5 nano-USD
    assert cost(price, Usage(2, 1, 1)) == 51


def test_only_what_a_request_can_cause_is_held_for() -> None:
    assert worst_case(SONNET, Bounds(1_000, 0, PLAIN)) == 3_000_000
    assert worst_case(SONNET, Bounds(1_000, 0, CACHE_WRITES)) == 6_000_000
    assert worst_case(AUDIO, Bounds(1_000, 10, PLAIN)) == 2_600_000
    assert worst_case(AUDIO, Bounds(1_000, 10, AUDIO_IN | AUDIO_OUT)) == 40_800_000
    assert worst_case(GEMINI_PRO, Bounds(200_000, 0, PLAIN)) == 200_000 * 1_250
    assert worst_case(GEMINI_PRO, Bounds(200_001, 0, PLAIN)) == 200_001 * 2_500
    # Asked for flex, a provider may still serve at the standard tier.
    assert worst_case(O4_MINI, Bounds(1_000, 0, PLAIN, service="flex")) == 1_100_000
    assert worst_case(O4_MINI, Bounds(1_000, 0, PLAIN, service="priority")) == 2_000_000


def test_a_price_is_free_only_when_nothing_of_it_costs_and_somebody_knows_it() -> None:
    assert Price("v", 0, 0).free
    assert not Price("v", 0, 0, tools=(("web_search", 1),)).free
    assert not Price("v", 0, 0, services=(Service("priority", Rates(1, 0)),)).free
    assert not UNPRICED.free


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_write": -1},
        {"per_image": -1},
        {"tools": (("web_search", -1),)},
        {"long_context": (LongContext(1, Rates(0, -1)),)},
        {"long_context": (LongContext(9, Rates(1, 1)), LongContext(5, Rates(1, 1)))},
        {"services": (Service("batch", Rates(-1, 0)),)},
    ],
)
def test_a_price_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidPrice):
        Price("v", 1, 1, **fields)


def test_a_tools_size_has_its_own_rate_or_its_familys_or_the_dearest() -> None:
    sizes = Price("v", 0, 0, tools=(("web_search.low", 10), ("web_search.high", 30)))
    assert [sizes.tool(name) for name in ("web_search.low", "web_search.medium", "web_search", "code")] == [
        10,
        30,
        30,
        0,
    ]
    assert Price("v", 0, 0, tools=(("web_search", 7),)).tool("web_search.high") == 7


def test_a_request_says_which_dearer_kinds_it_can_cause() -> None:
    parts = [{"type": "input_audio"}, {"type": "image_url"}, {"type": "text"}]
    ask = parse_ask(
        {
            "model": "m",
            "messages": [{"role": "user", "content": parts}],
            "modalities": ["text", "audio"],
            "service_tier": "flex",
            "web_search_options": {"search_context_size": "low"},
        },
        10,
    )
    assert ask.kinds == AUDIO_IN | AUDIO_OUT | IMAGES_IN
    assert (ask.images, ask.service) == (1, "flex")
    assert dict(ask.tool_calls) == {"web_search.low": 1}
    tools = [{"type": "web_search_20250305", "max_uses": 3}, {"type": "function"}]
    searching = parse_ask({**ask.payload, "tools": tools}, 10)
    assert dict(searching.tool_calls) == {"web_search.low": 1, "web_search.medium": 3}
    assert searching.kinds == ANYTHING, "nobody knows what a search finds"
    both = parse_ask({**searching.payload, "max_tool_calls": 5}, 10)
    assert dict(both.tool_calls)["web_search.medium"] == 5, "of two limits nobody knows which one is kept"


@pytest.mark.parametrize(
    "document",
    [
        {"usage": {"prompt_tokens": 1, "completion_tokens": "2"}},
        {"usage": {"input_tokens": -1, "output_tokens": 2}},
        {"usage": {"input_tokens": 0, "output_tokens": 0}},
        {"usageMetadata": {"promptTokenCount": 0}},
        {"usage": {"something": 1}},
        {"usage": {"prompt_tokens": 2**63, "completion_tokens": 2}},
        {"usage": {"input_tokens": 3, "output_tokens": 2**31}},
        {},
    ],
)
def test_a_report_that_can_not_be_true_is_no_report(document: dict[str, Any]) -> None:
    assert read_usage(document) is None


def test_a_response_holds_for_the_searches_it_may_make() -> None:
    ask = parse_response_ask(
        {
            "model": "m",
            "input": "hello",
            "tools": [{"type": "web_search", "search_context_size": "low"}],
            "max_tool_calls": 3,
            "service_tier": "priority",
        },
        100,
    )
    assert ask.tool_calls == (("web_search.low", 3),)
    assert ask.service == "priority"


def test_claims_beyond_the_input_tiers_of_a_service_and_families_of_tools_are_priced_exactly() -> None:
    assert cost(AUDIO, Usage(100, 0, audio_input_tokens=500)) == 100 * 40_000
    assert affordable_output(AUDIO, Bounds(1_000, 0, PLAIN), 1_000) == 0
    long = LongContext(100, Rates(usd("9"), 0))
    price = Price("v", usd("1"), 0, services=(Service("flex", Rates(usd("2"), 0), (long,)),))
    held = [worst_case(price, Bounds(size, 0, PLAIN, service="flex")) for size in (100, 101)]
    assert held == [100 * 2_000, 101 * 9_000]
    tools = Price("v", 0, 0, tools=(("web_search", 7), ("web_search.low", 9)))
    assert tools.tool("web_search.high") == 7
