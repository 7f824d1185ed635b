"""A broker that goes away at every single step of connecting and of connecting again.

A repair that stops half-way shows only at some of the steps, so a proxy cuts at each of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias
from uuid import UUID

import pytest
from aiormq.abc import AbstractChannel
from yarl import URL

from kairos_contracts.conversation.v1 import BotLifecycleChangedV1
from kairos_messaging import Bus, ConsumerLost, PublishFailed, Tuning
from kairos_messaging.topology import Topology

pytestmark = pytest.mark.servers

Send: TypeAlias = Callable[..., Awaitable[UUID]]
Record: TypeAlias = Callable[..., Any]

AWAY_S = 0.2
WHOLE_WITHIN_S = 15.0
# Far below the deadline of a publish.
FAST_END_S = 3.0
# Answers of the broker from the first handshake to the last consumer, both connections together.
STEPS = range(0, 48, 3)


@dataclass
class Proxy:
    """Passes bytes on. After `steps` answers it resets connections and refuses new ones for a moment.

    `alone`: only the connection of that answer; else all of them, as a broker does that dies.
    """

    host: str
    port: int
    alone: bool
    steps: int | None = None
    # Cleared after so many answers: the next ones wait, as those of a broker that is too busy.
    hold_after: int | None = None
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: int = 0
    _away: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self.flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._abort(self._writers)

    @property
    def address(self) -> tuple[str, int]:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    def cut_after(self, steps: int) -> None:
        self.steps, self._seen = steps, 0

    def count_from_now(self) -> None:
        self._seen = 0

    def cut(self, current: asyncio.StreamWriter | None = None) -> None:
        self.steps, self._away = None, True
        self._abort({current} if self.alone and current is not None else self._writers)
        asyncio.get_running_loop().call_later(AWAY_S, self._back)

    def _back(self) -> None:
        self._away = False

    def _abort(self, writers: set[asyncio.StreamWriter]) -> None:
        for writer in writers:
            writer.transport.abort()
        self._writers -= set(writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._away:
            writer.transport.abort()
            return
        broker_reader, broker_writer = await asyncio.open_connection(self.host, self.port)
        self._writers |= {writer, broker_writer}
        await asyncio.gather(
            self._pass_on(reader, broker_writer, answers=False),
            self._pass_on(broker_reader, writer, answers=True),
        )

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        try:
            while data := await reader.read(65_536):
                self._seen += answers
                if self.steps is not None and self._seen > self.steps:
                    self.cut(writer)
                    return
                if self.hold_after is not None and self._seen > self.hold_after:
                    self.hold_after = None
                    self.flowing.clear()
                if answers:
                    await self.flowing.wait()
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.transport.abort()


@dataclass(frozen=True)
class Setting:
    broker: URL
    topology: Topology
    tuning: Tuning
    queue: str
    send: Send
    record: Record

    def bus(self, proxy: Proxy, got: Any) -> Bus:
        host, port = proxy.address
        url = str(self.broker.with_host(host).with_port(port))
        bus = Bus(url, service="bot-worker", tuning=self.tuning, topology=self.topology)
        bus.consume(self.queue, got)
        bus.on_replica([BotLifecycleChangedV1], self.record())
        return bus

    async def whole(self, bus: Bus) -> None:
        """Return when the bus says it is whole and takes a message."""
        while True:
            try:
                await bus.check()
                await self.send(bus, "whole")
            except (ConsumerLost, PublishFailed):
                await asyncio.sleep(0.02)
            else:
                return


@pytest.fixture
def setting(
    broker_url: str, small: Topology, fast: Tuning, queue: str, send: Send, record: Record
) -> Setting:
    # The checks' own repair is off: what is lost must be noticed when it is lost.
    tuning = replace(fast, guard_interval=600.0, start_timeout=600.0)
    return Setting(URL(broker_url), small, tuning, queue, send, record)


async def cut_while_starting(setting: Setting, steps: int, *, alone: bool) -> str | None:
    """What went wrong, or None."""
    async with Proxy(setting.broker.host or "", setting.broker.port or 0, alone, steps) as proxy:
        bus = setting.bus(proxy, setting.record())
        starting = asyncio.create_task(bus.start())
        try:
            async with asyncio.timeout(WHOLE_WITHIN_S):
                await starting
                await setting.whole(bus)
        except TimeoutError:
            return f"cut at the start after {steps} answers: not whole within {WHOLE_WITHIN_S} s"
        finally:
            starting.cancel()
            await bus.stop(grace=0.5)
        return None


async def cut_while_coming_back(setting: Setting, steps: int, *, alone: bool) -> str | None:
    async with Proxy(setting.broker.host or "", setting.broker.port or 0, alone) as proxy:
        bus = setting.bus(proxy, setting.record())
        await bus.start()
        proxy.cut()
        proxy.cut_after(steps)
        try:
            async with asyncio.timeout(WHOLE_WITHIN_S):
                await setting.whole(bus)
        except TimeoutError:
            return f"cut again after {steps} answers: not whole within {WHOLE_WITHIN_S} s"
        finally:
            await bus.stop(grace=0.5)
        return None


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("cut", [cut_while_starting, cut_while_coming_back])
@pytest.mark.timeout(120)
async def test_a_bus_comes_back_from_a_cut_at_any_step(
    cut: Callable[..., Awaitable[str | None]], alone: bool, setting: Setting
) -> None:
    few_at_once = asyncio.Semaphore(6)

    async def one(steps: int) -> str | None:
        async with few_at_once:
            return await cut(setting, steps, alone=alone)

    outcomes = await asyncio.gather(*(one(steps) for steps in STEPS))
    assert [outcome for outcome in outcomes if outcome is not None] == []


class StuckOnce(Topology):
    """Declared without end the first time, as when the broker dies and nobody tells who waits for it."""

    async def declare(self, channel: AbstractChannel) -> None:
        if not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()
        await super().declare(channel)


stuck = asyncio.Event()


async def test_a_start_begins_again_when_its_connection_is_lost(setting: Setting) -> None:
    stuck.clear()
    topology = StuckOnce(**vars(setting.topology))
    async with Proxy(setting.broker.host or "", setting.broker.port or 0, alone=False) as proxy:
        bus = replace(setting, topology=topology).bus(proxy, setting.record())
        starting = asyncio.create_task(bus.start())
        try:
            async with asyncio.timeout(WHOLE_WITHIN_S):
                await stuck.wait()
                proxy.cut()
                await starting
                await setting.whole(bus)
        finally:
            starting.cancel()
            await bus.stop(grace=0.5)


async def test_followers_are_told_of_a_gap_once_the_bus_is_whole_again(setting: Setting) -> None:
    async with Proxy(setting.broker.host or "", setting.broker.port or 0, alone=False) as proxy:
        bus, gaps, told = setting.bus(proxy, setting.record()), [0], asyncio.Event()

        def fail() -> None:
            gaps[0] += 1
            raise RuntimeError

        bus.on_gap(fail)
        bus.on_gap(told.set)
        try:
            async with asyncio.timeout(WHOLE_WITHIN_S):
                await bus.start()
                assert gaps == [0]
                proxy.cut()
                await told.wait()
                await setting.whole(bus)
            assert gaps == [1]
        finally:
            await bus.stop(grace=0.5)


async def test_a_check_that_takes_too_long_leaves_the_connection_alone(setting: Setting) -> None:
    impatient = replace(setting, tuning=replace(setting.tuning, check_timeout=0.2))
    async with Proxy(setting.broker.host or "", setting.broker.port or 0, alone=False) as proxy:
        bus, gaps = impatient.bus(proxy, setting.record()), []
        bus.on_gap(lambda: gaps.append("gap"))
        outcomes: list[BaseException | None] = []
        try:
            async with asyncio.timeout(WHOLE_WITHIN_S):
                await bus.start()
                for answers in range(12):
                    proxy.count_from_now()
                    proxy.hold_after = answers
                    outcomes += await asyncio.gather(*(bus.check() for _ in range(3)), return_exceptions=True)
                    outcomes += await asyncio.gather(bus.check(), return_exceptions=True)
                    proxy.hold_after = None
                    proxy.flowing.set()
                    await impatient.whole(bus)
            assert gaps == []
            assert len([each for each in outcomes if isinstance(each, ConsumerLost)]) >= 4
        finally:
            await bus.stop(grace=0.5)


async def test_who_waits_to_publish_is_told_when_the_bus_stops(
    make_bus: Callable[..., Bus], send: Send
) -> None:
    bus = make_bus()
    waiting = asyncio.create_task(send(bus, "never"))
    await asyncio.sleep(0)
    async with asyncio.timeout(FAST_END_S):
        await bus.stop()
        with pytest.raises(PublishFailed):
            await waiting
