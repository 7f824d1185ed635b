import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from kairos_contracts.permissions import Actor, Permission, Role
from kairos_ops.application.live_feed import STREAM_IDLE_S, Client, FeedFull, LiveFeed, access_subject
from kairos_ops.domain.event import FeedEvent
from kairos_ops.domain.feed import Resume
from kairos_ops.domain.health import ServiceState
from kairos_ops.domain.protocol import CloseCode, Ping, Sub, Unsub

ACME, OTHER = UUID(int=1), UUID(int=2)


class Counts:
    def __init__(self) -> None:
        self.open = 0
        self.pushed = 0

    def connections(self, count: int) -> None:
        self.open = count

    def published(self, count: int) -> None:
        self.pushed += count


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def feed(time: Time, counts: Counts) -> LiveFeed:
    return LiveFeed(epoch="e1", observer=counts, monotonic=time, ring=5, mailbox=20, max_clients=3)


def member(organisation: UUID = ACME, role: Role = Role.VIEWER, **more: Any) -> Actor:
    return Actor(kind="member", id=str(uuid4()), organisation_id=organisation, role=role, **more)


def event(kind: str = "conversation.turn.opened.v1", organisation: UUID | None = ACME) -> FeedEvent:
    return FeedEvent(uuid4(), kind, "bot-worker", "s", datetime.now(UTC), organisation, None, None, {})


def joined(feed: LiveFeed, actor: Actor, *types: str, resume: Resume | None = None) -> Client:
    client = feed.connect(actor, lambda: None)
    feed.handle(client, Sub("events", types, resume))
    return client


def frames(client: Client, now: float = 1_000.0) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in client.mailbox.drain(now)]


def seen(client: Client, kind: str = "ev") -> list[dict[str, Any]]:
    return [frame for frame in frames(client) if frame["t"] == kind]


def test_a_client_is_greeted_and_told_when_its_topic_is_ready(feed: LiveFeed) -> None:
    client = joined(feed, member())
    assert [frame["t"] for frame in frames(client)] == ["hello", "snap", "ready"]


def test_events_arrive_numbered_in_order(feed: LiveFeed) -> None:
    client = joined(feed, member())
    first, second = event(), event()
    feed.publish(first)
    feed.publish(second)
    got = seen(client)
    assert [(frame["seq"], frame["event"]["id"]) for frame in got] == [
        (1, str(first.id)),
        (2, str(second.id)),
    ]


def test_an_organisation_never_sees_anothers_events(feed: LiveFeed) -> None:
    acme, other = joined(feed, member(ACME, Role.ADMIN)), joined(feed, member(OTHER, Role.ADMIN))
    feed.publish(event(organisation=OTHER))
    assert seen(acme) == []
    assert len(seen(other)) == 1


def test_events_of_the_installation_are_for_admins_only(feed: LiveFeed) -> None:
    admin, viewer = joined(feed, member(role=Role.ADMIN)), joined(feed, member())
    feed.publish(event("ops.health.changed.v1", organisation=None))
    assert len(seen(admin)) == 1
    assert seen(viewer) == []


def test_a_client_gets_only_the_types_it_asked_for(feed: LiveFeed, counts: Counts) -> None:
    client = joined(feed, member(), "llm.", "budget.")
    feed.publish(event("conversation.turn.opened.v1"))
    feed.publish(event("llm.usage.recorded.v1"))
    assert [frame["event"]["type"] for frame in seen(client)] == ["llm.usage.recorded.v1"]
    assert counts.pushed == 1


def test_a_client_that_comes_back_gets_what_it_missed_by_sequence(feed: LiveFeed) -> None:
    actor = member()
    client = joined(feed, actor)
    feed.publish(event())
    feed.disconnect(client)
    feed.publish(event())
    feed.publish(event())
    again = frames(joined(feed, actor, resume=Resume("e1", 1)))
    assert [frame["seq"] for frame in again if frame["t"] == "ev"] == [2, 3]
    assert not [frame for frame in again if frame["t"] == "gap"]


@pytest.mark.parametrize(
    ("resume", "reason"),
    [(Resume("e0", 3), "epoch"), (Resume("e1", 1), "expired"), (Resume("e1", 99), "epoch")],
)
def test_a_client_that_can_not_be_caught_up_is_told_there_is_a_gap(
    feed: LiveFeed, resume: Resume, reason: str
) -> None:
    actor = member()
    joined(feed, actor)
    for _ in range(9):
        feed.publish(event())
    (gap,) = seen(joined(feed, actor, resume=resume), "gap")
    assert gap["reason"] == reason


def test_what_does_not_fit_a_slow_clients_mailbox_becomes_one_gap(feed: LiveFeed) -> None:
    client = joined(feed, member())
    for _ in range(40):
        feed.publish(event())
    got = frames(client)
    sequences = [frame["seq"] for frame in got if frame["t"] == "ev"]
    gap = got[-1]
    assert gap["t"] == "gap"
    assert sequences == list(range(1, gap["from"]))
    assert gap["to"] == 40
    feed.publish(event())
    assert [frame["seq"] for frame in seen(client)] == [41]


