"""The arithmetic of allowances: slices of a quota that a process may use without asking anyone.

The authority grants units into the bucket of its own clock; a process uses them until the end of the next
bucket, and tells what it did not use. Nothing here waits or reads a clock: `now` is in seconds of the
process's monotonic clock, a bucket is a number of the authority's.

Instances change in place: they are one counter's state on the path of every request.
"""

from collections.abc import Mapping

from kairos_router.domain.quota import BUCKETS


class Allowance:
    """One counter of a window.

    Always: units taken <= units granted + units taken without the authority, per bucket. `deltas` is what
    the authority does not know yet: units used without it (above 0) and granted units nobody used (below 0).
    """

    __slots__ = ("_own", "_taken", "aim", "bucket", "deltas", "free", "granted_at", "until", "used_at")

    def __init__(self, aim: int = 1) -> None:
        self.free = 0
        self.bucket = -1
        self.until = 0.0
        self.aim = aim
        self.granted_at = 0.0
        self.used_at = 0.0
        self.deltas: dict[int, int] = {}
        self._taken = 0
        self._own: dict[int, int] = {}

    def fits(self, units: int, now: float) -> bool:
        return units <= self.free and now < self.until

    def take(self, units: int, now: float) -> int:
        """Use units that fit; returns the bucket they count in."""
        self.free -= units
        self._taken += units
        self.used_at = now
        return self.bucket

    def granted(self, units: int, bucket: int, until: float, now: float) -> None:
        """Take a slice over. Units left of an older one go back."""
        if bucket != self.bucket:
            self.retire()
            self.bucket = bucket
        self.until = until
        self.free += units
        self.granted_at = now

    def retire(self) -> None:
        """End the slice: what was used is remembered, what was not goes back."""
        if self._taken:
            self._own[self.bucket] = self._own.get(self.bucket, 0) + self._taken
        if self.free:
            self._owe(self.bucket, -self.free)
        self.free = self._taken = 0
        self.until = 0.0

    def correct(self, bucket: int, units: int) -> None:
        """The units taken in `bucket` were too many (below 0) or too few (above 0) by this much."""
        if bucket == self.bucket and self.until:
            fits = units if units < 0 else min(units, self.free)
            self.free -= fits
            self._taken += fits
            units -= fits
        if units:
            self._own[bucket] = self._own.get(bucket, 0) + units
            self._owe(bucket, units)

    def take_alone(self, units: int, bucket: int, share: int, now: float) -> bool:
        """Without the authority: use units while this process stays within its share of the limit."""
        if self.used() + units > share:
            return False
        self._own[bucket] = self._own.get(bucket, 0) + units
        self._owe(bucket, units)
        self.used_at = now
        return True

    def used(self) -> int:
        """Units this process used in the window."""
        return self._taken + sum(self._own.values())

    def telling(self) -> dict[int, int]:
        """What the authority is told now; `unheard` takes it back when the call fails."""
        deltas, self.deltas = self.deltas, {}
        return deltas

    def unheard(self, deltas: Mapping[int, int]) -> None:
        """Nobody knows whether the authority got these: units given back must not be given back twice."""
        for bucket, units in deltas.items():
            if units > 0:
                self._owe(bucket, units)

    def forgotten(self) -> None:
        """The authority has lost its counts: everything this process used is told anew, slices are void."""
        if self._taken:
            self._own[self.bucket] = self._own.get(self.bucket, 0) + self._taken
        self.free = self._taken = 0
        self.until = 0.0
        self.deltas = {bucket: units for bucket, units in self._own.items() if units > 0}

    def prune(self, current: int) -> None:
        """Forget what has left the window at bucket `current`."""
        oldest = current - BUCKETS - 1
        for table in (self._own, self.deltas):
            for bucket in [each for each in table if each < oldest]:
                del table[bucket]

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost by forgetting this counter."""
        return not (self.free or self._taken or self._own or self.deltas)

    def _owe(self, bucket: int, units: int) -> None:
        owed = self.deltas.get(bucket, 0) + units
        if owed:
            self.deltas[bucket] = owed
        else:
            self.deltas.pop(bucket, None)


class Slots:
    """Places for requests at the same time. `held` is what the authority gave this process, used or not."""

    __slots__ = ("held", "until", "used")

    def __init__(self) -> None:
        self.held = 0
        self.used = 0
        self.until = 0.0

    def fits(self, now: float) -> bool:
        return self.used < self.held and now < self.until

    def take(self) -> None:
        self.used += 1

    def leave(self) -> None:
        self.used -= 1

    def granted(self, held: int, until: float) -> None:
        self.held = held
        self.until = until

    def shrink(self, spare: int, now: float) -> None:
        """Keep what is used and a few more; places that have expired are nobody's."""
        self.held = min(self.held, self.used + (spare if now < self.until else 0))
