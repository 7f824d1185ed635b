"""Ids of completions and attempts."""

import os
from uuid import UUID

_AT_A_TIME = 256
_SIZE = 16
# Version 4 and the variant of RFC 9562, in their places.
_CLEAR = ~((0xF000 << 64) | (0xC000 << 48))
_MARKS = (4 << 76) | (0x8000 << 48)
_waiting: list[bytes] = []
_set = object.__setattr__


def new_id() -> UUID:
    """A random UUID of version 4, for a third of uuid4's time: random bytes come for many at once."""
    if not _waiting:
        fresh = os.urandom(_AT_A_TIME * _SIZE)
        _waiting.extend(fresh[at : at + _SIZE] for at in range(0, len(fresh), _SIZE))
    identifier = object.__new__(UUID)
    _set(identifier, "int", int.from_bytes(_waiting.pop()) & _CLEAR | _MARKS)
    _set(identifier, "is_safe", _UNKNOWN)
    return identifier


_UNKNOWN = UUID(int=0).is_safe
