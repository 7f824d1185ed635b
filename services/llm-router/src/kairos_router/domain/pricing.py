"""What an attempt costs, exactly, in every dimension providers charge for, and the most it can cost.

Rates are integers of nano-USD per million units (tokens, images, calls), so that a price of a fraction
of a nano-dollar per token stays exact. An attempt's cost is rounded up once, to a whole nano-dollar.
"""

from dataclasses import dataclass, field

from kairos_router.domain.records import record

PER_MILLION = 1_000_000
# No request has more tokens than this; with a larger figure sums would not fit the ledger's numbers.
MOST_TOKENS = 1 << 30
TOKENS_PER_PRICE = PER_MILLION

STANDARD = "standard"
"""The service tier of a provider that named none. Others: batch, flex, priority."""

# What a request can make a provider charge for; bits, because they are the key of a table on the hot path.
PLAIN = 0
CACHE_WRITES = 1
AUDIO_IN = 2
AUDIO_OUT = 4
IMAGES_IN = 8
IMAGES_OUT = 16
ANYTHING = CACHE_WRITES | AUDIO_IN | AUDIO_OUT | IMAGES_IN | IMAGES_OUT


class InvalidPrice(ValueError):  # noqa: N818 - reads as the fact it states
    """A price is negative or contradicts itself; it is not loaded."""


@dataclass(frozen=True, slots=True)
class Rates:
    """nano-USD per million tokens of each kind; see Price for what a kind without a rate costs."""

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    cached_audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None

    def dearest_input(self, kinds: int = ANYTHING) -> int:
        """The most one input token can cost when only these kinds can occur."""
        rates = [self.input, self.cached_input]
        if kinds & CACHE_WRITES:
            rates += (self.cache_write, self.cache_write_1h)
        if kinds & AUDIO_IN:
            rates += (self.audio_input, self.cached_audio_input)
        if kinds & IMAGES_IN:
            rates.append(self.image_input)
        return max(rate for rate in rates if rate is not None)

    def dearest_output(self, kinds: int = ANYTHING) -> int:
        """The most one output token can cost; any model may reason."""
        rates = [self.output, self.reasoning]
        if kinds & AUDIO_OUT:
            rates.append(self.audio_output)
        if kinds & IMAGES_OUT:
            rates.append(self.image_output)
        return max(rate for rate in rates if rate is not None)

    def scaled(self, percent: int) -> "Rates":
        """The same at a percentage, rounded up to a whole rate; 50 for half price."""
        scaled = {name: _percent(getattr(self, name), percent) for name in RATE_NAMES}
        return Rates(**scaled)  # type: ignore[arg-type] # what has a rate keeps one

    def all(self) -> tuple[int, ...]:
        values = (getattr(self, name) for name in RATE_NAMES)
        return tuple(value for value in values if value is not None)


RATE_NAMES: tuple[str, ...] = tuple(Rates.__dataclass_fields__)


