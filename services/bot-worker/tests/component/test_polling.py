"""Bots without a webhook: one elected replica asks Telegram."""

from typing import Any

import pytest
from sqlalchemy import text

from kairos_testkit.faults_script import Fault

pytestmark = pytest.mark.servers


async def _holders(worker: Any) -> list[str]:
    async with worker.parts.database.system_unit_of_work() as unit:
        query = text("SELECT holder FROM telegram_pollers WHERE held_until > now()")
        return [row[0] for row in await unit.session.execute(query)]


async def test_one_replica_polls_and_another_takes_over_when_it_stops(
    suite: Any, worker: Any, start_worker: Any, eventually: Any
) -> None:
    async with start_worker() as leaving:
        bot = await leaving.create_bot(telegram_token="901:token")
        assert bot["telegram_updates"] == "polling"
        suite.telegram.say(901, 7, "one")
        assert [m.text for m in await suite.sent(1, 7)] == ["echo: one"]
        [holder] = await _holders(worker)
        assert holder in {worker.parts.pollers.holder, leaving.parts.pollers.holder}
    suite.telegram.say(901, 7, "two")
    assert [m.text for m in await suite.sent(2, 7)] == ["echo: one", "echo: two"]
    assert await _holders(worker) == [worker.parts.pollers.holder]


async def test_polling_goes_on_after_telegram_failed(suite: Any, worker: Any) -> None:
    await worker.create_bot(telegram_token="902:token")
    suite.telegram.fail(Fault(method="getUpdates", status=502, times=2))
    suite.telegram.say(902, 7, "hello")
    assert [m.text for m in await suite.sent(1, 7)] == ["echo: hello"]


async def test_the_offset_moves_only_past_updates_the_broker_has(
    suite: Any, worker: Any, eventually: Any
) -> None:
    await worker.create_bot(telegram_token="903:token")
    first = suite.telegram.say(903, 7, "one")
    await suite.sent(1, 7)
    await eventually(lambda: _offset(worker, first + 1), what="the stored offset")
    offsets = [
        int(call.values.get("offset") or 0) for call in suite.telegram.calls if call.method == "getUpdates"
    ]
    assert set(offsets) <= {0, first + 1}


async def _offset(worker: Any, expected: int) -> bool:
    async with worker.parts.database.system_unit_of_work() as unit:
        found = await unit.session.execute(text("SELECT next_offset FROM telegram_pollers"))
        return expected in [row[0] for row in found]
