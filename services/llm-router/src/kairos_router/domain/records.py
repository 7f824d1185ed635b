"""Values that are made for every request."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(kind: type[T]) -> type[T]:
    """A frozen dataclass to mypy, which lets nobody change one, but made in a third of a frozen one's time.

    Python sets each field of a frozen one by a call of its own. A request makes a hundred of them.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
