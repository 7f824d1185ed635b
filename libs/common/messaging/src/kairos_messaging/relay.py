"""Moves outbox rows to the broker."""

from typing import Any

from kairos_messaging.bus import Bus


class OutboxRelay:
    def __init__(self, database: Any, bus: Bus, *, batch: int = 200, poll: float = 0.25) -> None: ...

    async def run(self) -> None:
        """Run until cancelled."""
