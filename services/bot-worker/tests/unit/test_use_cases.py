"""Use cases on stores in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from kairos_bots.application.accept_update import accept_update, admit_webhook
from kairos_bots.application.apply_bot import apply_to_channel, record_observation, webhook_url
from kairos_bots.application.change_bot import BotChange, change_bot
from kairos_bots.application.open_turn import OpeningRules, open_turn
from kairos_bots.application.ports import (
    IncomingText,
    RegisteredBot,
    TelegramAwayError,
    TelegramRefusedError,
    TelegramUpdate,
)
from kairos_bots.application.receive_message import receive_message
from kairos_bots.application.reply_hub import MAILBOX, MailboxFullError, ReplyHub
from kairos_bots.application.send_reply import ClaimedReply, claim_replies, record_try, send_reply
from kairos_bots.domain.bot import DesiredState, Mode, ObservedState, Sealed, TelegramUpdates
from kairos_bots.domain.delivery import Accepted, NotTaken, Paced, Refused, RetryRules, Unsure
from kairos_bots.domain.errors import BotUnknownError, UnreadableSecretError, WrongSecretError
from kairos_bots.domain.turn import QuietWindow, TurnState
from kairos_contracts.audit import AuditContext
from kairos_contracts.auth.v1 import AuditEntryRecordedV1
from kairos_contracts.conversation.v1 import (
    BotLifecycleChangedV1,
    MessageReceivedV1,
    ReplyFailedV1,
    ReplySentV1,
    TurnAnsweredV1,
)
from kairos_contracts.llm.v1 import CompletionRequestV1

NO_WINDOW = QuietWindow(timedelta(0), timedelta(0))
LEASE = timedelta(seconds=10)
CONTEXT = AuditContext.system("test")


class PlainCipher:
    def seal(self, secret: str, *, bound_to: str) -> Sealed:
        return Sealed("plain", f"{bound_to}|{secret}".encode())

    def open(self, sealed: Sealed, *, bound_to: str) -> str:
        if sealed.key_id != "plain":
            raise UnreadableSecretError(f"sealed under key {sealed.key_id}")
        purpose, _, secret = sealed.ciphertext.decode().partition("|")
        assert purpose == bound_to
        return secret


class ScriptedTelegram:
    """Answers sends from a list; remembers every call."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[Any, ...]] = []

    async def send_text(self, token: str, chat_id: str, text: str) -> Any:
        self.calls.append(("send", token, chat_id, text))
        return self.outcomes.pop(0)

    async def set_webhook(self, token: str, url: str, secret: str) -> None:
        self.calls.append(("set", token, url, secret))
        self._maybe_raise()

    async def delete_webhook(self, token: str) -> None:
        self.calls.append(("delete", token))
        self._maybe_raise()

    async def get_updates(self, token: str, offset: int | None, wait: timedelta) -> Sequence[TelegramUpdate]:
        return []

    def _maybe_raise(self) -> None:
        if self.outcomes:
            raise self.outcomes.pop(0)


class Governor:
    def __init__(self, wait: timedelta = timedelta(0)) -> None:
        self.wait = wait

    async def admit(self, bot_id: Any, chat_id: str) -> timedelta:
        return self.wait


async def _arrive(kit: Any, works: Any, bot: Any, wakes: Any, **changes: Any) -> Any:
    async with works.system() as work:
        return await receive_message(
            work,
            kit.message(bot, **changes),
            event_id=uuid4(),
            organisation_id=kit.organisation,
            window=NO_WINDOW,
            wakes=wakes,
            traceparent="00-aa-bb-01",
        )


async def _manual_reply(kit: Any, *, channel: str = "telegram") -> tuple[Any, Any, Any]:
    """A world with one reply waiting to be sent (or sent, on the web)."""
    works, wakes = kit.Works(), kit.Wakes()
    bot = kit.bot(mode=Mode.MANUAL)
    bot = replace(bot, telegram_token=PlainCipher().seal("5:x", bound_to=f"{bot.id}:telegram_token"))
    works.tables.bots[bot.id] = bot
    await _arrive(kit, works, bot, wakes, channel=channel)
    async with works.system() as work:
        held = await work.turns.hold_due()
        await open_turn(work, held, rules=OpeningRules(timedelta(seconds=60)), wakes=wakes)
    return works, wakes, bot


