import asyncio

from kairos_ops.application.live_feed import LiveFeed
from kairos_ops.application.ports import Clock, HealthBoard, Prober
from kairos_ops.domain.health import ServiceState, observe


class WatchServices:
    """Looks at every service, shows it live and has changes written once for the installation."""

    def __init__(
        self, services: tuple[str, ...], prober: Prober, feed: LiveFeed, board: HealthBoard, clock: Clock
    ) -> None:
        self._services = services
        self._prober = prober
        self._feed = feed
        self._board = board
        self._clock = clock
        self._states: dict[str, ServiceState] = {}

    @property
    def states(self) -> list[ServiceState]:
        return [self._states[name] for name in self._services if name in self._states]

    async def look(self) -> None:
        """One round over all services. The live view does not wait for the database."""
        probes = await asyncio.gather(*(self._prober.probe(name) for name in self._services))
        now = self._clock()
        for name, probe in zip(self._services, probes, strict=True):
            self._states[name] = observe(self._states.get(name), name, probe, now)
        self._feed.update_services(self.states)
        await self._board.record(self.states)
