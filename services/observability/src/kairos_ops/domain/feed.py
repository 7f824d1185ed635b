"""The live feed's own rules: a topic's log, resuming from it, and who may see what.

A log topic gives every event a sequence number; the last ones stay in a ring, so that a client that
was away for a moment resumes by sequence. Numbers are only comparable within one epoch: a replica
that restarts, or another replica, has another one, and answers `gap` so that the client refetches.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from kairos_ops.domain.event import FeedEvent


@dataclass(frozen=True)
class Audience:
    """Who shares one stream: an organisation, and with `installation` its admins."""

    organisation_id: UUID
    installation: bool


def audiences_of(event: FeedEvent, known: Iterable[Audience]) -> Iterator[Audience]:
    """The known audiences that may see the event. An organisation sees only its own."""
    for audience in known:
        if event.organisation_id is None:
            if audience.installation:
                yield audience
        elif event.organisation_id == audience.organisation_id:
            yield audience


@dataclass(frozen=True)
class Entry:
    seq: int
    type: str
    frame: str


@dataclass(frozen=True)
class Resume:
    epoch: str
    seq: int


@dataclass(frozen=True)
class Backlog:
    """What a subscriber gets first. `lost` tells why entries before these can't be given, if so."""

    entries: tuple[Entry, ...]
    lost: str | None


class TopicLog:
    """The last `limit` entries of one log topic for one audience."""

    def __init__(self, topic: str, epoch: str, limit: int) -> None:
        self.topic = topic
        self.epoch = epoch
        self.head = 0
        self._ring: deque[Entry] = deque(maxlen=limit)

    def append(self, event_type: str, event_json: str) -> Entry:
        """Number an event. `event_json` is made once and shared by every stream and client."""
        self.head += 1
        frame = f'{{"t":"ev","topic":"{self.topic}","seq":{self.head},"event":{event_json}}}'
        entry = Entry(self.head, event_type, frame)
        self._ring.append(entry)
        return entry

    def backlog(self, resume: Resume | None) -> Backlog:
        if resume is None:
            return Backlog((), None)
        if resume.epoch != self.epoch or resume.seq > self.head:
            return Backlog(tuple(self._ring), "epoch")
        oldest = self._ring[0].seq if self._ring else self.head + 1
        missed = tuple(entry for entry in self._ring if entry.seq > resume.seq)
        return Backlog(missed, "expired" if resume.seq < oldest - 1 else None)


@dataclass(frozen=True)
class TypeFilter:
    """Which event types a subscriber wants: those that start with one of the prefixes; none = all."""

    prefixes: tuple[str, ...] = ()

    def admits(self, event_type: str) -> bool:
        return not self.prefixes or event_type.startswith(self.prefixes)


def encode(frame: dict[str, Any]) -> str:
    return json.dumps(frame, separators=(",", ":"), ensure_ascii=False)
