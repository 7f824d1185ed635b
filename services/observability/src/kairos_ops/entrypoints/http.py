"""REST of observability: tickets, the event store, service health, dead letters."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import FastAPI, Query
from pydantic import BaseModel

from kairos_contracts.permissions import Actor, Permission
from kairos_ops.application.issue_ticket import Tickets
from kairos_ops.application.keep_dead_letter import shown_headers, shown_payload
from kairos_ops.application.live_feed import audience_of
from kairos_ops.application.ports import DeadLetterStore, EventStore
from kairos_ops.application.replay_dead_letter import ReplayDeadLetter, ReplayRefused
from kairos_ops.application.watch_services import WatchServices
from kairos_ops.domain.dead_letter import DeadLetter, DeadLetterNotFound
from kairos_ops.domain.event import Position, StoredEvent
from kairos_ops.domain.feed import Audience
from kairos_ops.domain.health import Health, ServiceState, overall
from kairos_ops.domain.ticket import TICKET_LIFE
from kairos_telemetry import redact
from kairos_web import (
    CurrentActor,
    CurrentContext,
    Page,
    Paged,
    Problem,
    decode_cursor,
    encode_cursor,
    requires,
)

# Rows are ordered by their insert, and a slow commit may appear behind a row a poller has seen:
# polling looks back this far, so its items may repeat and are told apart by their id.
OVERLAP = timedelta(seconds=10)


class TicketOut(BaseModel):
    ticket: str
    expires_in_s: int


class EventOut(BaseModel):
    id: UUID
    type: str
    source: str
    subject: str
    time: datetime
    recorded_at: datetime
    organisation_id: UUID | None
    causation_id: UUID | None
    trace_id: str | None
    data: dict[str, Any]

    @classmethod
    def of(cls, stored: StoredEvent) -> "EventOut":
        return cls(**stored.event.as_json(), recorded_at=stored.position.recorded_at)


class EventPage(Page[EventOut]):
    """`head` goes into `after` to poll for what comes later; `next_cursor` continues this listing."""

    head: str | None = None


class ServiceOut(BaseModel):
    service: str
    health: Health
    detail: str
    since: datetime
    checked_at: datetime
    latency_ms: int

    @classmethod
    def of(cls, state: ServiceState) -> "ServiceOut":
        return cls(**state.as_json())


class ServicesOut(BaseModel):
    status: Health
    services: list[ServiceOut]


class DeadLetterOut(BaseModel):
    id: UUID
    message_id: str
    queue: str
    type: str
    organisation_id: UUID | None
    reason: str
    error: str
    attempts: int
    deaths: int
    trace_id: str | None
    payload_sha256: str
    status: Literal["open", "replayed"]
    first_died_at: datetime
    last_died_at: datetime
    replayed_at: datetime | None
    replayed_by: str | None

    @classmethod
    def of(cls, letter: DeadLetter) -> "DeadLetterOut":
        return cls.model_validate(letter, from_attributes=True)


class DeadLetterDetail(DeadLetterOut):
    """With the redacted, masked message. `payload` is null when the body is not a JSON object."""

    headers: dict[str, Any]
    payload: dict[str, Any] | None


def _audience(actor: Actor) -> Audience:
    audience = audience_of(actor)
    if audience is None:
        raise Problem(403, "organisation_required", "The caller belongs to no organisation")
    return audience


def _position(cursor: dict[str, Any] | None) -> Position | None:
    if cursor is None:
        return None
    try:
        return Position(datetime.fromisoformat(cursor["t"]), UUID(cursor["i"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Problem(400, "invalid_cursor", "The cursor is not one this service gave out") from error


def _cursor(position: Position, **extra: bool) -> str:
    return encode_cursor({"t": position.recorded_at.isoformat(), "i": str(position.id), **extra})


def add_tickets(app: FastAPI, tickets: Tickets) -> None:
    @app.post("/tickets", status_code=201, dependencies=[requires(Permission.HEALTH_READ)])
    async def issue(actor: CurrentActor) -> TicketOut:
        """A ticket for one opening of `/ws`, within 30 seconds."""
        return TicketOut(ticket=await tickets.issue(actor), expires_in_s=int(TICKET_LIFE.total_seconds()))


def add_events(app: FastAPI, store: EventStore) -> None:
    async def newest(audience: Audience, page: Paged, prefix: str) -> EventPage:
        found = await store.older(
            audience, type_prefix=prefix, before=_position(page.position()), limit=page.limit + 1
        )
        shown = found[: page.limit]
        return EventPage(
            items=[EventOut.of(stored) for stored in shown],
            next_cursor=_cursor(shown[-1].position) if len(found) > page.limit else None,
            head=_cursor(shown[0].position) if shown else None,
        )

    async def since(audience: Audience, after: str, page: Paged, prefix: str) -> EventPage:
        given = decode_cursor(after)
        position = _position(given)
        if position is None:
            raise Problem(400, "invalid_cursor", "The cursor is not one this service gave out")
        start = position if given.get("page") else Position(position.recorded_at - OVERLAP, UUID(int=0))
        found = await store.newer(audience, type_prefix=prefix, after=start, limit=page.limit + 1)
        shown = found[: page.limit]
        last = max([position, *(stored.position for stored in shown)], key=lambda at: (at.recorded_at, at.id))
        return EventPage(
            items=[EventOut.of(stored) for stored in shown],
            next_cursor=_cursor(shown[-1].position, page=True) if len(found) > page.limit else None,
            head=_cursor(last),
        )

    @app.get("/events", dependencies=[requires(Permission.EVENTS_READ)])
    async def events(
        actor: CurrentActor,
        page: Paged,
        after: Annotated[str | None, Query(max_length=1_024)] = None,
        type_prefix: Annotated[str, Query(alias="type", max_length=128)] = "",
    ) -> EventPage:
        """Newest first; with `after` oldest first from there on, at least once each."""
        audience = _audience(actor)
        if after is None:
            return await newest(audience, page, type_prefix)
        return await since(audience, after, page, type_prefix)


def add_services(app: FastAPI, watch: WatchServices) -> None:
    @app.get("/services", dependencies=[requires(Permission.HEALTH_READ)])
    async def services() -> ServicesOut:
        """What this replica last saw of every service; answers 200 whatever it saw."""
        states = watch.states
        return ServicesOut(status=overall(states), services=[ServiceOut.of(state) for state in states])


def add_dead_letters(app: FastAPI, store: DeadLetterStore, replay: ReplayDeadLetter) -> None:
    def detail(letter: DeadLetter) -> DeadLetterDetail:
        return DeadLetterDetail(
            **DeadLetterOut.of(letter).model_dump(),
            headers=shown_headers(letter, redact),
            payload=shown_payload(letter, redact),
        )

    def not_found() -> Problem:
        return Problem(404, "not_found", "No such dead letter")

    @app.get("/dead-letters", dependencies=[requires(Permission.DEAD_LETTERS_READ)])
    async def listing(
        actor: CurrentActor, page: Paged, status: Literal["open", "replayed"] | None = None
    ) -> Page[DeadLetterOut]:
        before = _position(page.position())
        found = await store.page(_audience(actor), status=status, before=before, limit=page.limit + 1)
        shown = found[: page.limit]
        rest = len(found) > page.limit
        return Page[DeadLetterOut](
            items=[DeadLetterOut.of(letter) for letter in shown],
            next_cursor=_cursor(Position(shown[-1].last_died_at, shown[-1].id)) if rest else None,
        )

    @app.get("/dead-letters/{letter_id}", dependencies=[requires(Permission.DEAD_LETTERS_READ)])
    async def one(actor: CurrentActor, letter_id: UUID) -> DeadLetterDetail:
        try:
            return detail(await store.get(_audience(actor), letter_id))
        except DeadLetterNotFound as error:
            raise not_found() from error

    @app.post("/dead-letters/{letter_id}/replay", dependencies=[requires(Permission.DEAD_LETTERS_REPLAY)])
    async def replay_one(actor: CurrentActor, context: CurrentContext, letter_id: UUID) -> DeadLetterOut:
        """Send the message to its queue again, with its own id."""
        try:
            return DeadLetterOut.of(await replay(_audience(actor), letter_id, context))
        except DeadLetterNotFound as error:
            raise not_found() from error
        except ReplayRefused as error:
            raise Problem(409, "not_replayable", "No consumer reads that queue", str(error)) from error