async def _claim(works: Any, wakes: Any, governor: Any = None) -> Sequence[ClaimedReply]:
    async with works.system() as work:
        return await claim_replies(
            work,
            limit=10,
            lease=LEASE,
            governor=governor or Governor(),
            claim_token=uuid4(),
            cipher=PlainCipher(),
            wakes=wakes,
        )


async def _record(works: Any, wakes: Any, claimed: ClaimedReply, outcome: Any) -> str:
    async with works.system() as work:
        return await record_try(work, claimed.reply, outcome, rules=RetryRules(), wakes=wakes)


async def test_a_message_for_a_bot_nobody_made_is_refused(kit: Any) -> None:
    works = kit.Works()
    with pytest.raises(BotUnknownError):
        await _arrive(kit, works, kit.bot(), kit.Wakes())
    assert works.tables.inbox == set()


async def test_manual_mode_answers_with_the_away_message_and_asks_no_model(kit: Any) -> None:
    works, wakes, _ = await _manual_reply(kit)
    answered = [event for event in works.tables.events if isinstance(event, TurnAnsweredV1)]
    assert [event.source for event in answered] == ["default"]
    assert [row["reply"].text for row in works.tables.replies.values()] == ["fallback"]
    assert wakes.replies == [timedelta(0)]


async def test_a_web_reply_is_sent_by_being_stored(kit: Any) -> None:
    works, _, _ = await _manual_reply(kit, channel="web")
    assert works.tables.replies == {}
    sent = [event for event in works.tables.events if isinstance(event, ReplySentV1)]
    assert [(event.text, event.attempts, event.sequence) for event in sent] == [("fallback", 1, 2)]


async def test_a_sent_reply_is_announced_with_its_attempts(kit: Any) -> None:
    works, wakes, _ = await _manual_reply(kit)
    [claimed] = await _claim(works, wakes)
    telegram = ScriptedTelegram(Accepted("77"))
    outcome = await send_reply(claimed, telegram)
    assert telegram.calls == [("send", "5:x", "7", "fallback")]
    assert await _record(works, wakes, claimed, outcome) == "sent"
    [sent] = [event for event in works.tables.events if isinstance(event, ReplySentV1)]
    assert (sent.external_message_id, sent.attempts) == ("77", 1)
    assert works.tables.messages[sent.message_id].delivery == "sent"
    assert works.tables.replies == {}


async def test_a_pause_the_channel_asks_for_holds_the_reply_back_that_long(kit: Any) -> None:
    works, wakes, _ = await _manual_reply(kit)
    [claimed] = await _claim(works, wakes)
    assert await _record(works, wakes, claimed, Paced(timedelta(seconds=5))) == "paused"
    works.advance(timedelta(seconds=4))
    assert await _claim(works, wakes) == []
    works.advance(timedelta(seconds=1))
    [again] = await _claim(works, wakes)
    assert (again.reply.attempts, again.reply.ambiguous) == (2, 0)


async def test_the_governor_holds_a_reply_back_without_counting_a_try(kit: Any) -> None:
    works, wakes, _ = await _manual_reply(kit)
    assert await _claim(works, wakes, Governor(timedelta(seconds=2))) == []
    assert wakes.replies[-1] == timedelta(seconds=2)
    works.advance(timedelta(seconds=2))
    [claimed] = await _claim(works, wakes)
    assert claimed.reply.attempts == 1


async def test_a_try_without_an_answer_is_marked_ambiguous_and_repeated(kit: Any) -> None:
    works, wakes, _ = await _manual_reply(kit)
    [claimed] = await _claim(works, wakes)
    assert await _record(works, wakes, claimed, Unsure("timeout")) == "ambiguous"
    works.advance(timedelta(seconds=1))
    [again] = await _claim(works, wakes)
    assert await _record(works, wakes, again, Accepted("1")) == "sent"
    assert works.tables.messages[again.reply.id].ambiguous == 1


