"""Whose work stops first when a budget runs low."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Priority(StrEnum):
    """A batch stops first, an interactive customer last."""

    BATCH = "batch"
    NORMAL = "normal"
    INTERACTIVE = "interactive"


@dataclass(frozen=True, slots=True)
class Reserves:
    """Percents of a limit kept for a priority and those above it; together at most 100."""

    normal: int = 0
    interactive: int = 0

    def __bool__(self) -> bool:
        return bool(self.normal or self.interactive)

    def floor(self, limit: int, priority: Priority | None) -> int:
        """How much of `limit` must stay available after a lease of `priority`, rounded up.

        A lease without a priority was granted while there were no reserves: it has the least claim.
        """
        percent = 0 if priority is Priority.INTERACTIVE else self.interactive
        if priority in {Priority.BATCH, None}:
            percent += self.normal
        return -(-limit * percent // 100)


NO_RESERVES: Final = Reserves()
