"""A caller who goes, at whatever moment, leaves no open hold and no attempt without an end."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from kairos_router.application.choose_deployment import Refused
from kairos_router.application.ports import Fault, ProviderFailed, ProviderReply
from kairos_router.domain.pricing import Usage

# More turns of the event loop than the longest of these requests takes.
MOMENTS = range(40)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Stream:
    """Three pieces; the last one tells the usage."""

    def __init__(self, *, breaks: bool) -> None:
        self.usage: Usage | None = None
        self.finished = self.closed = False
        self._breaks = breaks
        self._left = self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        yield b"data: {}\n\n"
        yield b"data: {}\n\n"
        self.usage, self.finished = Usage(5, 5), True
        yield b"data: [DONE]\n\n"

    async def next(self) -> bytes:
        await turns(2)
        if self._breaks:
            raise ProviderFailed(Fault.BROKEN, may_have_run=True)
        return next(self._left, b"")

    def content_bytes(self) -> int:
        return 2

    def close(self) -> None:
        self.closed = True


class Slow:
    """A provider whose first call may fail; it lets the event loop turn before it says anything."""

    def __init__(self, *, breaks: bool) -> None:
        self._breaks = breaks
        self.streams: list[Stream] = []
        self.calls = 0

    async def complete(self, _: Any) -> ProviderReply:
        self.calls += 1
        fails = self._breaks and self.calls == 1
        await turns(3)
        if fails:
            raise ProviderFailed(Fault.FAILED, status=500)
        return ProviderReply(b"{}", {"choices": [{"message": {"content": "x"}}]}, Usage(5, 5))

    async def open_stream(self, _: Any) -> Stream:
        self.calls += 1
        stream = Stream(breaks=self._breaks and self.calls == 1)
        await turns(2)
        self.streams.append(stream)
        return stream

    async def close(self) -> None:
        """Nothing is open."""


async def request(bench: Any, kit: SimpleNamespace, *, stream: bool) -> None:
    if not stream:
        await bench.ask(kit.ask())
        return
    streaming = await bench.open(kit.ask(stream=True))
    try:
        while await streaming.next():
            pass
    finally:
        streaming.abandon()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("limit", [10**9, None, 10])
async def test_whenever_the_caller_goes_every_hold_and_attempt_has_ended(
    kit: SimpleNamespace, stream: bool, breaks: bool, limit: int | None
) -> None:
    class SlowBudgets(kit.Budgets):  # type: ignore[misc,name-defined] # the kit's class is known at run time
        async def _called(self, name: str) -> None:
            await turns(2)
            await super()._called(name)

    for moment in MOMENTS:
        provider = Slow(breaks=breaks)
        deployments = [kit.deployment(name, kind="slow", retries=1) for name in ("one", "two")]
        bench = kit.bench(kit.Catalogue(*deployments), {"slow": provider}, SlowBudgets(limit))
        running = asyncio.create_task(request(bench, kit, stream=stream))
        await turns(moment)
        running.cancel()
        with suppress(asyncio.CancelledError, Refused):
            await running
        await turns(6)

        assert not any(lease.balance.held for lease in bench.wallet.leases()), moment
        sent = [attempt.attempt_id for attempt in bench.journal.sent]
        assert sorted(sent) == sorted(each.attempt.attempt_id for each in bench.journal.ended), moment
        charged = sum(
            each.attempt.hold.amount if each.settlement.outcome == "unknown" else each.settlement.cost
            for each in bench.journal.ended
        )
        assert charged == sum(lease.balance.settled for lease in bench.wallet.leases()), moment
        assert all(each.closed or each.finished for each in provider.streams), moment
