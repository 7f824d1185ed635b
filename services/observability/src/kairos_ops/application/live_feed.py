"""The live feed of one replica: topics, subscribers and fan-out.

Every replica gets every event on its own transient queue, so a client may be connected to any of them.
All methods run on the event loop and never wait: a slow client only fills its own mailbox.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from kairos_contracts.permissions import Actor, Permission, Role, authorize
from kairos_ops.application.ports import FeedObserver
from kairos_ops.domain.event import FeedEvent
from kairos_ops.domain.feed import Audience, TopicLog, TypeFilter, audiences_of, encode
from kairos_ops.domain.health import ServiceState
from kairos_ops.domain.mailbox import Mailbox
from kairos_ops.domain.protocol import PROTOCOL, ClientFrame, CloseCode, Ping, Sub, Topic, Unsub

# A stream nobody listens to is kept this long, so that a client that reconnects can resume.
STREAM_IDLE_S = 600.0
TOPIC_PERMISSIONS = {Topic.EVENTS: Permission.EVENTS_READ, Topic.SERVICES: Permission.HEALTH_READ}


class FeedFull(Exception):  # noqa: N818 - reads as the fact it states
    """The replica serves as many clients as it may; the caller tries again or polls."""


def audience_of(actor: Actor) -> Audience | None:
    """The stream the actor may see; None for an actor that belongs to no organisation."""
    if actor.organisation_id is None:
        return None
    return Audience(actor.organisation_id, installation=actor.role is Role.ADMIN)


def subjects_of(actor: Actor) -> tuple[str, ...]:
    """The subjects whose access change ends what the actor holds."""
    session = (f"session:{actor.session_id}",) if actor.session_id else ()
    return (f"{actor.kind}:{actor.id}", *session)


@dataclass(eq=False)
class Client:
    """One socket. `wake` tells its sender that the mailbox has something, `on_close` that it must end."""

    actor: Actor
    mailbox: Mailbox
    wake: Callable[[], None]
    filters: dict[Topic, TypeFilter] = field(default_factory=dict)
    close_code: int | None = None
    on_close: Callable[[], None] = lambda: None

    def close(self, code: int) -> None:
        """Ask for the end of the socket; the first reason stays."""
        self.close_code = self.close_code or code
        self.on_close()


@dataclass(eq=False)
class _Stream:
    log: TopicLog
    clients: set[Client] = field(default_factory=set)
    idle_since: float = 0.0


class LiveFeed:
    """`epoch` names this replica's life: sequence numbers of another one mean nothing here."""

    def __init__(
        self,
        *,
        epoch: str,
        observer: FeedObserver,
        monotonic: Callable[[], float],
        ring: int = 2_000,
        mailbox: int = 512,
        max_clients: int = 5_000,
    ) -> None:
        self.epoch = epoch
        self._observer = observer
        self._monotonic = monotonic
        self._ring = ring
        self._mailbox = mailbox
        self._max_clients = max_clients
        self._clients: set[Client] = set()
        self._streams: dict[Audience, _Stream] = {}
        self._services: dict[str, dict[str, Any]] = {}
        self._services_seq = 0

    def connect(self, actor: Actor, wake: Callable[[], None]) -> Client:
        """Admit a client and greet it. Raises FeedFull."""
        if len(self._clients) >= self._max_clients:
            raise FeedFull
        client = Client(actor, Mailbox(self._mailbox), wake)
        self._clients.add(client)
        self._observer.connections(len(self._clients))
        client.mailbox.put({"t": "hello", "protocol": PROTOCOL, "topics": [str(topic) for topic in Topic]})
        wake()
        return client

    def disconnect(self, client: Client) -> None:
        self._clients.discard(client)
        self._leave(client, Topic.EVENTS)
        self._observer.connections(len(self._clients))

    def handle(self, client: Client, frame: ClientFrame) -> None:
        match frame:
            case Ping(at):
                client.mailbox.put({"t": "pong", "at": at})
            case Unsub(topic):
                self._unsubscribe(client, topic)
            case Sub():
                self._subscribe(client, frame)
        if client.mailbox.flooded:
            client.close(CloseCode.TOO_SLOW)
        client.wake()

    def publish(self, event: FeedEvent) -> None:
        """Hand an event to everyone who may see it and asked for its type."""
        streams = [self._streams[audience] for audience in audiences_of(event, tuple(self._streams))]
        if not streams:
            return
        event_json = encode(event.as_json())
        pushed = 0
        for stream in streams:
            entry = stream.log.append(event.type, event_json)
            for client in stream.clients:
                if client.filters[Topic.EVENTS].admits(event.type):
                    pushed += client.mailbox.put_entry(Topic.EVENTS, self.epoch, entry)
                    client.wake()
        self._observer.published(pushed)

    def update_services(self, states: Iterable[ServiceState]) -> None:
        """The newest state of each service; subscribers get what changed, coalesced."""
        changes = {state.service: state.as_json() for state in states}
        self._services |= changes
        self._services_seq += 1
        for client in self._clients:
            if Topic.SERVICES in client.filters:
                client.mailbox.put_state(Topic.SERVICES, self.epoch, self._services_seq, changes)
                client.wake()

    def revoke(self, subject: str) -> int:
        """End every socket that stands on `subject` (`session:<id>`, `member:<id>`, `api_key:<id>`)."""
        ended = [client for client in self._clients if subject in subjects_of(client.actor)]
        for client in ended:
            client.close(CloseCode.ACCESS_CHANGED)
        return len(ended)

    def close_all(self, code: int = CloseCode.GOING_AWAY) -> None:
        """The replica goes away: clients reconnect to another one."""
        for client in tuple(self._clients):
            client.close(code)

    def begin_epoch(self, epoch: str) -> None:
        """Events may have been missed: forget every sequence and have every client come back.

        They resume with the old epoch, are told `gap` and refetch; and they are authenticated anew,
        because an access change may be among what was missed.
        """
        self.epoch = epoch
        self._streams.clear()
        self.close_all(CloseCode.RENEW)

    def sweep(self) -> None:
        """Forget streams nobody has listened to for a while."""
        now = self._monotonic()
        for audience, stream in tuple(self._streams.items()):
            if not stream.clients and now - stream.idle_since > STREAM_IDLE_S:
                del self._streams[audience]

    @property
    def client_count(self) -> int:
        return len(self._clients)

    def _subscribe(self, client: Client, frame: Sub) -> None:
        try:
            topic = Topic(frame.topic)
        except ValueError:
            client.mailbox.put({"t": "drop", "topic": frame.topic, "reason": "unknown_topic"})
            return
        if not authorize(client.actor, TOPIC_PERMISSIONS[topic]):
            client.mailbox.put({"t": "drop", "topic": topic, "reason": "denied"})
            return
        if topic is Topic.SERVICES:
            self._subscribe_services(client)
        else:
            self._subscribe_events(client, frame)

    def _subscribe_services(self, client: Client) -> None:
        client.filters[Topic.SERVICES] = TypeFilter()
        head = {"topic": Topic.SERVICES, "epoch": self.epoch, "seq": self._services_seq}
        client.mailbox.put({"t": "snap", **head, "state": self._services})
        client.mailbox.put({"t": "ready", **head})

    def _subscribe_events(self, client: Client, frame: Sub) -> None:
        audience = audience_of(client.actor)
        if audience is None:
            client.mailbox.put({"t": "drop", "topic": Topic.EVENTS, "reason": "denied"})
            return
        wanted = TypeFilter(frame.types)
        stream = self._streams.setdefault(audience, self._new_stream())
        backlog = stream.log.backlog(frame.resume)
        head = {"topic": Topic.EVENTS, "epoch": self.epoch, "seq": stream.log.head}
        if backlog.lost:
            client.mailbox.put({"t": "gap", **head, "reason": backlog.lost})
        client.mailbox.put({"t": "snap", **head, "items": len(backlog.entries)})
        for entry in backlog.entries:
            if wanted.admits(entry.type):
                client.mailbox.put_entry(Topic.EVENTS, self.epoch, entry)
        client.mailbox.put({"t": "ready", **head})
        client.filters[Topic.EVENTS] = wanted
        stream.clients.add(client)

    def _unsubscribe(self, client: Client, topic_name: str) -> None:
        try:
            topic = Topic(topic_name)
        except ValueError:
            client.mailbox.put({"t": "drop", "topic": topic_name, "reason": "unknown_topic"})
            return
        self._leave(client, topic)
        client.mailbox.forget_topic(topic)
        client.mailbox.put({"t": "drop", "topic": topic, "reason": "unsubscribed"})

    def _leave(self, client: Client, topic: Topic) -> None:
        client.filters.pop(topic, None)
        if topic is not Topic.EVENTS:
            return
        for stream in self._streams.values():
            if client in stream.clients:
                stream.clients.discard(client)
                stream.idle_since = self._monotonic()

    def _new_stream(self) -> _Stream:
        return _Stream(TopicLog(Topic.EVENTS, self.epoch, self._ring), idle_since=self._monotonic())


def access_subject(kind: str, subject_id: UUID) -> str:
    """The subject of an access change, as `subjects_of` names it."""
    return f"{kind}:{subject_id}"
