"""Pacing: one behaviour, in Redis and in a process."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from kairos_bots.adapters.governor import LocalGovernor, Pace, Paces, RedisGovernor
from kairos_testkit.ports import free_port

ZERO = timedelta(0)
MINUTE = timedelta(minutes=1)


def _paces(chat_burst: int = 1, bot_burst: int = 100) -> Paces:
    return Paces(chat=Pace(MINUTE, chat_burst), group=Pace(2 * MINUTE), bot=Pace(MINUTE, bot_burst))


@pytest.mark.servers
async def test_a_chat_waits_for_its_interval_and_others_do_not(redis_url: str) -> None:
    one, other = (RedisGovernor(redis_url, _paces()) for _ in range(2))
    bot = uuid4()
    try:
        assert await one.admit(bot, "7") == ZERO
        wait = await other.admit(bot, "7")
        assert timedelta(seconds=58) < wait <= MINUTE
        assert await other.admit(bot, "8") == ZERO
        assert await other.admit(uuid4(), "7") == ZERO
    finally:
        await one.close()
        await other.close()


@pytest.mark.servers
async def test_a_burst_passes_and_a_refused_message_does_not_count(redis_url: str) -> None:
    governor = RedisGovernor(redis_url, _paces(chat_burst=3))
    bot = uuid4()
    try:
        assert [await governor.admit(bot, "7") for _ in range(3)] == [ZERO] * 3
        first, second = await governor.admit(bot, "7"), await governor.admit(bot, "7")
        assert second <= first <= MINUTE
    finally:
        await governor.close()


@pytest.mark.servers
async def test_a_bot_and_a_group_have_limits_of_their_own(redis_url: str) -> None:
    governor = RedisGovernor(redis_url, _paces(chat_burst=9, bot_burst=2))
    bot = uuid4()
    try:
        assert await governor.admit(bot, "-7") == ZERO
        assert await governor.admit(bot, "-7") > MINUTE
        assert await governor.admit(bot, "8") == ZERO
        assert await governor.admit(bot, "9") > ZERO
    finally:
        await governor.close()


async def test_without_redis_a_process_is_stricter_with_itself() -> None:
    governor = RedisGovernor(f"redis://127.0.0.1:{free_port()}/0", _paces(chat_burst=4))
    bot = uuid4()
    try:
        assert await governor.admit(bot, "7") == ZERO
        assert 3 * MINUTE < await governor.admit(bot, "7") <= 4 * MINUTE
    finally:
        await governor.close()


def test_the_local_governor_lets_messages_pass_at_the_pace() -> None:
    governor = LocalGovernor()
    limits = [("key", Pace(timedelta(seconds=2), 2))]
    answers: list[Any] = [governor.admit(limits, now) for now in (0.0, 0.0, 0.5, 2.0, 2.5)]
    assert answers == [ZERO, ZERO, timedelta(seconds=1.5), ZERO, timedelta(seconds=1.5)]
