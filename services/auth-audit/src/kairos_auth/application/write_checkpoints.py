"""Sign what the chains say now and put it where the database's keeper can't change it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from kairos_auth.application.chain_entry import rfc3339
from kairos_auth.application.ports import Anchor, Clock, Signer, Transaction, Transactions
from kairos_auth.domain.errors import BrokenChain
from kairos_contracts.audit_chain import Checkpoint, Link, MerkleTree, to_base64url

_BATCH = 1_000
_STREAMS = 500


def sign(signer: Signer, clock: Clock, *, stream: str, tree: MerkleTree, head_hash: str) -> Checkpoint:
    draft = Checkpoint(
        stream=stream,
        size=tree.size,
        root=tree.root().hex(),
        head_hash=head_hash,
        signed_at=rfc3339(clock()),
        key_id=signer.key_id,
        public_key=signer.public_key,
    )
    return replace(draft, signature=to_base64url(signer.sign(draft.message())))


def _append(tree: MerkleTree, link: Link, prev_hash: str) -> str:
    """Nothing is signed that does not follow from what was signed before. Raises BrokenChain."""
    follows = link.seq == tree.size + 1 and link.prev_hash == prev_hash
    if not follows or link.computed_hash() != link.hash:
        raise BrokenChain(link.stream, tree.size + 1)
    tree.append(bytes.fromhex(link.hash))
    return link.hash


@dataclass(frozen=True)
class Outcome:
    """How many checkpoints were anchored, and which streams could not be signed."""

    anchored: int
    broken: tuple[BrokenChain, ...]


@dataclass(frozen=True)
class WriteCheckpoints:
    transactions: Transactions
    signer: Signer
    anchor: Anchor
    clock: Clock

    async def __call__(self) -> Outcome:
        """Checkpoint every stream that grew, then anchor what is not anchored yet."""
        async with self.transactions.system() as transaction:
            streams = await transaction.audit.streams_to_checkpoint(_STREAMS)
        broken = []
        for stream, organisation_id in streams:
            try:
                await self._checkpoint(stream, organisation_id)
            except BrokenChain as error:
                broken.append(error)
        return Outcome(await self._anchor(), tuple(broken))

    async def _checkpoint(self, stream: str, organisation_id: UUID | None) -> None:
        async with self.transactions.system() as transaction:
            # Entries may be added meanwhile; this lock is between checkpointing replicas only.
            await transaction.lock(f"audit checkpoint {stream}")
            head = await transaction.audit.head(stream)
            tree, head_hash = await transaction.audit.last_tree(stream)
            if tree.size >= head.size:
                return
            head_hash = await self._grow(transaction, tree, head_hash, stream, head.size)
            checkpoint = sign(self.signer, self.clock, stream=stream, tree=tree, head_hash=head_hash)
            await transaction.audit.add_checkpoint(checkpoint, organisation_id, tree)

    @staticmethod
    async def _grow(
        transaction: Transaction, tree: MerkleTree, head_hash: str, stream: str, size: int
    ) -> str:
        while tree.size < size:
            links = await transaction.audit.links(stream, tree.size, _BATCH, up_to=size)
            if not links:
                raise BrokenChain(stream, tree.size + 1)
            for link in links:
                head_hash = _append(tree, link, head_hash)
        return head_hash

    async def _anchor(self) -> int:
        """Written first and noted after: a crash between writes one twice, which does no harm."""
        async with self.transactions.system() as transaction:
            if not await transaction.audit.lock_anchoring():
                return 0
            pending: Sequence[tuple[Checkpoint, UUID | None]] = await transaction.audit.unanchored(_BATCH)
            if not pending:
                return 0
            await self.anchor.write([checkpoint for checkpoint, _ in pending])
            for checkpoint, organisation_id in pending:
                await transaction.audit.note_anchored(checkpoint, organisation_id)
            return len(pending)
