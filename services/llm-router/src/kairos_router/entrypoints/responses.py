"""/v1/responses: OpenAI's newer API, from every deployment that can answer a chat completion."""

import orjson

from kairos_router.domain.ask import Ask, InvalidAsk, tokens_in
from kairos_router.domain.catalogue import Capability
from kairos_router.domain.response_ask import parse_response_ask
from kairos_router.domain.selection import NothingFits
from kairos_router.entrypoints.chat import Answers, answers_for, send_flow
from kairos_router.entrypoints.exchange import OK, Exchange

RESPONSES = "/v1/responses"


def _broken_off() -> bytes:
    """The API's error event; clients raise on the member `error`, which the others carry too."""
    told = {"code": "provider_error", "message": "The provider broke off the answer", "param": None}
    event = {"type": "error", **told, "error": {**told, "type": "server_error"}}
    return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"


class Responses:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def __call__(self, exchange: Exchange) -> None:
        ask = parse_response_ask(exchange.payload, exchange.size)
        exchange.route = self._answers.label(ask.model)
        await exchange.count(tokens_in(exchange.size) + (ask.max_tokens or 0))
        try:
            await self._answer(exchange, ask)
        except NothingFits as error:
            raise _named(ask, error) from None

    async def _answer(self, exchange: Exchange, ask: Ask) -> None:
        caller = exchange.known_caller
        # The cache takes no part, but may be all that is wanted.
        answers = answers_for(exchange, self._answers)
        if ask.stream:
            flow = await answers.open(ask, caller, exchange.completion_id)
            await send_flow(exchange, flow, _broken_off)
            return
        served = await answers.complete(ask, caller, exchange.completion_id)
        exchange.provider_seconds, exchange.tokens = served.provider_seconds, served.tokens
        await exchange.answer(OK, served.body, served.headers)


def _named(ask: Ask, error: NothingFits) -> Exception:
    """The parameter that is to blame, when only a provider with the Responses API could serve it."""
    lacking = all(Capability.RESPONSES in reason for reason in error.reasons.values())
    if ask.native is None or not lacking:
        return error
    return InvalidAsk(f"'{ask.native}': no deployment of this model has the Responses API itself", ask.native)
