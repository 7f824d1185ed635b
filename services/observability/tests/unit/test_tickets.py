from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from kairos_contracts.permissions import Actor, Role
from kairos_ops.application.issue_ticket import Tickets
from kairos_ops.application.live_feed import access_subject
from kairos_ops.domain.ticket import TICKET_LIFE, Revocations, TicketRefused


class Clock:
    now = datetime(2026, 11, 22, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Memory:
    """A ticket store that forgets nothing by itself."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[Actor, datetime]] = {}

    async def put(self, ticket: str, actor: Actor, issued_at: datetime, life_s: int) -> None:
        self.held[ticket] = (actor, issued_at)

    async def take(self, ticket: str) -> tuple[Actor, datetime] | None:
        return self.held.pop(ticket, None)


ACTOR = Actor(
    kind="member", id=str(uuid4()), organisation_id=UUID(int=1), role=Role.ADMIN, session_id=UUID(int=5)
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(Memory(), clock, Revocations({}))


async def test_a_ticket_names_its_caller_once(tickets: Tickets) -> None:
    ticket = await tickets.issue(ACTOR)
    assert await tickets.redeem(ticket) == ACTOR
    with pytest.raises(TicketRefused):
        await tickets.redeem(ticket)


@pytest.mark.parametrize("ticket", ["", "made-up"])
async def test_a_ticket_nobody_issued_is_refused(tickets: Tickets, ticket: str) -> None:
    with pytest.raises(TicketRefused):
        await tickets.redeem(ticket)


async def test_a_ticket_lives_for_thirty_seconds(tickets: Tickets, clock: Clock) -> None:
    ticket = await tickets.issue(ACTOR)
    clock.now += TICKET_LIFE + timedelta(seconds=1)
    with pytest.raises(TicketRefused):
        await tickets.redeem(ticket)


@pytest.mark.parametrize("subject", [("session", UUID(int=5)), ("member", UUID(ACTOR.id))])
async def test_a_ticket_falls_with_the_access_of_its_holder(
    tickets: Tickets, clock: Clock, subject: tuple[str, UUID]
) -> None:
    ticket = await tickets.issue(ACTOR)
    clock.now += timedelta(seconds=1)
    tickets.revoke(access_subject(*subject))
    with pytest.raises(TicketRefused):
        await tickets.redeem(ticket)


async def test_a_ticket_issued_after_the_change_is_good(tickets: Tickets, clock: Clock) -> None:
    tickets.revoke(access_subject("member", UUID(ACTOR.id)))
    clock.now += timedelta(seconds=1)
    assert await tickets.redeem(await tickets.issue(ACTOR)) == ACTOR


def test_old_changes_are_forgotten() -> None:
    revocations = Revocations({})
    at = datetime(2026, 11, 22, tzinfo=UTC)
    revocations.note("member:1", at)
    revocations.note("member:2", at + 3 * TICKET_LIFE)
    assert list(revocations.times) == ["member:2"]