async def test_a_reply_whose_sender_died_is_taken_over_and_marked_ambiguous(kit: Any) -> None:
    works, wakes, _ = await _manual_reply(kit)
    [dead] = await _claim(works, wakes)
    assert await _claim(works, wakes) == []
    works.advance(LEASE)
    [again] = await _claim(works, wakes)
    assert (again.reply.attempts, again.reply.ambiguous) == (2, 1)
    assert await _record(works, wakes, dead, Accepted("1")) == "stale"
    assert await _record(works, wakes, again, Accepted("2")) == "sent"
    [sent] = [event for event in works.tables.events if isinstance(event, ReplySentV1)]
    assert sent.external_message_id == "2"


async def test_a_refused_reply_fails_for_good(kit: Any) -> None:
    works, wakes, _ = await _manual_reply(kit)
    [claimed] = await _claim(works, wakes)
    assert await _record(works, wakes, claimed, Refused("blocked")) == "failed"
    [failed] = [event for event in works.tables.events if isinstance(event, ReplyFailedV1)]
    assert failed.reason == "blocked"
    assert await _claim(works, wakes) == []


async def test_nobody_speaks_for_a_deleted_bot_or_without_a_token(kit: Any) -> None:
    works, wakes, bot = await _manual_reply(kit)
    works.tables.bots[bot.id] = replace(bot, telegram_token=None)
    [claimed] = await _claim(works, wakes)
    assert isinstance(await send_reply(claimed, ScriptedTelegram()), NotTaken)
    works.advance(LEASE)
    works.tables.bots[bot.id] = replace(bot, deleted_at=kit.start)
    [claimed] = await _claim(works, wakes)
    assert await send_reply(claimed, ScriptedTelegram()) == Refused("the bot was deleted")


async def test_a_long_answer_goes_out_part_by_part_in_order(kit: Any) -> None:
    works, wakes, bot = await _manual_reply(kit)
    works.tables.bots[bot.id] = replace(bot, fallback_text="x" * 4096 + " " + "y" * 4096)
    works.tables.replies.clear()
    await _arrive(kit, works, bot, wakes)
    async with works.system() as work:
        held = await work.turns.hold_due()
        await open_turn(work, held, rules=OpeningRules(timedelta(seconds=60)), wakes=wakes)
    sent = []
    for number in range(2):
        [claimed] = await _claim(works, wakes)
        sent.append(claimed.reply.text[0])
        await _record(works, wakes, claimed, Accepted(str(number)))
    assert sent == ["x", "y"]


async def test_a_turn_is_asked_for_in_the_name_of_its_project_and_contact_and_before_work_that_can_wait(
    kit: Any,
) -> None:
    works, wakes = kit.Works(), kit.Wakes()
    bot = kit.bot(project_id=uuid4())
    works.tables.bots[bot.id] = bot
    await _arrive(kit, works, bot, wakes)
    async with works.system() as work:
        held = await work.turns.hold_due()
        await open_turn(work, held, rules=OpeningRules(timedelta(seconds=60)), wakes=wakes)

    [request] = [event for event in works.tables.events if isinstance(event, CompletionRequestV1)]
    [conversation] = works.tables.conversations.values()
    assert (request.bot_id, request.project_id) == (bot.id, bot.project_id)
    assert request.contact_id == conversation.contact_id
    assert request.priority == "interactive"


async def _change(works: Any, wakes: Any, bot_id: Any, change: BotChange) -> Any:
    async with works.system() as work:
        return await change_bot(
            work,
            bot_id,
            change,
            context=CONTEXT,
            cipher=PlainCipher(),
            generated_secret="generated",
            wakes=wakes,
        )


async def test_a_change_of_mode_reopens_the_turns_in_flight(kit: Any) -> None:
    works, wakes = kit.Works(), kit.Wakes()
    bot = kit.bot()
    works.tables.bots[bot.id] = bot
    await _arrive(kit, works, bot, wakes)
    async with works.system() as work:
        held = await work.turns.hold_due()
        await open_turn(work, held, rules=OpeningRules(timedelta(seconds=60)), wakes=wakes)
    await _change(works, wakes, bot.id, BotChange({"mode": Mode.MANUAL}))
    assert [turn.state for turn in works.tables.turns.values()] == [TurnState.REOPENED]


