"""/v1/models: what a caller may ask for by name."""

from uuid import UUID

import orjson

from kairos_router.entrypoints.completions import Completions
from kairos_router.entrypoints.credentials import Rejected
from kairos_router.entrypoints.exchange import OK, Exchange

MODELS = "/v1/models"
MODEL = "/v1/models/{model}"


class Models:
    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    async def all(self, exchange: Exchange) -> None:
        documents = list(self._completions.models(_organisation(exchange)).values())
        await exchange.answer(OK, orjson.dumps({"object": "list", "data": documents}), [])

    async def one(self, exchange: Exchange) -> None:
        name = exchange.path.removeprefix(f"{MODELS}/")
        document = self._completions.models(_organisation(exchange)).get(name)
        if document is None:
            raise Rejected(self._completions.unknown_model(name))
        await exchange.answer(OK, orjson.dumps(document), [])


def _organisation(exchange: Exchange) -> UUID:
    return exchange.known_caller.scope.organisation_id
