"""Long-lived tasks that may not die silently."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from kairos_telemetry import get_logger, metrics

_log = get_logger(__name__)

State = Literal["running", "waiting", "finished", "stopped"]


class BackgroundTaskDown(RuntimeError):  # noqa: N818 - reads as the fact it states
    """A supervised task keeps crashing; it is started again after a pause."""


@dataclass
class _Task:
    run: Callable[[], Awaitable[None]]
    state: State = "running"
    crashes: int = 0
    error: str = ""
    handle: asyncio.Task[None] | None = None


class Background:
    """Runs coroutines for the life of a service and starts a crashed one again with growing pauses.

    `first_pause` doubles up to `longest_pause` (seconds); a run longer than `longest_pause` starts over.
    """

    def __init__(self, *, first_pause: float = 0.1, longest_pause: float = 10.0) -> None:
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._tasks: dict[str, _Task] = {}

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Start a task. A run that returns is finished, a run that raises is started again."""
        if name in self._tasks:
            raise ValueError(f"a background task named {name} runs already")
        task = _Task(run)
        self._tasks[name] = task
        task.handle = asyncio.create_task(self._supervise(name, task), name=name)

    def states(self) -> dict[str, State]:
        return {name: task.state for name, task in self._tasks.items()}

    async def check(self) -> None:
        """Health probe: raises BackgroundTaskDown while a task waits to be started again."""
        down = [f"{name} ({task.error})" for name, task in self._tasks.items() if task.state == "waiting"]
        if down:
            raise BackgroundTaskDown(", ".join(down))

    async def stop(self, grace: float = 10.0) -> None:
        """Cancel every task and wait up to `grace` seconds for them."""
        handles = [task.handle for task in self._tasks.values() if task.handle is not None]
        for handle in handles:
            handle.cancel()
        if handles:
            await asyncio.wait(handles, timeout=grace)
        for task in self._tasks.values():
            task.state = "stopped"

    async def _supervise(self, name: str, task: _Task) -> None:
        loop = asyncio.get_running_loop()
        pause = self._first_pause
        while True:
            started = loop.time()
            task.state = "running"
            try:
                await task.run()
            except Exception as error:  # noqa: BLE001 - supervising means catching whatever it is
                task.crashes += 1
                task.error = type(error).__name__
                task.state = "waiting"
                metrics.counter("kairos_background_crashes_total").labels(task=name).inc()
                _log.exception("background_task_crashed", task=name, crashes=task.crashes)
            else:
                task.state = "finished"
                return
            if loop.time() - started > self._longest_pause:
                pause = self._first_pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._longest_pause)
