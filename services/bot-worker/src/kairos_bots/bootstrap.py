"""The only place where ports meet adapters."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from fastapi import FastAPI

from kairos_bots.adapters.governor import Pace, Paces, RedisGovernor
from kairos_bots.adapters.postgres import PostgresWorks
from kairos_bots.adapters.registry import MemoryRegistry
from kairos_bots.adapters.telegram import AiogramParser, AiogramTelegram
from kairos_bots.adapters.wakes import ProcessWakeUps
from kairos_bots.adapters.web_sessions import HmacSessionSigner
from kairos_bots.application.open_turn import OpeningRules
from kairos_bots.application.reply_hub import ReplyHub
from kairos_bots.domain.bot import Sealed
from kairos_bots.domain.errors import UnreadableSecretError
from kairos_bots.domain.turn import QuietWindow
from kairos_bots.entrypoints.bot_worker import BotApplier, follow_registry
from kairos_bots.entrypoints.bots import BotApi, bots_router
from kairos_bots.entrypoints.consumers import FOLLOWED, FollowEvents, ReceiveMessages, RecordCompletions
from kairos_bots.entrypoints.conversations import conversations_router
from kairos_bots.entrypoints.poller import Pollers
from kairos_bots.entrypoints.sender import Sender
from kairos_bots.entrypoints.telegram_webhook import webhook_router
from kairos_bots.entrypoints.turn_worker import TurnWorker
from kairos_bots.entrypoints.web_chat import WebChat, web_chat_router
from kairos_bots.settings import Settings
from kairos_contracts.audit import AuditContext
from kairos_messaging import Bus, OutboxRelay, PublishFailed
from kairos_persistence import Database, DatabaseUnavailable, create_engine
from kairos_sealing import Sealer, derived_key
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

SERVICE = "bot-worker"
VERSION = "0.1.0"
MAX_BODY = 262_144
"""A Telegram update is a few kilobytes; the largest body of ours is a system prompt."""


def _now() -> datetime:
    return datetime.now(UTC)


def _paces(settings: Settings) -> Paces:
    second = timedelta(seconds=1)
    return Paces(
        chat=Pace(second / settings.telegram_chat_per_s, settings.telegram_chat_burst),
        group=Pace(60 * second / settings.telegram_group_per_min, settings.telegram_chat_burst),
        bot=Pace(second / settings.telegram_bot_per_s, max(1, round(settings.telegram_bot_per_s))),
    )


class BotWorker:
    """Everything of one process, wired. Nothing connects before `lifespan`."""

    def __init__(self, settings: Settings, *, authenticator: Authenticator | None = None) -> None:
        self.settings = settings
        engine = create_engine(
            settings.postgres_url.get_secret_value(),
            application_name=SERVICE,
            pool_size=settings.database_pool,
        )
        self.database = Database(engine, service=SERVICE)
        self.works = PostgresWorks(self.database)
        self.bus = Bus(settings.amqp_url.get_secret_value(), service=SERVICE)
        self.wakes = ProcessWakeUps()
        data_key = settings.data_key.get_secret_value()
        previous = [key.get_secret_value() for key in settings.previous_data_keys]
        self.cipher = Sealer(data_key, previous, kept_as=Sealed, unreadable=UnreadableSecretError)
        self.signer = HmacSessionSigner(derived_key(data_key, "web chat sessions"))
        self.registry = MemoryRegistry(self.works, self.cipher, poll=settings.registry_poll_s)
        self.wakes.bot_listeners.append(self.registry.changed)
        self.telegram = AiogramTelegram(
            settings.telegram_api_base, send_timeout=settings.telegram_send_timeout_s
        )
        redis_url = settings.redis_url.get_secret_value()
        self.governor = RedisGovernor(redis_url, _paces(settings))
        self.rate_limiter = RateLimiter(redis_url)
        self.hub = ReplyHub()
        self.session = OutboundSession()
        tokens = ServiceTokens(settings.auth_url, SERVICE, settings.service_secret, self.session)
        self.remote = RemoteAuthenticator(
            settings.auth_url, tokens, self.session, cookie_secure=settings.cookie_secure
        )
        self.authenticator = authenticator or self.remote
        self.background = Background()
        self.turns = self._turn_worker()
        self.sender = self._sender()
        self.pollers = self._pollers()
        self._consume()

    def _turn_worker(self) -> TurnWorker:
        return TurnWorker(
            works=self.works,
            rules=OpeningRules(patience=timedelta(seconds=self.settings.turn_deadline_s)),
            wakes=self.wakes,
            wake=self.wakes.turns,
            poll=self.settings.poll_s,
            width=self.settings.turn_workers,
        )

    def _sender(self) -> Sender:
        return Sender(
            works=self.works,
            telegram=self.telegram,
            governor=self.governor,
            cipher=self.cipher,
            wakes=self.wakes,
            wake=self.wakes.replies,
            poll=self.settings.poll_s,
            slots=self.settings.senders,
            lease=timedelta(seconds=self.settings.claim_s),
        )

    def _pollers(self) -> Pollers:
        return Pollers(
            works=self.works,
            telegram=self.telegram,
            publisher=self.bus,
            bots=self.registry,
            holder=secrets.token_hex(8),
            lease=timedelta(seconds=self.settings.claim_s),
            wait=timedelta(seconds=self.settings.telegram_poll_s),
        )

    def _consume(self) -> None:
        window = QuietWindow(
            pause=timedelta(milliseconds=self.settings.quiet_window_ms),
            longest=timedelta(milliseconds=self.settings.quiet_window_longest_ms),
        )
        received = ReceiveMessages(self.works, window, self.wakes)
        self.bus.consume("bot-worker.messages", received, ordered=True)
        self.bus.consume("bot-worker.completions", RecordCompletions(self.works, self.wakes))
        follow = FollowEvents(self.hub, self.registry.changed, self.remote.forget)
        self.bus.on_replica(FOLLOWED, follow)
        self.bus.on_gap(self.remote.forget_all)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        start = self.background.start
        applier = BotApplier(
            works=self.works,
            telegram=self.telegram,
            cipher=self.cipher,
            wakes=self.wakes,
            wake=self.wakes.bots,
            public_url=self.settings.public_url,
        )
        start("bus", self.bus.start)
        start("registry", partial(follow_registry, self.registry))
        start("outbox-relay", OutboxRelay(self.database, self.bus).run)
        start("turns", self.turns.run)
        start("overdue-turns", self.turns.sweep)
        start("turn-gauge", self.turns.measure)
        start("sender", self.sender.run)
        start("sender-claims", self.sender.keep_claims)
        start("bots", applier.run)
        start("pollers", self.pollers.run)
        start("partitions", self.database.keep_partitions)
        try:
            yield
        finally:
            self.hub.close_all()
            await self.bus.stop(self.settings.shutdown_grace_s / 2)
            await self.background.stop()
            await self.telegram.close()
            await self.session.close()
            await self.governor.close()
            await self.rate_limiter.close()
            await self.database.dispose()

    async def audit_denial(
        self, context: AuditContext, permission: str, path: str, organisation_id: UUID | None
    ) -> None:
        async with self.database.unit_of_work(organisation_id) as unit:
            unit.emit(context.entry("access.denied", path, outcome="denied", reason=permission))

    def checks(self) -> list[HealthCheck]:
        """PostgreSQL is not required: without it ingress still takes messages, and must stay reachable."""
        return [
            HealthCheck("rabbitmq", self.bus.check),
            HealthCheck("registry", self.registry.check),
            HealthCheck("postgres", self.database.ping, required=False),
            HealthCheck("redis", self.governor.ping, required=False),
            HealthCheck("background", self.background.check, required=False),
        ]


def build_app(settings: Settings, *, authenticator: Authenticator | None = None) -> FastAPI:
    """The application; tests hand in settings of their own servers and an authenticator."""
    parts = BotWorker(settings, authenticator=authenticator)
    app = create_app(
        SERVICE,
        title="Kairos bot-worker",
        version=VERSION,
        lifespan=parts.lifespan,
        authenticator=parts.authenticator,
        checks=parts.checks(),
        audit_denial=parts.audit_denial,
        max_body=MAX_BODY,
        unavailable=(DatabaseUnavailable, PublishFailed),
        rate_limiter=parts.rate_limiter,
    )
    app.state.parts = parts
    api = BotApi(
        works=parts.works,
        cipher=parts.cipher,
        wakes=parts.wakes,
        webhook_by_default=settings.public_url is not None,
    )
    chat = WebChat(
        works=parts.works,
        registry=parts.registry,
        publisher=parts.bus,
        signer=parts.signer,
        hub=parts.hub,
        limiter=parts.rate_limiter,
        now=_now,
        sessions_per_min=settings.web_sessions_per_min,
        messages_per_min=settings.web_messages_per_min,
    )
    app.include_router(webhook_router(parts.registry, AiogramParser(), parts.bus))
    app.include_router(web_chat_router(chat))
    app.include_router(bots_router(api))
    app.include_router(conversations_router(parts.works))
    return app
