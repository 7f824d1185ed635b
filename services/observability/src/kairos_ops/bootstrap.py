"""The only place where ports meet adapters."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from uuid import UUID

from fastapi import FastAPI
from redis.asyncio import Redis

from kairos_contracts.audit import AuditContext
from kairos_contracts.message import Event
from kairos_contracts.registry import MESSAGES
from kairos_messaging import Bus, OutboxRelay, PublishFailed
from kairos_ops.adapters.dead_letter_store import PostgresDeadLetterStore
from kairos_ops.adapters.event_store import PostgresEventStore
from kairos_ops.adapters.health_board import PostgresHealthBoard
from kairos_ops.adapters.observer import FeedMetrics
from kairos_ops.adapters.prober import HttpProber
from kairos_ops.adapters.replayer import BusReplayer
from kairos_ops.adapters.tickets import RedisTicketStore, TicketsUnavailable
from kairos_ops.application.issue_ticket import Tickets
from kairos_ops.application.keep_dead_letter import KeepDeadLetter
from kairos_ops.application.live_feed import LiveFeed
from kairos_ops.application.replay_dead_letter import ReplayDeadLetter
from kairos_ops.application.watch_services import WatchServices
from kairos_ops.domain.ticket import Revocations
from kairos_ops.entrypoints import http, socket, tasks
from kairos_ops.entrypoints.consumers import KeepDeadLetters, ShowEvents, StoreEvents
from kairos_ops.settings import Settings
from kairos_persistence import Database, DatabaseUnavailable, create_engine
from kairos_telemetry import redact
from kairos_web import (
    Authenticator,
    Background,
    HealthCheck,
    OutboundSession,
    RateLimiter,
    RemoteAuthenticator,
    ServiceTokens,
    create_app,
)

SERVICE = "observability"
VERSION = "0.1.0"
STORE_CONCURRENCY = 64


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return secrets.token_hex(8)


class Observability:
    """Everything of one process, wired. Nothing connects before `lifespan`."""

    def __init__(self, settings: Settings, *, authenticator: Authenticator | None = None) -> None:
        self.settings = settings
        engine = create_engine(settings.postgres_url.get_secret_value(), application_name=SERVICE)
        self.database = Database(engine, service=SERVICE)
        self.bus = Bus(settings.amqp_url.get_secret_value(), service=SERVICE, prefetch=2 * STORE_CONCURRENCY)
        self.redis = Redis.from_url(
            settings.redis_url.get_secret_value(), socket_timeout=1.0, socket_connect_timeout=1.0
        )
        self.session = OutboundSession()
        tokens = ServiceTokens(settings.auth_url, SERVICE, settings.service_secret, self.session)
        self.remote = RemoteAuthenticator(
            settings.auth_url, tokens, self.session, cookie_secure=settings.cookie_secure
        )
        self.authenticator = authenticator or self.remote
        self.events = PostgresEventStore(self.database)
        self.dead_letters = PostgresDeadLetterStore(self.database)
        self.feed = LiveFeed(
            epoch=_new_id(), observer=FeedMetrics(), monotonic=monotonic, max_clients=settings.max_sockets
        )
        self.tickets = Tickets(RedisTicketStore(self.redis), _now, Revocations({}))
        self.watch = WatchServices(
            tuple(settings.targets),
            HttpProber(settings.targets, self.session),
            self.feed,
            PostgresHealthBoard(self.database, holder=_new_id()),
            _now,
        )
        self.replay = ReplayDeadLetter(self.dead_letters, BusReplayer(self.bus), _now)
        self.rate_limiter = RateLimiter(settings.redis_url.get_secret_value())
        self.background = Background()
        self._consume()

    def _consume(self) -> None:
        self.bus.consume("observability.events", StoreEvents(self.events), concurrency=STORE_CONCURRENCY)
        keep = KeepDeadLetter(self.dead_letters, _now, redact)
        self.bus.consume_raw("observability.dead-letters", KeepDeadLetters(keep))
        every_event = [model for model in MESSAGES.values() if issubclass(model, Event)]
        self.bus.on_replica(every_event, ShowEvents(self.feed, self.tickets, self.remote))
        tasks.follow_link(self.bus, self.feed, self.remote, _new_id)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        start = self.background.start
        start("event-store", self.events.run)
        start("bus", self.bus.start)
        start("outbox-relay", OutboxRelay(self.database, self.bus).run)
        start("services", partial(tasks.watch_services, self.watch, self.settings.look_every_s))
        start("streams", partial(tasks.sweep_streams, self.feed))
        start("partitions", self.database.keep_partitions)
        try:
            yield
        finally:
            self.feed.close_all()
            await self.bus.stop(self.settings.shutdown_grace_s / 2)
            await self.background.stop()
            await self.session.close()
            await self.rate_limiter.close()
            await self.redis.aclose()
            await self.database.dispose()

    async def audit_denial(
        self, context: AuditContext, permission: str, path: str, organisation_id: UUID | None
    ) -> None:
        async with self.database.unit_of_work(organisation_id) as unit:
            unit.emit(context.entry("access.denied", path, outcome="denied", reason=permission))

    async def ping_redis(self) -> None:
        await self.redis.execute_command("PING")  # type: ignore[no-untyped-call]  # redis leaves it untyped


def build_app(settings: Settings, *, authenticator: Authenticator | None = None) -> FastAPI:
    """The application; tests hand in settings of their own servers and an authenticator."""
    parts = Observability(settings, authenticator=authenticator)
    app = create_app(
        SERVICE,
        title="Kairos observability",
        version=VERSION,
        lifespan=parts.lifespan,
        authenticator=parts.authenticator,
        checks=[
            HealthCheck("postgres", parts.database.ping),
            HealthCheck("rabbitmq", parts.bus.check),
            HealthCheck("redis", parts.ping_redis, required=False),
            HealthCheck("background", parts.background.check, required=False),
        ],
        audit_denial=parts.audit_denial,
        unavailable=(DatabaseUnavailable, PublishFailed, TicketsUnavailable),
        rate_limiter=parts.rate_limiter,
    )
    app.state.parts = parts
    http.add_tickets(app, parts.tickets)
    http.add_events(app, parts.events)
    http.add_services(app, parts.watch)
    http.add_dead_letters(app, parts.dead_letters, parts.replay)
    rules = socket.SocketRules(settings.allowed_origins, settings.socket_life)
    socket.add_live_feed(app, parts.feed, parts.tickets, rules)
    return app
