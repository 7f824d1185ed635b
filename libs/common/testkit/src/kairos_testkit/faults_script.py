"""Scripted misbehaviour of a fake: the first fault that matches a request is used up by it."""

from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(slots=True, kw_only=True)
class Fault:
    """What one fake does to matching requests. `times` 0 means: until cleared."""

    match: str | None = None
    times: int = 1
    status: int | None = None
    delay_ms: int = 0
    retry_after: int | None = None
    # Cut the connection after this many bytes of the answer's body.
    cut_after_bytes: int | None = None
    garbage: bool = False
    omit_usage: bool = False
    # Told instead of the true figures, which are still what the record says.
    wrong_usage: dict[str, Any] | None = None
    # Do the work, record it, then close without an answer: the caller cannot know.
    drop: bool = False
    # Only for this method of the Bot API, or this path of the provider.
    method: str | None = None
    reply: str | None = None
    used: int = field(default=0, init=False)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        known = {each.name for each in fields(cls) if each.init}
        unknown = set(values) - known
        if unknown:
            raise ValueError(f"unknown fault settings: {', '.join(sorted(unknown))}")
        return cls(**values)


class FaultScript:
    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()

    def take(self, method: str, text: str) -> Fault | None:
        for fault in self._faults:
            if fault.method not in (None, method) or (fault.match is not None and fault.match not in text):
                continue
            fault.used += 1
            if fault.times and fault.used >= fault.times:
                self._faults.remove(fault)
            return fault
        return None
