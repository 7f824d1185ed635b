"""Show, export and verify the audit log of one organisation."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from kairos_auth.application.chain_entry import rfc3339
from kairos_auth.application.ports import Anchor, Clock, Signer, Transactions
from kairos_auth.application.records import EntryFilter
from kairos_auth.application.write_checkpoints import sign
from kairos_contracts.audit import AuditContext
from kairos_contracts.audit_chain import (
    EXPORT_FORMAT,
    Checkpoint,
    Link,
    MerkleTree,
    SignatureCheck,
    stream_of,
)
from kairos_contracts.audit_verifier import ChainVerifier, Report

_BATCH = 500


@dataclass(frozen=True)
class ListEntries:
    transactions: Transactions

    async def __call__(
        self, organisation_id: UUID, wanted: EntryFilter, limit: int, before_seq: int | None
    ) -> list[Link]:
        """Newest first."""
        async with self.transactions.scoped(organisation_id) as transaction:
            return await transaction.audit.page(stream_of(organisation_id), wanted, limit, before_seq)


@dataclass(frozen=True)
class ListCheckpoints:
    transactions: Transactions

    async def __call__(self, organisation_id: UUID, limit: int, before_size: int | None) -> list[Checkpoint]:
        async with self.transactions.scoped(organisation_id) as transaction:
            return await transaction.audit.checkpoints(stream_of(organisation_id), limit, before_size)


@dataclass(frozen=True)
class ExportEntries:
    """The whole stream as lines: header, checkpoints, entries, and a seal signed over exactly these."""

    transactions: Transactions
    signer: Signer
    clock: Clock

    async def record(self, organisation_id: UUID, context: AuditContext) -> None:
        """Call before the first line leaves: no entry, no export."""
        async with self.transactions.scoped(organisation_id) as transaction:
            transaction.emit(
                context.entry("audit.exported", f"organisation:{organisation_id}"), organisation_id
            )

    async def lines(self, organisation_id: UUID) -> AsyncIterator[dict[str, Any]]:
        stream = stream_of(organisation_id)
        async with self.transactions.scoped(organisation_id) as transaction:
            # In this order a checkpoint can't be larger than the head unless entries are missing.
            checkpoints = await transaction.audit.all_checkpoints(stream)
            head = await transaction.audit.head(stream)
        exported_at = rfc3339(self.clock())
        yield {"kind": "header", "format": EXPORT_FORMAT, "stream": stream, "exported_at": exported_at}
        for checkpoint in checkpoints:
            yield checkpoint.document()
        tree, head_hash = MerkleTree(), head.hash
        async for link in self._links(organisation_id, stream, head.size):
            tree.append(bytes.fromhex(link.hash))
            head_hash = link.hash
            yield link.document()
        yield sign(self.signer, self.clock, stream=stream, tree=tree, head_hash=head_hash).document("seal")

    async def _links(self, organisation_id: UUID, stream: str, size: int) -> AsyncIterator[Link]:
        seq = 0
        while seq < size:
            # One short transaction per batch: a slow reader must not hold one open.
            async with self.transactions.scoped(organisation_id) as transaction:
                links = await transaction.audit.links(stream, seq, _BATCH, up_to=size)
            if not links:
                return
            for link in links:
                yield link
            seq = links[-1].seq


@dataclass(frozen=True)
class VerifyEntries:
    transactions: Transactions
    anchor: Anchor
    check: SignatureCheck
    trusted_keys: frozenset[str]

    async def __call__(self, organisation_id: UUID, context: AuditContext) -> Report:
        """Verify what is stored against its checkpoints and the anchor; the outcome is audited."""
        stream = stream_of(organisation_id)
        anchors = [anchor for anchor in await self.anchor.read() if anchor.stream == stream]
        async with self.transactions.scoped(organisation_id) as transaction:
            checkpoints = await transaction.audit.all_checkpoints(stream)
        keys = self.trusted_keys | {anchor.public_key for anchor in anchors}
        verifier = ChainVerifier(stream, self.check, checkpoints, anchors, keys)
        seq = 0
        while True:
            async with self.transactions.scoped(organisation_id) as transaction:
                links = await transaction.audit.links(stream, seq, _BATCH)
            if not links:
                break
            for link in links:
                verifier.feed(link)
            seq = links[-1].seq
        report = verifier.finish()
        await self._record(organisation_id, report, context)
        return report

    async def _record(self, organisation_id: UUID, report: Report, context: AuditContext) -> None:
        after = {
            "entries": report.entries,
            "head_hash": report.head_hash,
            "findings": [f"{found.kind} {found.first_seq}-{found.last_seq}" for found in report.findings],
        }
        async with self.transactions.scoped(organisation_id) as transaction:
            entry = context.entry(
                "audit.verified",
                f"organisation:{organisation_id}",
                outcome="allowed" if report.intact else "failed",
                after=after,
            )
            transaction.emit(entry, organisation_id)
