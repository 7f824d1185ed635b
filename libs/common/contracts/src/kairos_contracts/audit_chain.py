"""The form of the audit log that its keeper and every verifier agree on.

Each stream (one per organisation, and `system`) is a hash chain. Checkpoints sign the Merkle root of the
stream's first `size` entries (RFC 6962) and are copied to a file outside the database.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self
from uuid import UUID

from kairos_contracts.canonical_json import canonical

SYSTEM_STREAM = "system"
EXPORT_FORMAT = "kairos.audit.export.v1"

_ENTRY_CONTEXT = b"kairos.audit.entry.v1\n"
_CHECKPOINT_CONTEXT = b"kairos.audit.checkpoint.v1\n"
_GENESIS_CONTEXT = b"kairos.audit.genesis.v1\n"
_EMPTY_ROOT = hashlib.sha256().digest()

SignatureCheck = Callable[[bytes, bytes, bytes], bool]
"""(public key of 32 bytes, signature, message) -> whether Ed25519 holds. The caller brings the library."""


def stream_of(organisation_id: UUID | None) -> str:
    return SYSTEM_STREAM if organisation_id is None else str(organisation_id)


def genesis(stream: str) -> str:
    """What the first entry of a stream names as its predecessor; it ties the chain to its stream."""
    return hashlib.sha256(_GENESIS_CONTEXT + stream.encode()).hexdigest()


@dataclass(frozen=True)
class Link:
    """One entry in its place. `recorded_at` is RFC 3339 in UTC; `entry` is the content as JSON values."""

    stream: str
    seq: int
    prev_hash: str
    hash: str
    recorded_at: str
    entry: Mapping[str, Any]

    @classmethod
    def after(
        cls, stream: str, seq: int, prev_hash: str, *, recorded_at: str, entry: Mapping[str, Any]
    ) -> Self:
        """Chain an entry behind the one whose hash is `prev_hash`."""
        digest = link_hash(stream, seq, prev_hash, recorded_at, entry)
        return cls(stream, seq, prev_hash, digest, recorded_at, entry)

    def computed_hash(self) -> str:
        return link_hash(self.stream, self.seq, self.prev_hash, self.recorded_at, self.entry)

    def document(self) -> dict[str, Any]:
        """The line of an export."""
        return {"kind": "entry", **asdict(self)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a line of an export. Raises KeyError, TypeError or ValueError when it is none."""
        entry = document["entry"]
        if not isinstance(entry, Mapping):
            raise TypeError("an entry is an object")
        return cls(
            stream=str(document["stream"]),
            seq=int(document["seq"]),
            prev_hash=str(document["prev_hash"]),
            hash=str(document["hash"]),
            recorded_at=str(document["recorded_at"]),
            entry=entry,
        )


def link_hash(stream: str, seq: int, prev_hash: str, recorded_at: str, entry: Mapping[str, Any]) -> str:
    content = {
        "stream": stream,
        "seq": seq,
        "prev_hash": prev_hash,
        "recorded_at": recorded_at,
        "entry": entry,
    }
    return hashlib.sha256(_ENTRY_CONTEXT + canonical(content)).hexdigest()


class MerkleTree:
    """RFC 6962 tree head of a growing list; keeps one hash per full subtree, so log2(n) of them."""

    def __init__(self, size: int = 0, frontier: Iterable[bytes] = ()) -> None:
        self.size = size
        self._frontier = list(frontier)
        if len(self._frontier) != size.bit_count():
            raise ValueError("the frontier has one hash per bit set in the size")

    @property
    def frontier(self) -> tuple[bytes, ...]:
        """Roots of the full subtrees, largest first: with the size all that growing on needs."""
        return tuple(self._frontier)

    def append(self, leaf: bytes) -> None:
        node = hashlib.sha256(b"\x00" + leaf).digest()
        carried = self.size
        while carried & 1:
            node = hashlib.sha256(b"\x01" + self._frontier.pop() + node).digest()
            carried >>= 1
        self._frontier.append(node)
        self.size += 1

    def root(self) -> bytes:
        if not self._frontier:
            return _EMPTY_ROOT
        node = self._frontier[-1]
        for left in reversed(self._frontier[:-1]):
            node = hashlib.sha256(b"\x01" + left + node).digest()
        return node


@dataclass(frozen=True)
class Checkpoint:
    """A signed statement: the stream's first `size` entries have this Merkle root and this head.

    Hashes are hex, key and signature base64url without padding. `key_id` is the key's RFC 7638 thumbprint.
    """

    stream: str
    size: int
    root: str
    head_hash: str
    signed_at: str
    key_id: str
    public_key: str
    signature: str = ""

    def message(self) -> bytes:
        """The bytes that are signed. The prefix keeps them apart from everything else the key signs."""
        fields = asdict(self)
        del fields["signature"]
        return _CHECKPOINT_CONTEXT + canonical(fields)

    def holds(self, check: SignatureCheck) -> bool:
        try:
            key, signature = from_base64url(self.public_key), from_base64url(self.signature)
        except ValueError:
            return False
        return check(key, signature, self.message())

    def document(self, kind: str = "checkpoint") -> dict[str, Any]:
        return {"kind": kind, **asdict(self)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read it back. Raises KeyError, TypeError or ValueError when it is none."""
        texts = ("root", "head_hash", "signed_at", "key_id", "public_key", "signature")
        return cls(
            stream=str(document["stream"]),
            size=int(document["size"]),
            **{name: str(document[name]) for name in texts},
        )


def to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """Raises ValueError when the text is not base64url."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
