"""Audit entries from the queue, and the checkpoints that follow them."""

import asyncio

from kairos_auth.application.chain_entry import ChainEntry
from kairos_auth.application.write_checkpoints import WriteCheckpoints
from kairos_contracts.auth.v1 import AuditEntryRecordedV1
from kairos_faults import apoint
from kairos_messaging import Delivery
from kairos_telemetry import get_logger, metrics

_log = get_logger(__name__)


class ChainNotSigned(Exception):  # noqa: N818 - reads as the fact it states
    """A stream does not chain, or the anchor can't be written; entries are still taken in."""


class Checkpointer:
    """Signs every `seconds`, or as soon as `entries` were chained here."""

    def __init__(self, write: WriteCheckpoints, *, seconds: float, entries: int) -> None:
        self._write = write
        self._seconds = seconds
        self._entries = entries
        self._chained = 0
        self._due = asyncio.Event()
        self._trouble = ""

    def chained(self) -> None:
        self._chained += 1
        if self._chained >= self._entries:
            self._due.set()

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            self._chained = 0
            await self.write()

    async def write(self) -> None:
        """One round, now."""
        try:
            outcome = await self._write()
        except OSError as error:
            self._trouble = f"anchor: {type(error).__name__}"
            _log.exception("anchor_not_written")
            return
        for broken in outcome.broken:
            _log.error("audit_chain_broken", stream=broken.stream, seq=broken.seq)
        self._trouble = f"{len(outcome.broken)} streams do not chain" if outcome.broken else ""

    async def check(self) -> None:
        """Health probe."""
        if self._trouble:
            raise ChainNotSigned(self._trouble)


class EntryConsumer:
    def __init__(self, chain: ChainEntry, checkpointer: Checkpointer) -> None:
        self._chain = chain
        self._checkpointer = checkpointer

    async def handle(self, delivery: Delivery[AuditEntryRecordedV1]) -> None:
        link = await self._chain(
            delivery.message,
            message_id=delivery.envelope.id,
            organisation_id=delivery.envelope.organisation_id,
            source=delivery.envelope.source,
        )
        await apoint("auth.entry.chained")
        if link is not None:
            metrics.counter("kairos_audit_entries_total").inc()
            self._checkpointer.chained()
