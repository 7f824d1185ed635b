"""The audit log over HTTP: view, export, verify."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from kairos_auth.application.read_audit import (
    ExportEntries,
    ListCheckpoints,
    ListEntries,
    VerifyEntries,
)
from kairos_auth.application.records import EntryFilter
from kairos_auth.entrypoints.positions import before_number
from kairos_contracts.audit_chain import Checkpoint, Link
from kairos_contracts.message import AwareTime
from kairos_contracts.permissions import Permission
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, encode_cursor, requires

NDJSON = "application/x-ndjson"


class EntryView(BaseModel):
    """One entry in its chain; `entry` is exactly what is hashed."""

    seq: int
    hash: str
    prev_hash: str
    recorded_at: str
    entry: dict[str, Any]


class CheckpointView(BaseModel):
    size: int
    root: str
    head_hash: str
    signed_at: str
    key_id: str
    public_key: str
    signature: str


class FindingView(BaseModel):
    kind: str
    first_seq: int
    last_seq: int
    detail: str


class ReportView(BaseModel):
    intact: bool
    entries: int
    checkpoints: int
    head_hash: str
    findings: list[FindingView]


def _entry(link: Link) -> EntryView:
    return EntryView(
        seq=link.seq,
        hash=link.hash,
        prev_hash=link.prev_hash,
        recorded_at=link.recorded_at,
        entry=dict(link.entry),
    )


def _checkpoint(checkpoint: Checkpoint) -> CheckpointView:
    return CheckpointView.model_validate(checkpoint, from_attributes=True)


def _filter(
    actor: Annotated[str | None, Query(max_length=200)] = None,
    action: Annotated[str | None, Query(max_length=100)] = None,
    target: Annotated[str | None, Query(max_length=200)] = None,
    outcome: Annotated[Literal["allowed", "denied", "failed"] | None, Query()] = None,
    from_: Annotated[AwareTime | None, Query(alias="from")] = None,
    to: Annotated[AwareTime | None, Query()] = None,
) -> EntryFilter:
    return EntryFilter(actor, action, target, outcome, from_, to)


Wanted = Annotated[EntryFilter, Depends(_filter)]


def audit_routes(
    list_entries: ListEntries, list_checkpoints: ListCheckpoints, export: ExportEntries, verify: VerifyEntries
) -> APIRouter:
    router = APIRouter(prefix="/audit", tags=["audit"])

    @router.get("/entries", dependencies=[requires(Permission.AUDIT_READ)])
    async def show_entries(
        page: Paged, wanted: Wanted, organisation_id: CurrentOrganisation
    ) -> Page[EntryView]:
        """Newest first."""
        links = await list_entries(organisation_id, wanted, page.limit + 1, before_number(page))
        shown = [_entry(link) for link in links[: page.limit]]
        more = len(links) > page.limit
        return Page(items=shown, next_cursor=encode_cursor({"before": shown[-1].seq}) if more else None)

    @router.get("/checkpoints", dependencies=[requires(Permission.AUDIT_READ)])
    async def show_checkpoints(page: Paged, organisation_id: CurrentOrganisation) -> Page[CheckpointView]:
        found = await list_checkpoints(organisation_id, page.limit + 1, before_number(page))
        shown = [_checkpoint(checkpoint) for checkpoint in found[: page.limit]]
        more = len(found) > page.limit
        return Page(items=shown, next_cursor=encode_cursor({"before": shown[-1].size}) if more else None)

    @router.get("/export", dependencies=[requires(Permission.AUDIT_READ)])
    async def export_entries(
        organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> StreamingResponse:
        """The whole log as NDJSON; `kairos audit verify --export FILE` checks it offline."""
        await export.record(organisation_id, context)

        async def lines() -> AsyncIterator[str]:
            async for document in export.lines(organisation_id):
                yield json.dumps(document, ensure_ascii=False) + "\n"

        disposition = {"content-disposition": 'attachment; filename="audit.ndjson"'}
        return StreamingResponse(lines(), media_type=NDJSON, headers=disposition)

    @router.post("/verify", dependencies=[requires(Permission.AUDIT_VERIFY)])
    async def verify_entries(organisation_id: CurrentOrganisation, context: CurrentContext) -> ReportView:
        return ReportView.model_validate(await verify(organisation_id, context), from_attributes=True)

    return router
