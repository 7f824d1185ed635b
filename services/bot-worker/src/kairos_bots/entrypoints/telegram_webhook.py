"""POST /channels/telegram/{bot_id}: Telegram's updates."""

import json
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request

from kairos_bots.application.accept_update import accept_update, admit_webhook
from kairos_bots.application.ports import Publisher, Registry, TelegramParser
from kairos_bots.domain.errors import BotUnknownError, MalformedUpdateError, NotReadyError, WrongSecretError
from kairos_bots.entrypoints.consumers import count_message
from kairos_faults import apoint
from kairos_web import Problem, public, unavailable

_WHY_PUBLIC = "Telegram proves itself by the webhook's secret header, compared in constant time"


def webhook_router(registry: Registry, parser: TelegramParser, publisher: Publisher) -> APIRouter:
    router = APIRouter(tags=["channels"])

    @router.post("/channels/telegram/{bot_id}", dependencies=[public(_WHY_PUBLIC)])
    async def receive(
        bot_id: UUID,
        request: Request,
        x_telegram_bot_api_secret_token: Annotated[str | None, Header()] = None,
    ) -> dict[str, bool]:
        """200 once the broker has the message; 503 asks Telegram to come again, which keeps its order."""
        try:
            bot = admit_webhook(registry, bot_id, x_telegram_bot_api_secret_token)
            outcome = await accept_update(
                bot, _json(await request.body()), parser=parser, publisher=publisher
            )
        except BotUnknownError as error:
            raise Problem(404, "bot_unknown", "There is no such bot") from error
        except WrongSecretError as error:
            raise Problem(401, "wrong_secret", "The webhook secret is missing or wrong") from error
        except NotReadyError as error:
            raise unavailable(str(error)) from error
        except MalformedUpdateError as error:
            raise Problem(400, "malformed_update", "The body is not a Telegram update") from error
        await apoint("bots.ingress.stored")
        if outcome == "unsupported":
            count_message("unsupported")
        return {"ok": True}

    return router


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedUpdateError(MalformedUpdateError.__doc__) from error
