from kairos_messaging import Bus
from kairos_ops.domain.dead_letter import DeadLetter


class BusReplayer:
    """Implements Replayer: through the default exchange straight to the queue the message died in."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def replay(self, letter: DeadLetter) -> None:
        await self._bus.publish_prepared(
            headers=letter.headers, body=letter.body, exchange="", routing_key=letter.queue
        )
