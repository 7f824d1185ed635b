"""Named places where a drill or a test may make the process fail.

Production code calls `point(name)`; it costs one dictionary look-up until the name is armed.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from kairos_faults.points import POINTS

Kind = Literal["kill", "error", "delay"]


class UndeclaredPoint(LookupError):  # noqa: N818 - reads as the fact it states
    """The fault point is not in POINTS; declare it there first."""


class FaultSyntaxError(ValueError):
    """A fault specification is not `name=kind[:probability[:seconds]]`."""


class InjectedFault(Exception):  # noqa: N818 - reads as the fact it states
    """A fault point was armed to raise here; the operation fails as it would on a real error."""


def _kill_self() -> None:
    # SIGKILL, not exit(): nothing may flush, roll back or say goodbye.
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Action:
    """What an armed point does. `probability` is 0..1 per pass, `times` bounds how often it acts."""

    kind: Kind
    probability: float = 1.0
    seconds: float = 0.0
    times: int | None = None


class Faults:
    """The armed points of one process."""

    def __init__(
        self, *, kill: Callable[[], None] = _kill_self, chance: Callable[[], float] = random.random
    ) -> None:
        self._armed: dict[str, Action] = {}
        self._left: dict[str, int] = {}
        self._kill = kill
        self._chance = chance

    def arm(self, name: str, action: Action) -> None:
        if name not in POINTS:
            raise UndeclaredPoint(name)
        self._armed[name] = action
        if action.times is not None:
            self._left[name] = action.times
        else:
            self._left.pop(name, None)

    def disarm(self, name: str | None = None) -> None:
        """Disarm one point, or all of them."""
        names = [name] if name else list(self._armed)
        for each in names:
            self._armed.pop(each, None)
            self._left.pop(each, None)

    def armed(self) -> dict[str, Action]:
        return dict(self._armed)

    def _due(self, name: str) -> Action | None:
        action = self._armed.get(name)
        if action is None or self._chance() >= action.probability:
            return None
        left = self._left.get(name)
        if left is not None:
            if left <= 0:
                return None
            self._left[name] = left - 1
        return action

    def _act(self, name: str, action: Action) -> None:
        if action.kind == "kill":
            self._kill()
        elif action.kind == "error":
            raise InjectedFault(name)

    def point(self, name: str) -> None:
        """Pass a fault point from synchronous code."""
        if not self._armed:
            return
        action = self._due(name)
        if action is None:
            return
        if action.kind == "delay":
            time.sleep(action.seconds)
        else:
            self._act(name, action)

    async def apoint(self, name: str) -> None:
        """Pass a fault point from a coroutine; a delay does not block the event loop."""
        if not self._armed:
            return
        action = self._due(name)
        if action is None:
            return
        if action.kind == "delay":
            await asyncio.sleep(action.seconds)
        else:
            self._act(name, action)


def parse(specification: str) -> dict[str, Action]:
    """Read `name=kind[:probability[:seconds]]`, several separated by commas. Raises FaultSyntaxError."""
    actions: dict[str, Action] = {}
    for part in filter(None, (piece.strip() for piece in specification.split(","))):
        name, _, right = part.partition("=")
        kind, *numbers = right.split(":")
        if kind not in {"kill", "error", "delay"}:
            raise FaultSyntaxError(part)
        try:
            values = [float(number) for number in numbers]
        except ValueError as error:
            raise FaultSyntaxError(part) from error
        probability = values[0] if values else 1.0
        if len(values) > 2 or not 0 <= probability <= 1:  # noqa: PLR2004 - probability and seconds
            raise FaultSyntaxError(part)
        seconds = values[1] if len(values) > 1 else 0.0
        actions[name.strip()] = Action(cast("Kind", kind), probability=probability, seconds=seconds)
    return actions


_process = Faults()
point = _process.point
apoint = _process.apoint
arm = _process.arm
disarm = _process.disarm
armed = _process.armed


def arm_all(specification: str | None) -> None:
    """Arm what the FAULTS setting says. Bootstrap calls it; nothing reads the environment here."""
    for name, action in parse(specification or "").items():
        arm(name, action)