async def test_a_change_that_changes_nothing_leaves_no_trace(kit: Any) -> None:
    works, wakes = kit.Works(), kit.Wakes()
    bot = kit.bot()
    works.tables.bots[bot.id] = bot
    assert await _change(works, wakes, bot.id, BotChange({"name": bot.name})) == bot
    assert works.tables.events == []
    with pytest.raises(BotUnknownError):
        await _change(works, wakes, uuid4(), BotChange({}))


async def test_a_token_brings_a_webhook_secret_and_takes_it_along(kit: Any) -> None:
    works, wakes = kit.Works(), kit.Wakes()
    bot = kit.bot()
    works.tables.bots[bot.id] = bot
    with_token = await _change(works, wakes, bot.id, BotChange(secrets={"telegram_token": "5:x"}))
    assert with_token.webhook_secret is not None
    entries = [event for event in works.tables.events if isinstance(event, AuditEntryRecordedV1)]
    assert "5:x" not in str(entries)
    without = await _change(works, wakes, bot.id, BotChange(secrets={"telegram_token": None}))
    assert (without.telegram_token, without.webhook_secret) == (None, None)


def _telegram_bot(kit: Any, **changes: Any) -> Any:
    bot = kit.bot(**changes)
    cipher = PlainCipher()
    return replace(
        bot,
        telegram_token=cipher.seal("5:x", bound_to=f"{bot.id}:telegram_token"),
        webhook_secret=cipher.seal("s", bound_to=f"{bot.id}:webhook_secret"),
    )


async def _apply(bot: Any, telegram: ScriptedTelegram, public_url: str | None = "https://bots.test/") -> Any:
    return await apply_to_channel(bot, telegram=telegram, cipher=PlainCipher(), public_url=public_url)


async def test_settings_reach_the_channel(kit: Any) -> None:
    telegram = ScriptedTelegram()
    bot = _telegram_bot(kit)
    url = webhook_url("https://bots.test/", bot.id)
    polling = replace(bot, telegram_updates=TelegramUpdates.POLLING)
    gone = replace(bot, deleted_at=kit.start)
    stopped = replace(bot, desired_state=DesiredState.STOPPED)
    states = [(await _apply(each, telegram)).state for each in (bot, polling, gone, stopped, kit.bot())]
    assert states == ["running", "running", "stopped", "stopped", "running"]
    assert telegram.calls == [("set", "5:x", url, "s"), ("delete", "5:x"), ("delete", "5:x")]
    assert (await _apply(bot, telegram, public_url=None)).reason == "the webhook is set by hand"


async def test_a_token_sealed_under_a_lost_key_stops_its_own_bot_and_no_other(kit: Any) -> None:
    works, wakes, broken = await _manual_reply(kit)
    well = _telegram_bot(kit, id=uuid4(), mode=Mode.MANUAL)
    works.tables.bots[well.id] = well
    broken = replace(broken, telegram_token=Sealed("lost", b"?"))
    works.tables.bots[broken.id] = broken
    await _arrive(kit, works, well, wakes)
    async with works.system() as work:
        held = await work.turns.hold_due()
        await open_turn(work, held, rules=OpeningRules(timedelta(seconds=60)), wakes=wakes)
    telegram = ScriptedTelegram(Accepted("1"))
    outcomes = {each.reply.bot_id: await send_reply(each, telegram) for each in await _claim(works, wakes)}
    assert outcomes[well.id] == Accepted("1")
    assert outcomes[broken.id] == NotTaken("the bot has no usable Telegram token", credential=True)
    seen = await _apply(broken, telegram)
    assert (seen.state, seen.retry is not None) == (ObservedState.ERROR, True)
    assert seen.reason == "its secrets can't be read: sealed under key lost"


