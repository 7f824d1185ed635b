"""Audit chains in PostgreSQL. The login role can insert and read entries, nothing else."""

from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from kairos_auth.adapters.tables import (
    AuditAnchorRow,
    AuditCheckpointRow,
    AuditEntryRow,
    AuditHeadRow,
)
from kairos_auth.application.chain_entry import rfc3339
from kairos_auth.application.records import EntryFilter, Head
from kairos_contracts.audit_chain import Checkpoint, Link, MerkleTree, genesis

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 13))")
_TRY_ANCHOR = text("SELECT pg_try_advisory_xact_lock(hashtextextended('audit anchor', 13))")


class PostgresAuditLog:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock_stream(self, stream: str) -> Head:
        await self._session.execute(_LOCK, {"name": f"audit stream {stream}"})
        return await self.head(stream)

    async def head(self, stream: str) -> Head:
        query = select(AuditHeadRow).where(col(AuditHeadRow.stream) == stream)
        found = await self._session.execute(query.execution_options(populate_existing=True))
        row = found.scalar_one_or_none()
        return Head(row.size, row.hash, row.recorded_at) if row else Head(0, genesis(stream), None)

    async def append(self, link: Link, organisation_id: UUID | None, recorded_at: datetime) -> None:
        values = {
            "stream": link.stream,
            "seq": link.seq,
            "organisation_id": organisation_id,
            "prev_hash": link.prev_hash,
            "hash": link.hash,
            "recorded_at": recorded_at,
            "entry": dict(link.entry),
        }
        await self._session.execute(insert(AuditEntryRow).values(**values))
        head = {
            "organisation_id": organisation_id,
            "size": link.seq,
            "hash": link.hash,
            "recorded_at": recorded_at,
        }
        statement = insert(AuditHeadRow).values(stream=link.stream, **head)
        await self._session.execute(statement.on_conflict_do_update(index_elements=["stream"], set_=head))

    async def links(self, stream: str, after_seq: int, limit: int, *, up_to: int | None = None) -> list[Link]:
        query = (
            select(AuditEntryRow)
            .where(col(AuditEntryRow.stream) == stream, col(AuditEntryRow.seq) > after_seq)
            .order_by(col(AuditEntryRow.seq), col(AuditEntryRow.recorded_at))
            .limit(limit)
        )
        if up_to is not None:
            query = query.where(col(AuditEntryRow.seq) <= up_to)
        return [_link(row) for row in (await self._session.execute(query)).scalars()]

    async def page(self, stream: str, wanted: EntryFilter, limit: int, before_seq: int | None) -> list[Link]:
        query = (
            select(AuditEntryRow)
            .where(col(AuditEntryRow.stream) == stream, *_conditions(wanted))
            .order_by(col(AuditEntryRow.seq).desc())
            .limit(limit)
        )
        if before_seq is not None:
            query = query.where(col(AuditEntryRow.seq) < before_seq)
        return [_link(row) for row in (await self._session.execute(query)).scalars()]

    async def streams_to_checkpoint(self, limit: int) -> list[tuple[str, UUID | None]]:
        signed = (
            select(func.max(col(AuditCheckpointRow.size)))
            .where(col(AuditCheckpointRow.stream) == col(AuditHeadRow.stream))
            .correlate(AuditHeadRow)
            .scalar_subquery()
        )
        query = (
            select(col(AuditHeadRow.stream), col(AuditHeadRow.organisation_id))
            .where(col(AuditHeadRow.size) > func.coalesce(signed, 0))
            .order_by(col(AuditHeadRow.recorded_at))
            .limit(limit)
        )
        return [(row[0], row[1]) for row in (await self._session.execute(query)).all()]

    async def last_tree(self, stream: str) -> tuple[MerkleTree, str]:
        rows = await self._checkpoint_rows(stream, limit=1)
        if not rows:
            return MerkleTree(), genesis(stream)
        frontier = [bytes.fromhex(node) for node in rows[0].frontier]
        return MerkleTree(rows[0].size, frontier), rows[0].head_hash

    async def add_checkpoint(
        self, checkpoint: Checkpoint, organisation_id: UUID | None, tree: MerkleTree
    ) -> None:
        frontier = [node.hex() for node in tree.frontier]
        values = asdict(checkpoint) | {"organisation_id": organisation_id, "frontier": frontier}
        await self._session.execute(insert(AuditCheckpointRow).values(**values))

    async def checkpoints(self, stream: str, limit: int, before_size: int | None) -> list[Checkpoint]:
        rows = await self._checkpoint_rows(stream, limit=limit, before_size=before_size)
        return [_checkpoint(row) for row in rows]

    async def all_checkpoints(self, stream: str) -> list[Checkpoint]:
        return [_checkpoint(row) for row in reversed(await self._checkpoint_rows(stream))]

    async def _checkpoint_rows(
        self, stream: str, *, limit: int | None = None, before_size: int | None = None
    ) -> list[AuditCheckpointRow]:
        query = (
            select(AuditCheckpointRow)
            .where(col(AuditCheckpointRow.stream) == stream)
            .order_by(col(AuditCheckpointRow.size).desc())
            .limit(limit)
        )
        if before_size is not None:
            query = query.where(col(AuditCheckpointRow.size) < before_size)
        return list((await self._session.execute(query)).scalars())

    async def lock_anchoring(self) -> bool:
        return bool((await self._session.execute(_TRY_ANCHOR)).scalar_one())

    async def unanchored(self, limit: int) -> list[tuple[Checkpoint, UUID | None]]:
        anchored = (
            select(col(AuditAnchorRow.size))
            .where(
                col(AuditAnchorRow.stream) == col(AuditCheckpointRow.stream),
                col(AuditAnchorRow.size) == col(AuditCheckpointRow.size),
            )
            .exists()
        )
        query = (
            select(AuditCheckpointRow)
            .where(~anchored)
            .order_by(col(AuditCheckpointRow.signed_at), col(AuditCheckpointRow.size))
            .limit(limit)
        )
        rows = (await self._session.execute(query)).scalars()
        return [(_checkpoint(row), row.organisation_id) for row in rows]

    async def note_anchored(self, checkpoint: Checkpoint, organisation_id: UUID | None) -> None:
        values = {
            "stream": checkpoint.stream,
            "size": checkpoint.size,
            "organisation_id": organisation_id,
        }
        await self._session.execute(insert(AuditAnchorRow).values(**values))


