"""/v1/embeddings: vectors of texts."""

from kairos_router.domain.ask import tokens_in
from kairos_router.domain.embedding_ask import parse_embedding_ask
from kairos_router.entrypoints.chat import Answers, answers_for
from kairos_router.entrypoints.exchange import OK, Exchange

EMBEDDINGS = "/v1/embeddings"


class Embeddings:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def __call__(self, exchange: Exchange) -> None:
        ask = parse_embedding_ask(exchange.payload)
        exchange.route = self._answers.label(ask.model)
        await exchange.count(tokens_in(ask.size))
        answers = answers_for(exchange, self._answers)
        served = await answers.complete(ask, exchange.known_caller, exchange.completion_id)
        exchange.provider_seconds, exchange.tokens = served.provider_seconds, served.tokens
        await exchange.answer(OK, served.body, served.headers)
