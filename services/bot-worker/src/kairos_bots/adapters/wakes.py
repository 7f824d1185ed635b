"""Wake-ups inside one process."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID


class ProcessWakeUps:
    """One event per kind of worker. A wake-up that comes before the wait is kept, none is queued twice."""

    def __init__(self) -> None:
        self.turns = asyncio.Event()
        self.replies = asyncio.Event()
        self.bots = asyncio.Event()
        self.bot_listeners: list[Callable[[UUID], None]] = []

    def turn_due(self, wait: timedelta = timedelta(0)) -> None:
        _set(self.turns, wait)

    def reply_ready(self, wait: timedelta = timedelta(0)) -> None:
        _set(self.replies, wait)

    def bot_changed(self, bot_id: UUID) -> None:
        """This process knows at once; the others hear it from the event."""
        self.bots.set()
        for listener in self.bot_listeners:
            listener(bot_id)


def _set(event: asyncio.Event, wait: timedelta) -> None:
    if wait <= timedelta(0):
        event.set()
    else:
        asyncio.get_running_loop().call_later(wait.total_seconds(), event.set)
