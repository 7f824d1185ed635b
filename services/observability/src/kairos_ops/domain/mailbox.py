"""What waits for one client, bounded.

A log topic never drops silently: entries that do not fit become one `gap` the client refetches.
A state topic keeps the newest value per key and is sent at most every `STATE_INTERVAL_S`.
"""

from collections import deque
from typing import Any

from kairos_ops.domain.feed import Entry, encode

STATE_INTERVAL_S = 0.25


class Mailbox:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: deque[str] = deque()
        self._gaps: dict[str, tuple[str, int, int]] = {}
        self._state: dict[str, tuple[str, int, dict[str, Any]]] = {}
        self._state_due = 0.0

    def put(self, frame: dict[str, Any]) -> None:
        """A control frame; it is small, rare and never dropped."""
        self._frames.append(encode(frame))

    def put_entry(self, topic: str, epoch: str, entry: Entry) -> bool:
        """An entry of a log topic. False: it did not fit and counts into the topic's gap."""
        gap = self._gaps.get(topic)
        if gap is None and len(self._frames) < self._limit:
            self._frames.append(entry.frame)
            return True
        first = gap[1] if gap else entry.seq
        self._gaps[topic] = (epoch, first, entry.seq)
        return False

    def put_state(self, topic: str, epoch: str, seq: int, changes: dict[str, Any]) -> None:
        _, _, waiting = self._state.get(topic, (epoch, seq, {}))
        self._state[topic] = (epoch, seq, waiting | changes)

    @property
    def flooded(self) -> bool:
        """Whether a client asks faster than it reads: even control frames pile up."""
        return len(self._frames) > 2 * self._limit

    def forget_topic(self, topic: str) -> None:
        """The client left the topic: what still waits for it is not owed any more."""
        self._gaps.pop(topic, None)
        self._state.pop(topic, None)

    def drain(self, now: float) -> list[str]:
        """Take what may be sent at `now` (seconds of a monotonic clock)."""
        frames = list(self._frames)
        self._frames.clear()
        for topic, (epoch, first, last) in self._gaps.items():
            gap = {
                "t": "gap",
                "topic": topic,
                "epoch": epoch,
                "from": first,
                "to": last,
                "reason": "overflow",
            }
            frames.append(encode(gap))
        self._gaps.clear()
        if self._state and now >= self._state_due:
            self._state_due = now + STATE_INTERVAL_S
            for topic, (epoch, seq, changes) in self._state.items():
                frames.append(
                    encode({"t": "ev", "topic": topic, "epoch": epoch, "seq": seq, "changes": changes})
                )
            self._state.clear()
        return frames

    def wait_hint(self, now: float) -> float | None:
        """Seconds until `drain` has something: 0 now, None only after the next put."""
        if self._frames or self._gaps:
            return 0.0
        return max(0.0, self._state_due - now) if self._state else None