def _percent(rate: int | None, percent: int) -> int | None:
    return None if rate is None else -(-rate * percent // 100)


@dataclass(frozen=True, slots=True)
class LongContext:
    """Other rates for the whole request once its input is longer than `above` tokens."""

    above: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Service:
    """The rates of a service tier other than the standard one, with long-context rates of its own."""

    name: str
    rates: Rates
    long_context: tuple[LongContext, ...] = ()


@dataclass(frozen=True)
class Price:
    """The price of a model: rates of nano-USD per million tokens, tiers, and fees.

    A kind without a rate costs what the kind it is part of costs: cached input, cache writes, audio and
    images as input; a cache write for an hour as one for five minutes; cached audio as audio or cached
    input, whichever is dearer; reasoning, audio and images in the answer as output.
    `per_image` and `per_request` are nano-USD per million images and requests; `tools` nano-USD per
    million calls, by name (`web_search`, or with a size: `web_search.low`).
    `known` is False for a model nobody has a price of.
    """

    version: str
    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    cached_audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    long_context: tuple[LongContext, ...] = ()
    services: tuple[Service, ...] = ()
    per_request: int = 0
    per_image: int = 0
    tools: tuple[tuple[str, int], ...] = ()
    known: bool = True
    rates: Rates = field(init=False, repr=False, compare=False)
    free: bool = field(init=False, repr=False, compare=False)
    charges_cache_writes: bool = field(init=False, repr=False, compare=False)
    _dearest: dict[tuple[int, str, int], tuple[int, int]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        rates = Rates(**{name: getattr(self, name) for name in RATE_NAMES})
        amounts = [*rates.all(), self.per_request, self.per_image, *(rate for _, rate in self.tools)]
        for service in self.services:
            amounts += service.rates.all()
        tiers = [self.long_context, *(service.long_context for service in self.services)]
        for tier in (each for several in tiers for each in several):
            amounts += (tier.above, *tier.rates.all())
        if min(amounts) < 0:
            raise InvalidPrice("no rate may be negative")
        if any(list(several) != _rising(several) for several in tiers):
            raise InvalidPrice("every tier of long_context needs an `above` of its own")
        object.__setattr__(self, "rates", rates)
        object.__setattr__(self, "free", self.known and not any(amounts))
        object.__setattr__(self, "charges_cache_writes", self._charges_cache_writes())

    def rates_for(self, input_tokens: int, service: str = STANDARD) -> Rates:
        """The rates of a request with this many input tokens. An unknown service tier is the standard one."""
        rates, tiers = self._tiers(service)
        for tier in tiers:
            if input_tokens <= tier.above:
                break
            rates = tier.rates
        return rates

    def dearest(self, input_tokens: int, kinds: int, service: str) -> tuple[int, int]:
        """The dearest rates an input and an output token can have, of at most this many input tokens.

        A provider may serve a request at the standard tier although another one was asked for.
        """
        reached = sum(1 for tier in self.long_context if tier.above < input_tokens)
        if service != STANDARD:
            reached += sum(1 for tier in self._tiers(service)[1] if tier.above < input_tokens) << 8
        key = (kinds, service, reached)
        found = self._dearest.get(key)
        if found is None:
            rates = [
                rates
                for name in {STANDARD, service}
                for base, tiers in [self._tiers(name)]
                for rates in (base, *(tier.rates for tier in tiers if tier.above < input_tokens))
            ]
            found = self._dearest[key] = (
                max(each.dearest_input(kinds) for each in rates),
                max(each.dearest_output(kinds) for each in rates),
            )
        return found

    def tool(self, name: str) -> int:
        """The rate of a tool's calls: its own, else its family's, else the dearest of the family, else 0."""
        family = name.partition(".")[0]
        rates = dict(self.tools)
        if name in rates:
            return rates[name]
        if family in rates:
            return rates[family]
        return max((rate for tool, rate in self.tools if tool.partition(".")[0] == family), default=0)

    def _charges_cache_writes(self) -> bool:
        plans = [(self.rates, self.long_context)]
        plans += [(service.rates, service.long_context) for service in self.services]
        every = [rates for base, tiers in plans for rates in (base, *(tier.rates for tier in tiers))]
        return any(rates.cache_write is not None or rates.cache_write_1h is not None for rates in every)

    def _tiers(self, service: str) -> tuple[Rates, tuple[LongContext, ...]]:
        for each in self.services:
            if each.name == service:
                return each.rates, each.long_context
        return self.rates, self.long_context


def _rising(tiers: tuple[LongContext, ...]) -> list[LongContext]:
    return sorted({tier.above: tier for tier in tiers}.values(), key=lambda tier: tier.above)


UNPRICED = Price("unpriced", 0, 0, known=False)
"""Nobody knows what the model costs: it is never free, and no budget can vouch for it."""


@record
class Usage:
    """What one attempt used. All special kinds are part of the input or output tokens.

    Cached tokens, both kinds of cache writes, audio and images are parts of the input that do not overlap,
    but for cached audio, which is in both. Reasoning, audio and images are parts of the output.
    `tool_calls` counts paid tools by name. `service` is the tier the provider served the request at.
    `estimated`: counted here because the provider's own figures never came.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    estimated: bool = False
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    cached_audio_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    images: int = 0
    tool_calls: tuple[tuple[str, int], ...] = ()
    service: str = STANDARD

    @property
    def plain(self) -> bool:
        """Whether input, output and cached tokens are all there is."""
        return not (
            self.cache_write_tokens
            or self.cache_write_1h_tokens
            or self.reasoning_tokens
            or self.audio_input_tokens
            or self.audio_output_tokens
            or self.image_input_tokens
            or self.image_output_tokens
        )


@record
class Bounds:
    """The most an attempt can use. `kinds` says which kinds of tokens can occur in it at all."""

    input_tokens: int
    output_tokens: int
    kinds: int = ANYTHING
    images: int = 0
    tool_calls: tuple[tuple[str, int], ...] = ()
    service: str = STANDARD


def _rounded_up(micro: int) -> int:
    return -(-micro // PER_MILLION)


def _input_cost(rates: Rates, usage: Usage) -> int:
    """Every input token once, at its kind's rate. Claims beyond the input's length are cut off."""
    rest = usage.input_tokens
    total = 0

    def take(tokens: int, rate: int | None, otherwise: int) -> None:
        nonlocal rest, total
        tokens = min(tokens, rest)
        rest -= tokens
        total += tokens * (otherwise if rate is None else rate)

    cached_audio = min(usage.cached_audio_tokens, usage.cached_input_tokens, usage.audio_input_tokens)
    cached = rates.input if rates.cached_input is None else rates.cached_input
    audio = rates.input if rates.audio_input is None else rates.audio_input
    write = rates.input if rates.cache_write is None else rates.cache_write
    take(cached_audio, rates.cached_audio_input, max(audio, cached) if cached_audio else 0)
    take(usage.audio_input_tokens - cached_audio, rates.audio_input, rates.input)
    take(usage.cache_write_1h_tokens, rates.cache_write_1h, write)
    take(usage.cache_write_tokens, rates.cache_write, rates.input)
    take(usage.image_input_tokens, rates.image_input, rates.input)
    take(usage.cached_input_tokens - cached_audio, rates.cached_input, rates.input)
    return total + rest * rates.input


def _output_cost(rates: Rates, usage: Usage) -> int:
    rest = usage.output_tokens
    total = 0
    for tokens, rate in (
        (usage.audio_output_tokens, rates.audio_output),
        (usage.image_output_tokens, rates.image_output),
        (usage.reasoning_tokens, rates.reasoning),
    ):
        taken = min(tokens, rest)
        rest -= taken
        total += taken * (rates.output if rate is None else rate)
    return total + rest * rates.output


def _fees(price: Price, images: int, tool_calls: tuple[tuple[str, int], ...]) -> int:
    return (
        price.per_request
        + images * price.per_image
        + sum(calls * price.tool(name) for name, calls in tool_calls)
    )


def cost(price: Price, usage: Usage) -> int:
    """What the usage costs in nano-USD."""
    rates = price.rates
    if price.long_context or price.services:
        rates = price.rates_for(usage.input_tokens, usage.service)
    fees = 0
    if price.per_request or usage.images or usage.tool_calls:
        fees = _fees(price, usage.images, usage.tool_calls)
    if usage.plain:
        cached = min(usage.cached_input_tokens, usage.input_tokens)
        cached_rate = rates.input if rates.cached_input is None else rates.cached_input
        fresh = usage.input_tokens - cached
        return _rounded_up(
            fresh * rates.input + cached * cached_rate + usage.output_tokens * rates.output + fees
        )
    return _rounded_up(_input_cost(rates, usage) + _output_cost(rates, usage) + fees)


def worst_case(price: Price, bounds: Bounds) -> int:
    """The most an attempt within the bounds can cost in nano-USD: every token at its dearest rate."""
    dear_input, dear_output = price.dearest(bounds.input_tokens, bounds.kinds, bounds.service)
    fees = 0
    if price.per_request or bounds.images or bounds.tool_calls:
        fees = _fees(price, bounds.images, bounds.tool_calls)
    return _rounded_up(bounds.input_tokens * dear_input + bounds.output_tokens * dear_output + fees)


def affordable_output(price: Price, bounds: Bounds, amount: int) -> int:
    """The largest output bound whose worst case fits into `amount`; 0 when all else does not fit already."""
    dear_input, dear_output = price.dearest(bounds.input_tokens, bounds.kinds, bounds.service)
    fees = _fees(price, bounds.images, bounds.tool_calls)
    rest = amount * PER_MILLION - bounds.input_tokens * dear_input - fees
    if rest < 0 or dear_output == 0:
        return 0
    return rest // dear_output
