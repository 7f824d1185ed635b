"""Bots by API."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Field

from kairos_bots.application.change_bot import BotChange, change_bot
from kairos_bots.application.create_bot import NewBot, create_bot
from kairos_bots.application.delete_bot import delete_bot
from kairos_bots.application.ports import Cipher, WakeUps, Works
from kairos_bots.domain.bot import Bot, DesiredState, Mode, ObservedState, TelegramUpdates
from kairos_bots.domain.errors import BotUnknownError, InvalidBotError
from kairos_bots.entrypoints.paging import cursor_after, position_of
from kairos_contracts.permissions import Permission
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, requires

FALLBACK = "Sorry, I can't answer right now. Please try again later."
SECRET_NAMES = ("telegram_token", "telegram_webhook_secret")


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL character can't be stored")
    return text


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_nul)]
ModelName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_nul)]
Prompt = Annotated[str, Field(max_length=32_000), AfterValidator(_no_nul)]
Fallback = Annotated[str, Field(min_length=1, max_length=4_096), AfterValidator(_no_nul)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]
TelegramToken = Annotated[str, Field(pattern=r"^[0-9]{1,20}:[A-Za-z0-9_-]{1,200}$")]
WebhookSecret = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,256}$")]


class BotIn(BaseModel):
    """A new bot. Secrets are write-only; without a webhook secret one is made.

    `telegram_updates` says how messages arrive; by default by webhook where Telegram can reach us or
    a secret is given, else by polling.
    """

    name: Name
    model: ModelName
    project_id: UUID | None = None
    mode: Mode = Mode.GPT
    system_prompt: Prompt = ""
    fallback_text: Fallback = FALLBACK
    max_tokens: Tokens = 512
    web_enabled: bool = False
    desired_state: DesiredState = DesiredState.RUNNING
    telegram_token: TelegramToken | None = Field(default=None, repr=False)
    telegram_webhook_secret: WebhookSecret | None = Field(default=None, repr=False)
    telegram_updates: TelegramUpdates | None = None


class BotPatch(BaseModel):
    """Fields that are sent change; a secret or project sent as null is removed."""

    name: Name = ""
    model: ModelName = ""
    project_id: UUID | None = None
    mode: Mode = Mode.GPT
    system_prompt: Prompt = ""
    fallback_text: Fallback = ""
    max_tokens: Tokens = 1
    web_enabled: bool = False
    desired_state: DesiredState = DesiredState.RUNNING
    telegram_token: TelegramToken | None = Field(default=None, repr=False)
    telegram_webhook_secret: WebhookSecret | None = Field(default=None, repr=False)
    telegram_updates: TelegramUpdates = TelegramUpdates.WEBHOOK

    def change(self) -> BotChange:
        sent = {name: getattr(self, name) for name in self.model_fields_set}
        secrets_sent = {name: sent.pop(name) for name in SECRET_NAMES if name in sent}
        return BotChange(fields=sent, secrets=secrets_sent)


class BotOut(BaseModel):
    """`telegram_configured` tells that a token is stored; no route shows it."""

    id: UUID
    organisation_id: UUID
    project_id: UUID | None
    name: str
    mode: Mode
    model: str
    system_prompt: str
    fallback_text: str
    max_tokens: int
    web_enabled: bool
    telegram_configured: bool
    telegram_updates: TelegramUpdates
    webhook_path: str
    desired_state: DesiredState
    observed_state: ObservedState
    observed_reason: str
    observed_at: datetime
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, bot: Bot) -> "BotOut":
        values = {name: getattr(bot, name) for name in cls.model_fields if hasattr(bot, name)}
        return cls(
            **values,
            telegram_configured=bot.telegram_token is not None,
            webhook_path=f"/channels/telegram/{bot.id}",
        )


@dataclass(frozen=True)
class BotApi:
    """What the routes need. `webhook_by_default`: Telegram can reach this installation."""

    works: Works
    cipher: Cipher
    wakes: WakeUps
    webhook_by_default: bool


def bot_unknown() -> Problem:
    return Problem(404, "bot_unknown", "There is no such bot")


@contextmanager
def _as_problems() -> Iterator[None]:
    try:
        yield
    except BotUnknownError as error:
        raise bot_unknown() from error
    except InvalidBotError as error:
        raise Problem(422, "invalid_bot", "The bot can't work with these settings", str(error)) from error


def bots_router(api: BotApi) -> APIRouter:
    router = APIRouter(prefix="/bots", tags=["bots"])
    _add_reading(router, api)
    _add_writing(router, api)
    return router


def _add_reading(router: APIRouter, api: BotApi) -> None:
    @router.get("", dependencies=[requires(Permission.BOTS_READ)])
    async def page_of_bots(page: Paged, organisation: CurrentOrganisation) -> Page[BotOut]:
        async with api.works.tenant(organisation) as work:
            found = await work.bots.page(position_of(page), page.limit)
        return Page(items=[BotOut.of(bot) for bot in found], next_cursor=cursor_after(found, page.limit))

    @router.get("/{bot_id}", dependencies=[requires(Permission.BOTS_READ)])
    async def read(bot_id: UUID, organisation: CurrentOrganisation) -> BotOut:
        async with api.works.tenant(organisation) as work:
            bot = await work.bots.get(bot_id)
        if bot is None:
            raise bot_unknown()
        return BotOut.of(bot)


def _add_writing(router: APIRouter, api: BotApi) -> None:
    guard = [requires(Permission.BOTS_WRITE)]

    @router.post("", status_code=201, dependencies=guard)
    async def create(new: BotIn, organisation: CurrentOrganisation, context: CurrentContext) -> BotOut:
        by_webhook = api.webhook_by_default or new.telegram_webhook_secret is not None
        default = TelegramUpdates.WEBHOOK if by_webhook else TelegramUpdates.POLLING
        fields = new.model_dump() | {"telegram_updates": new.telegram_updates or default}
        with _as_problems():
            async with api.works.tenant(organisation) as work:
                bot = await create_bot(
                    work,
                    NewBot(**fields),
                    organisation_id=organisation,
                    context=context,
                    cipher=api.cipher,
                    generated_secret=secrets.token_urlsafe(32),
                    wakes=api.wakes,
                )
        return BotOut.of(bot)

    @router.patch("/{bot_id}", dependencies=guard)
    async def change(
        bot_id: UUID, patch: BotPatch, organisation: CurrentOrganisation, context: CurrentContext
    ) -> BotOut:
        """A change of mode is effective on the next turn; answers in flight are fenced off."""
        with _as_problems():
            async with api.works.tenant(organisation) as work:
                bot = await change_bot(
                    work,
                    bot_id,
                    patch.change(),
                    context=context,
                    cipher=api.cipher,
                    generated_secret=secrets.token_urlsafe(32),
                    wakes=api.wakes,
                )
        return BotOut.of(bot)

    @router.delete("/{bot_id}", status_code=204, dependencies=guard)
    async def delete(bot_id: UUID, organisation: CurrentOrganisation, context: CurrentContext) -> None:
        with _as_problems():
            async with api.works.tenant(organisation) as work:
                await delete_bot(work, bot_id, context=context, wakes=api.wakes)