async def test_a_channel_that_is_away_or_refuses_is_observed_and_tried_again(kit: Any) -> None:
    bot = _telegram_bot(kit)
    away = await _apply(bot, ScriptedTelegram(TelegramAwayError("502")))
    assert (away.state, away.retry is not None) == (ObservedState.DEGRADED, True)
    refused = await _apply(bot, ScriptedTelegram(TelegramRefusedError("no such bot", credential=True)))
    assert (refused.state, refused.retry is not None) == (ObservedState.ERROR, True)
    works, wakes = kit.Works(), kit.Wakes()
    works.tables.bots[bot.id] = bot
    async with works.system() as work:
        assert await record_observation(work, bot, refused, wakes=wakes)
    [event] = works.tables.events
    assert isinstance(event, BotLifecycleChangedV1)
    assert (event.from_state, event.to_state) == ("running", "error")


async def test_settings_that_changed_while_they_were_applied_are_applied_again(kit: Any) -> None:
    bot = _telegram_bot(kit)
    works, wakes = kit.Works(), kit.Wakes()
    works.tables.bots[bot.id] = replace(bot, version=2)
    seen = await _apply(bot, ScriptedTelegram())
    async with works.system() as work:
        assert not await record_observation(work, bot, seen, wakes=wakes)
    assert works.tables.bots[bot.id].applied_version == 0
    assert works.tables.events == []


class OneBot:
    def __init__(self, bot: RegisteredBot) -> None:
        self.bot = bot

    def find(self, bot_id: Any) -> RegisteredBot:
        if bot_id != self.bot.id:
            raise BotUnknownError(bot_id)
        return self.bot


class Parser:
    def __init__(self, update: TelegramUpdate) -> None:
        self.update = update

    def parse(self, body: object) -> TelegramUpdate:
        return self.update


class Published:
    def __init__(self) -> None:
        self.messages: list[tuple[Any, Any]] = []

    async def publish(self, message: Any, *, organisation_id: Any, message_id: Any) -> None:
        self.messages.append((message, message_id))


def _registered(kit: Any, **changes: Any) -> RegisteredBot:
    values: dict[str, Any] = {
        "id": uuid4(),
        "organisation_id": kit.organisation,
        "web_enabled": True,
        "running": True,
        "polling": False,
        "observed_state": ObservedState.RUNNING,
        "webhook_secret": "secret",
        "telegram_token": "5:x",
    }
    return RegisteredBot(**(values | changes))


async def test_a_repeated_update_has_the_same_message_id(kit: Any) -> None:
    bot, published = _registered(kit), Published()
    text = IncomingText("7", 3, "7", "Ada", "en", "hi", kit.start)
    for _ in range(2):
        parser = Parser(TelegramUpdate(41, text))
        assert await accept_update(bot, {}, parser=parser, publisher=published) == "accepted"
    (first, first_id), (second, second_id) = published.messages
    assert isinstance(first, MessageReceivedV1)
    assert (first, first_id) == (second, second_id)
    unsupported = Parser(TelegramUpdate(42, None))
    assert await accept_update(bot, {}, parser=unsupported, publisher=published) == "unsupported"
    assert len(published.messages) == 2


def test_only_telegram_gets_through_the_webhook(kit: Any) -> None:
    bot = _registered(kit)
    registry = OneBot(bot)
    assert admit_webhook(registry, bot.id, "secret") is bot
    for wrong in ("secreT", "", None, "sécret"):
        with pytest.raises(WrongSecretError):
            admit_webhook(registry, bot.id, wrong)
    with pytest.raises(BotUnknownError):
        admit_webhook(registry, uuid4(), "secret")
    without = _registered(kit, webhook_secret=None)
    with pytest.raises(BotUnknownError):
        admit_webhook(OneBot(without), without.id, None)


async def test_a_page_that_reads_too_slowly_is_told_to_catch_up(kit: Any) -> None:
    hub = ReplyHub()
    reply = ReplySentV1(
        message_id=uuid4(),
        turn_id=uuid4(),
        conversation_id=uuid4(),
        bot_id=uuid4(),
        channel="web",
        sequence=2,
        external_message_id="x",
        text="hi",
        sent_at=kit.start,
        attempts=1,
    )
    with hub.subscribed(reply.conversation_id) as mailbox:
        assert hub.push(reply) == 1
        assert await mailbox.next() == reply
        for _ in range(MAILBOX + 1):
            hub.push(reply)
        with pytest.raises(MailboxFullError):
            await mailbox.next()
    assert hub.push(reply) == 0
