"""What a model is shown of a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Line:
    """One message as a model reads it."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class HistoryBounds:
    """At most this many earlier lines, and at most this many characters of them."""

    lines: int = 20
    characters: int = 12_000


def assemble(
    system_prompt: str, earlier: Sequence[Line], pending: Sequence[Line], bounds: HistoryBounds
) -> tuple[Line, ...]:
    """System prompt, the latest earlier lines that fit the bounds, then every pending line.

    Pending lines are never cut: they are what must be answered. A cut history starts with the
    contact's words, because some models refuse a conversation that starts with their own.
    """
    kept: list[Line] = []
    left = bounds.characters
    for line in reversed(earlier[-bounds.lines :] if bounds.lines else ()):
        left -= len(line.content)
        if left < 0:
            break
        kept.append(line)
    kept.reverse()
    while kept and kept[0].role == "assistant":
        kept.pop(0)
    opening = (Line("system", system_prompt),) if system_prompt.strip() else ()
    return (*opening, *kept, *pending)