# Written out as in the indexes, so that the planner recognises them.
_ACTOR: ColumnElement[str] = literal_column("entry #>> '{actor,id}'", Text)
_ACTION: ColumnElement[str] = literal_column("entry ->> 'action'", Text)
_TARGET: ColumnElement[str] = literal_column("entry ->> 'target'", Text)
_OUTCOME: ColumnElement[str] = literal_column("entry ->> 'outcome'", Text)
_OCCURRED_AT: ColumnElement[str] = literal_column("entry ->> 'occurred_at'", Text)


def _conditions(wanted: EntryFilter) -> list[Any]:
    conditions: list[Any] = [
        expression == value
        for expression, value in (
            (_ACTOR, wanted.actor),
            (_ACTION, wanted.action),
            (_TARGET, wanted.target),
            (_OUTCOME, wanted.outcome),
        )
        if value is not None
    ]
    # Fixed-length UTC text sorts as time does.
    if wanted.occurred_from is not None:
        conditions.append(rfc3339(wanted.occurred_from) <= _OCCURRED_AT)
    if wanted.occurred_to is not None:
        conditions.append(rfc3339(wanted.occurred_to) > _OCCURRED_AT)
    return conditions


def _link(row: AuditEntryRow) -> Link:
    return Link(
        stream=row.stream,
        seq=row.seq,
        prev_hash=row.prev_hash,
        hash=row.hash,
        recorded_at=rfc3339(row.recorded_at),
        entry=row.entry,
    )


def _checkpoint(row: AuditCheckpointRow) -> Checkpoint:
    return Checkpoint(**row.model_dump(exclude={"organisation_id", "frontier"}))
