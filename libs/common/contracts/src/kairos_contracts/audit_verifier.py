"""Finds and locates tampering in an audit stream; needs no service and no trust in one.

What it can see: edit, delete, insert, swap, truncation, fork, foreign signature, replayed export, edited
checkpoint, clock turned back. A chain that was rewritten with all its hashes is caught by the checkpoints,
and located between two of them. Entries younger than the last checkpoint are guarded by the seal of an
export only.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kairos_contracts.audit_chain import (
    EXPORT_FORMAT,
    Checkpoint,
    Link,
    MerkleTree,
    SignatureCheck,
    genesis,
)
from kairos_contracts.canonical_json import NotCanonicalError

Kind = Literal[
    "edited",
    "deleted",
    "inserted",
    "swapped",
    "truncated",
    "rewritten",
    "fork",
    "foreign_signature",
    "edited_checkpoint",
    "stale_export",
    "clock_turned_back",
    "unreadable",
]
MAX_FINDINGS = 100


@dataclass(frozen=True)
class Finding:
    """What was found, between which sequence numbers (both included)."""

    kind: Kind
    first_seq: int
    last_seq: int
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """The outcome of one verification. `pinned` says whether signatures were checked against known keys."""

    stream: str
    entries: int
    checkpoints: int
    head_hash: str
    pinned: bool
    findings: tuple[Finding, ...]

    @property
    def intact(self) -> bool:
        return not self.findings


@dataclass
class _Tail:
    """The last entry in sequence: its place, the hashes a successor may name, its time."""

    seq: int
    head: str
    hashes: set[str]
    recorded_at: str = ""


@dataclass
class _Break:
    """A link that does not fit; the next entry tells which side of it is wrong."""

    before: int
    after: int


@dataclass
class ChainVerifier:
    """Feed it every entry of one stream in the order found, then `finish`."""

    stream: str
    check: SignatureCheck
    checkpoints: Sequence[Checkpoint] = ()
    anchors: Sequence[Checkpoint] = ()
    trusted_keys: AbstractSet[str] | None = None
    _findings: list[Finding] = field(default_factory=list, init=False)
    _missing: set[int] = field(default_factory=set, init=False)
    _tree: MerkleTree = field(default_factory=MerkleTree, init=False)
    _heads: dict[int, tuple[str, str]] = field(default_factory=dict, init=False)
    _break: _Break | None = field(default=None, init=False)
    _entries: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.anchors = [anchor for anchor in self.anchors if anchor.stream == self.stream]
        if self.trusted_keys is None and self.anchors:
            self.trusted_keys = {anchor.public_key for anchor in self.anchors}
        self._sizes = {checkpoint.size for checkpoint in (*self.checkpoints, *self.anchors)}
        start = genesis(self.stream)
        self._tail = _Tail(0, start, {start})

    def feed(self, link: Link) -> None:
        self._entries += 1
        place = link.seq - self._tail.seq
        if place != 1 and link.prev_hash in self._tail.hashes:
            # Its predecessor is right here, so only the number lies.
            self._find("edited", self._tail.seq + 1, detail=f"the sequence number says {link.seq}")
            self._settle_break(after_also_broken=False)
            self._advance(replace(link, seq=self._tail.seq + 1), intact=True)
            return
        intact = self._intact(link)
        if place == 1:
            self._in_sequence(link, intact=intact)
        elif place > 1:
            self._settle_break(after_also_broken=False)
            self._miss(range(self._tail.seq + 1, link.seq))
            self._advance(link, intact=intact)
        elif link.seq in self._missing:
            self._missing.discard(link.seq)
            self._find("swapped", link.seq, detail="stands behind a later entry")
        else:
            self._find("inserted", link.seq, detail="the sequence number occurs twice")
            if link.seq == self._tail.seq:
                self._tail.hashes.add(link.hash)

    def finish(self, seal: Checkpoint | None = None, *, expect_seal: bool = False) -> Report:
        """Close the books. `seal` is the checkpoint an export ends with."""
        self._settle_break(after_also_broken=False, at_end=True)
        for first, last in _ranges(self._missing):
            self._find("deleted", first, last)
        statements = self._signed_statements(seal)
        agreed = self._compare(statements)
        self._look_for_truncation(statements, seal, agreed, expect_seal=expect_seal)
        return Report(
            stream=self.stream,
            entries=self._entries,
            checkpoints=len(statements),
            head_hash=self._tail.head,
            pinned=self.trusted_keys is not None,
            findings=tuple(self._findings),
        )

    def _find(self, kind: Kind, first: int, last: int | None = None, detail: str = "") -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(kind, first, first if last is None else last, detail))

    def _intact(self, link: Link) -> bool:
        intact = link.stream == self.stream and self._computed(link) == link.hash
        if not intact:
            self._find("edited", link.seq, detail="the content does not match its hash")
        return intact

    @staticmethod
    def _computed(link: Link) -> str:
        try:
            return link.computed_hash()
        except NotCanonicalError:
            return ""

    def _miss(self, gap: range) -> None:
        # A forged number must not make the verifier count to infinity.
        if len(gap) <= 1_000_000 - len(self._missing):
            self._missing.update(gap)
        else:
            self._find("deleted", gap.start, gap.stop - 1)

    def _in_sequence(self, link: Link, *, intact: bool) -> None:
        fits = link.prev_hash in self._tail.hashes
        if self._break is not None:
            self._settle_break(after_also_broken=not fits)
        elif not fits and intact:
            self._break = _Break(self._tail.seq, link.seq)
        if link.recorded_at < self._tail.recorded_at:
            self._find("clock_turned_back", link.seq, detail=f"{link.recorded_at} < {self._tail.recorded_at}")
        self._advance(link, intact=intact)

    def _advance(self, link: Link, *, intact: bool) -> None:
        # Behind an edited entry the successor may name the hash that is stored or the one it once had.
        hashes = {link.hash} if intact else {link.hash, self._computed(link)}
        self._tail = _Tail(link.seq, link.hash, hashes, link.recorded_at)
        if self._tree.size == link.seq - 1:
            try:
                self._tree.append(bytes.fromhex(link.hash))
            except ValueError:
                return
            if link.seq in self._sizes:
                self._heads[link.seq] = (self._tree.root().hex(), link.hash)

    def _settle_break(self, *, after_also_broken: bool, at_end: bool = False) -> None:
        """A broken link lies before `after`. When the next link is broken too, `after` is the edited one."""
        broken, self._break = self._break, None
        if broken is None:
            return
        detail = "the chain does not fit here"
        if after_also_broken:
            self._find("edited", broken.after, detail=detail)
        elif at_end or broken.before == 0:
            self._find("edited", max(1, broken.before), broken.after, detail)
        else:
            self._find("edited", broken.before, detail=detail)

    def _signed_statements(self, seal: Checkpoint | None) -> list[Checkpoint]:
        """Every checkpoint whose signature holds, smallest first; the others become findings."""
        offered = [*self.checkpoints, *([seal] if seal else []), *self.anchors]
        valid = []
        for checkpoint in offered:
            if checkpoint.stream != self.stream or not checkpoint.holds(self.check):
                self._find("edited_checkpoint", 1, checkpoint.size, "the signature does not hold")
            elif self.trusted_keys is not None and checkpoint.public_key not in self.trusted_keys:
                self._find("foreign_signature", 1, checkpoint.size, f"key {checkpoint.key_id} is not ours")
            else:
                valid.append(checkpoint)
        return sorted(set(valid), key=lambda each: (each.size, each.signed_at))

    def _compare(self, statements: Sequence[Checkpoint]) -> int:
        """Compare entries with signed roots; the largest size at which they agree."""
        agreed = 0
        previous: Checkpoint | None = None
        mismatched = False
        for statement in statements:
            if previous is not None:
                self._compare_pair(previous, statement)
            previous = statement
            head = self._heads.get(statement.size) or self._head_now(statement.size)
            if head == (statement.root, statement.head_hash):
                agreed = statement.size
            elif head is not None and not mismatched:
                mismatched = True
                self._find("rewritten", agreed + 1, statement.size, "the entries do not give the signed root")
        return agreed

    def _head_now(self, size: int) -> tuple[str, str] | None:
        if size == self._tree.size == self._tail.seq:
            return self._tree.root().hex(), self._tail.head
        return None

    def _compare_pair(self, earlier: Checkpoint, later: Checkpoint) -> None:
        same_size = earlier.size == later.size
        if same_size and (earlier.root, earlier.head_hash) != (later.root, later.head_hash):
            self._find("fork", 1, later.size, "two signed roots for the same size")
        elif not same_size and later.signed_at < earlier.signed_at:
            self._find("clock_turned_back", earlier.size, later.size, "a larger checkpoint is older")

    def _look_for_truncation(
        self, statements: Sequence[Checkpoint], seal: Checkpoint | None, agreed: int, *, expect_seal: bool
    ) -> None:
        last = self._tail.seq
        promised = max((each.size for each in statements), default=0)
        if promised > last:
            newest = max(statements, key=lambda each: each.size)
            old = seal is not None and seal.size == last and seal.signed_at < newest.signed_at
            confirmed = f"checkpoints confirm the entries up to {agreed} only"
            self._find("stale_export" if old else "truncated", last + 1, promised, confirmed)
        elif expect_seal and seal is None:
            self._find("truncated", last + 1, last + 1, "the export has no seal: its end is missing")
        if seal is not None and seal.size < last:
            self._find("inserted", seal.size + 1, last, "entries behind the seal")


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for number in sorted(numbers):
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last


def read_anchors(lines: Iterable[str]) -> list[Checkpoint]:
    """Checkpoints of an anchor file. Raises ValueError naming the line that is not one."""
    anchors = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                anchors.append(Checkpoint.from_document(json.loads(line)))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"line {number} of the anchor file is not a checkpoint") from error
    return anchors


def verify_export(
    lines: Iterable[str],
    check: SignatureCheck,
    *,
    anchors: Sequence[Checkpoint] = (),
    trusted_keys: AbstractSet[str] | None = None,
) -> Report:
    """Verify an NDJSON export: header, checkpoints, entries, seal, one per line."""
    reading = _Reading(check, anchors, trusted_keys)
    for number, line in enumerate(lines, 1):
        if line.strip():
            reading.take(number, line)
    return reading.report()


class _Reading:
    def __init__(
        self, check: SignatureCheck, anchors: Sequence[Checkpoint], trusted_keys: AbstractSet[str] | None
    ) -> None:
        self._check = check
        self._anchors = anchors
        self._trusted_keys = trusted_keys
        self._stream: str | None = None
        self._checkpoints: list[Checkpoint] = []
        self._verifier: ChainVerifier | None = None
        self._seal: Checkpoint | None = None
        self._unreadable: list[Finding] = []
        self._last_seq = 0

    def take(self, number: int, line: str) -> None:
        try:
            self._take(json.loads(line))
        except (KeyError, TypeError, ValueError, AttributeError):
            at = self._last_seq + 1
            self._unreadable.append(Finding("unreadable", at, at, f"line {number}"))

    def _take(self, document: dict[str, Any]) -> None:
        kind = document["kind"]
        if kind == "header":
            if document["format"] != EXPORT_FORMAT:
                raise ValueError("an unknown export format")
            self._stream = str(document["stream"])
        elif kind == "checkpoint":
            self._checkpoints.append(Checkpoint.from_document(document))
        elif kind == "entry":
            link = Link.from_document(document)
            self._chain(link.stream).feed(link)
            self._last_seq = link.seq
        elif kind == "seal":
            self._seal = Checkpoint.from_document(document)
        else:
            raise ValueError("an unknown kind of line")

    def _chain(self, stream: str) -> ChainVerifier:
        if self._verifier is None:
            self._verifier = ChainVerifier(
                self._stream or stream, self._check, self._checkpoints, self._anchors, self._trusted_keys
            )
        return self._verifier

    def report(self) -> Report:
        stream = self._stream or (self._seal.stream if self._seal else "")
        found = self._chain(stream).finish(self._seal, expect_seal=True)
        if not self._unreadable:
            return found
        findings = (*self._unreadable[:MAX_FINDINGS], *found.findings)
        return Report(
            stream=found.stream,
            entries=found.entries,
            checkpoints=found.checkpoints,
            head_hash=found.head_hash,
            pinned=found.pinned,
            findings=findings,
        )
