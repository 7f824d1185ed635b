"""/v1/chat/completions: the answer whole, or piece by piece."""

from collections.abc import Awaitable, Callable
from typing import Protocol
from uuid import UUID

from kairos_router.application.ports import ProviderFailed
from kairos_router.domain.ask import Ask, Caller, parse_ask, tokens_in
from kairos_router.entrypoints import openai_errors as errors
from kairos_router.entrypoints.completions import Flow, Served
from kairos_router.entrypoints.exchange import OK, Exchange

CHAT = "/v1/chat/completions"


class Answers(Protocol):
    """Who answers: `Completions`, or an answer cache in front of it."""

    def complete(self, ask: Ask, caller: Caller, completion_id: UUID) -> Awaitable[Served]: ...

    def open(self, ask: Ask, caller: Caller, completion_id: UUID) -> Awaitable[Flow]: ...

    def label(self, model: str) -> str: ...

    def controlled(self, control: bytes) -> "Answers":
        """The same answers, with the cache as the header `x-kairos-cache` wants it used.

        Raises Rejected for a value nobody knows.
        """
        ...


def answers_for(exchange: Exchange, answers: Answers) -> Answers:
    return answers.controlled(exchange.cache_control) if exchange.cache_control else answers


class Chat:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def __call__(self, exchange: Exchange) -> None:
        ask = parse_ask(exchange.payload, exchange.size)
        exchange.route = self._answers.label(ask.model)
        await exchange.count(tokens_in(ask.size) + (ask.max_tokens or 0) * ask.choices)
        caller = exchange.known_caller
        answers = answers_for(exchange, self._answers)
        if ask.stream:
            await send_flow(exchange, await answers.open(ask, caller, exchange.completion_id))
            return
        served = await answers.complete(ask, caller, exchange.completion_id)
        exchange.provider_seconds, exchange.tokens = served.provider_seconds, served.tokens
        await exchange.answer(OK, served.body, served.headers)


def _broken_off() -> bytes:
    body = errors.envelope("The provider broke off the answer", "server_error", "provider_error")
    return b"data: " + body + b"\n\n"


async def send_flow(exchange: Exchange, flow: Flow, broken_off: Callable[[], bytes] = _broken_off) -> None:
    """Pass a stream on to its end. `broken_off` makes the event that says the provider has not finished."""
    exchange.provider_seconds = flow.time_to_first_token
    try:
        await exchange.begin_events(flow.headers)
        await _pieces(exchange, flow, broken_off)
    finally:
        flow.abandon()
        exchange.tokens = flow.tokens
    await exchange.end_events()


async def _pieces(exchange: Exchange, flow: Flow, broken_off: Callable[[], bytes]) -> None:
    told = False
    waiting: Awaitable[None] | None
    try:
        while piece := await flow.next():
            cost = None if told else flow.cost_so_far
            if cost is not None:
                # A comment of the event stream: clients skip it, people and our own tools read it.
                piece, told = piece + f": x-kairos-cost-nano-usd {cost}\n\n".encode(), True
            waiting = exchange.events(piece)
            if waiting is not None:
                await waiting
    except ProviderFailed as failure:
        exchange.outcome = failure.fault.value
        waiting = exchange.events(broken_off())
        if waiting is not None:
            await waiting