def test_the_services_topic_sends_its_state_and_then_coalesced_changes(feed: LiveFeed) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    feed.update_services([ServiceState("llm-router", "up", "", now, now, 3)])
    client = feed.connect(member(), lambda: None)
    feed.handle(client, Sub("services"))
    (snap,) = seen(client, "snap")
    assert snap["state"]["llm-router"]["health"] == "up"
    feed.update_services([ServiceState("llm-router", "degraded", "", now, now, 3)])
    feed.update_services([ServiceState("llm-router", "down", "gone", now, now, 3)])
    (change,) = [frame for frame in frames(client, 2_000.0) if frame["t"] == "ev"]
    assert change["changes"]["llm-router"]["health"] == "down"
    feed.update_services([ServiceState("llm-router", "up", "", now, now, 3)])
    assert frames(client, 2_000.1) == []
    assert client.mailbox.wait_hint(2_000.1) == pytest.approx(0.15)
    assert len(frames(client, 2_000.3)) == 1


@pytest.mark.parametrize("topic", ["events", "services"])
def test_a_topic_without_its_permission_is_dropped(feed: LiveFeed, topic: str) -> None:
    client = feed.connect(member(scopes=frozenset({Permission.BOTS_READ})), lambda: None)
    feed.handle(client, Sub(topic))
    (drop,) = seen(client, "drop")
    assert drop["reason"] == "denied"


def test_a_service_without_an_organisation_gets_no_events(feed: LiveFeed) -> None:
    client = feed.connect(Actor(kind="service", id="observability"), lambda: None)
    feed.handle(client, Sub("events"))
    assert seen(client, "drop")[0]["reason"] == "denied"


def test_an_unknown_topic_is_dropped(feed: LiveFeed) -> None:
    client = feed.connect(member(), lambda: None)
    feed.handle(client, Sub("gossip"))
    feed.handle(client, Unsub("gossip"))
    assert [frame["reason"] for frame in seen(client, "drop")] == ["unknown_topic", "unknown_topic"]


def test_a_client_that_unsubscribes_gets_nothing_more(feed: LiveFeed) -> None:
    client = joined(feed, member())
    feed.handle(client, Unsub("events"))
    feed.publish(event())
    assert seen(client) == []


def test_a_ping_is_answered_with_its_own_time(feed: LiveFeed) -> None:
    client = feed.connect(member(), lambda: None)
    feed.handle(client, Ping(12.5))
    assert seen(client, "pong") == [{"t": "pong", "at": 12.5}]


def test_a_client_that_asks_and_never_reads_is_ended(feed: LiveFeed) -> None:
    client = feed.connect(member(), lambda: None)
    for _ in range(50):
        feed.handle(client, Ping(1))
    assert client.close_code == CloseCode.TOO_SLOW


def test_a_revoked_session_ends_its_own_sockets_only(feed: LiveFeed) -> None:
    session = uuid4()
    mine, others = (
        feed.connect(member(session_id=session), lambda: None),
        feed.connect(member(), lambda: None),
    )
    assert feed.revoke(access_subject("session", session)) == 1
    assert (mine.close_code, others.close_code) == (CloseCode.ACCESS_CHANGED, None)


def test_a_changed_member_ends_its_sockets(feed: LiveFeed) -> None:
    actor = member()
    client = feed.connect(actor, lambda: None)
    feed.revoke(access_subject("member", UUID(actor.id)))
    assert client.close_code == CloseCode.ACCESS_CHANGED


def test_a_full_feed_turns_the_next_client_away(feed: LiveFeed, counts: Counts) -> None:
    clients = [feed.connect(member(), lambda: None) for _ in range(3)]
    with pytest.raises(FeedFull):
        feed.connect(member(), lambda: None)
    feed.disconnect(clients[0])
    feed.connect(member(), lambda: None)
    assert counts.open == feed.client_count == 3


def test_a_new_epoch_sends_everyone_away_and_turns_resumption_into_a_gap(feed: LiveFeed) -> None:
    actor = member()
    client = joined(feed, actor)
    feed.publish(event())
    feed.begin_epoch("e2")
    assert client.close_code == CloseCode.RENEW
    feed.disconnect(client)
    again = joined(feed, actor, resume=Resume("e1", 1))
    assert seen(again, "gap")[0]["epoch"] == "e2"


def test_a_stream_nobody_reads_is_forgotten_after_a_while(feed: LiveFeed, time: Time) -> None:
    actor = member()
    feed.disconnect(joined(feed, actor))
    time.now += STREAM_IDLE_S - 1
    feed.sweep()
    feed.publish(event())
    time.now += 2
    feed.sweep()
    (ready,) = seen(joined(feed, actor), "ready")
    assert ready["seq"] == 0


def test_closing_all_asks_every_socket_to_end(feed: LiveFeed) -> None:
    ended: list[str] = []
    client = feed.connect(member(), lambda: None)
    client.on_close = lambda: ended.append("closed")
    feed.close_all()
    assert (client.close_code, ended) == (CloseCode.GOING_AWAY, ["closed"])
