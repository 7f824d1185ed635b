"""The only place where ports meet adapters."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from kairos_contracts.audit import AuditContext
from kairos_contracts.permissions import Permission
from kairos_messaging import Bus, OutboxRelay, PublishFailed
from kairos_persistence import Database, DatabaseUnavailable, create_engine
from kairos_router.adapters.budget_client import BudgetClient
from kairos_router.adapters.buffer import Buffer
from kairos_router.adapters.circuit_events import CircuitEvents
from kairos_router.adapters.genai import Traced
from kairos_router.adapters.litellm_upstream import LiteLLMUpstream
from kairos_router.adapters.live_catalogue import LiveCatalogue
from kairos_router.adapters.local_embeddings import LocalEmbeddings
from kairos_router.adapters.minilm import MiniLM, weights_installed
from kairos_router.adapters.openai_upstream import OpenAIUpstream
from kairos_router.adapters.postgres_cache_policies import PostgresCachePolicies
from kairos_router.adapters.postgres_catalogue import PostgresCatalogue
from kairos_router.adapters.postgres_completions import PostgresCompletions
from kairos_router.adapters.postgres_decisions import PostgresDecisions
from kairos_router.adapters.postgres_quotas import PostgresQuotas
from kairos_router.adapters.redis_answers import RedisAnswers
from kairos_router.adapters.redis_quotas import RedisQuotas
from kairos_router.adapters.similar_questions import SimilarQuestions
from kairos_router.adapters.simulator import Simulator
from kairos_router.adapters.token_counter import Tiktoken
from kairos_router.adapters.toml_catalogue import load_file
from kairos_router.adapters.translated_responses import TranslatedResponses
from kairos_router.adapters.usage_journal import UsageJournal
from kairos_router.application.answer_completion import AnswerCompletion
from kairos_router.application.cache_policies import CachePolicies
from kairos_router.application.cache_ports import Kept
from kairos_router.application.catalogue_documents import Sealed
from kairos_router.application.catalogue_store import Surroundings, UnreadableSecret
from kairos_router.application.choose_deployment import Chooser, Circuits
from kairos_router.application.complete_chat import CompleteChat, Dispatcher
from kairos_router.application.guard_address import Reach
from kairos_router.application.hold_money import LeasePolicy, Wallet
from kairos_router.application.limit_requests import Quotas
from kairos_router.application.ports import Budgets, CatalogueUnknown, Provider
from kairos_router.application.quota_ports import QuotasUnknown
from kairos_router.application.stream_chat import StreamChat
from kairos_router.domain.ask import Ask, Caller
from kairos_router.domain.catalogue import ModelNotFound
from kairos_router.domain.decision import Decision
from kairos_router.domain.quota import Quota
from kairos_router.entrypoints import catalogue_events, consumers, management
from kairos_router.entrypoints.cache import add_cache
from kairos_router.entrypoints.cached_answers import CachedAnswers
from kairos_router.entrypoints.chat import CHAT, Chat
from kairos_router.entrypoints.completions import Completions
from kairos_router.entrypoints.credentials import Gate
from kairos_router.entrypoints.described import described
from kairos_router.entrypoints.embeddings import EMBEDDINGS, Embeddings
from kairos_router.entrypoints.kept_flows import usage_fields_of_hit
from kairos_router.entrypoints.management_decisions import add_decisions
from kairos_router.entrypoints.management_deployments import Catalogues, add_deployments
from kairos_router.entrypoints.management_prices import add_prices
from kairos_router.entrypoints.management_routes import add_routes
from kairos_router.entrypoints.models import MODEL, MODELS, Models
from kairos_router.entrypoints.openai_api import OpenAIApi
from kairos_router.entrypoints.operations import Operation
from kairos_router.entrypoints.quotas import add_quotas
from kairos_router.entrypoints.responses import RESPONSES, Responses
from kairos_router.entrypoints.worker import CompletionWorker
from kairos_router.settings import Settings, environment, quiet_litellm
from kairos_sealing import Sealer
from kairos_telemetry import metrics
from kairos_web import (
    Background,
    HealthCheck,
    OutboundSession,
    RateLimiter,
    RemoteAuthenticator,
    ServiceTokens,
    create_app,
)

SERVICE = "llm-router"
VERSION = "0.1.0"
DECISIONS_WAITING = 1_000
PURGE_EVERY_S = 600.0
AWAY_PAUSE_S = 0.5
# Where servers are whose addresses name no port.
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "amqp": 5672, "amqps": 5671, "redis": 6379}


class FrontDoor:
    """/v1 by `v1`, which HotProtocol calls; all else to FastAPI's application."""

    def __init__(self, app: FastAPI, v1: OpenAIApi) -> None:
        self.app = app
        self.v1 = v1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Router:
    """Everything of one process, wired. Nothing connects before `lifespan`."""

    def __init__(
        self,
        settings: Settings,
        *,
        authenticator: RemoteAuthenticator | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        self.settings = settings
        # A process that comes back under the same name must not be taken for the one that died.
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        engine = create_engine(settings.postgres_url.get_secret_value(), application_name=SERVICE)
        self.database = Database(engine, service=SERVICE)
        self.bus = Bus(settings.amqp_url.get_secret_value(), service=SERVICE)
        self.rate_limiter = RateLimiter(settings.redis_url.get_secret_value())
        self.session = OutboundSession(total_timeout=settings.budget_timeout_s)
        tokens = ServiceTokens(settings.auth_url, SERVICE, settings.service_secret, self.session)
        self.authenticator = authenticator or RemoteAuthenticator(
            settings.auth_url, tokens, self.session, cookie_secure=settings.cookie_secure
        )
        surroundings = Surroundings(environment(), settings.provider_key_names, sealer_of(settings))
        self.catalogue_store = PostgresCatalogue(self.database)
        self.catalogue = LiveCatalogue(
            load_file(settings.config_file, surroundings.environment),
            self.catalogue_store,
            surroundings,
            poll=settings.catalogue_poll_s,
        )
        policy = LeasePolicy(
            slice_nano_usd=settings.lease_slice_nano_usd,
            idle_after=settings.lease_idle_s,
            margin=settings.lease_margin_s,
            heartbeat=settings.lease_heartbeat_s,
        )
        authority = budgets or BudgetClient(settings.budget_url, self.holder, tokens, self.session)
        self.wallet = Wallet(authority, policy)
        self.circuit_events = CircuitEvents(self.bus, self.holder)
        self.circuits = Circuits(told=self.circuit_events.tell)
        self.catalogues = Catalogues(
            self.catalogue, self.catalogue_store, self.circuits, surroundings, reach_of(settings)
        )
        self.embedder = MiniLM()
        self.litellm = LiteLLMUpstream(quiet_litellm)
        self.providers: dict[str, Provider] = {
            "simulator": Traced(TranslatedResponses(Simulator())),
            "openai": Traced(TranslatedResponses(OpenAIUpstream(reach_of(settings)))),
            "local": Traced(LocalEmbeddings(self.embedder)),
            "litellm": Traced(TranslatedResponses(self.litellm)),
        }
        self.usage = UsageJournal(self.bus, capacity=settings.usage_buffer)
        self.decisions = PostgresDecisions(self.database)
        self.refusals: Buffer[Decision] = Buffer("decisions", self.decisions.record, DECISIONS_WAITING)
        self.store = PostgresCompletions(self.database, claim_ttl=settings.claim_ttl_s)
        self._limits(settings.redis_url.get_secret_value())
        self._use_cases()
        self.gate = Gate(self.authenticator, self.audit_denial)
        self.work = Background()
        self.upkeep = Background()
        consumers.register(self.bus, self.store, self.wallet, self.authenticator)
        catalogue_events.follow(self.bus, self.catalogue, self.circuits, self.holder)
        consumers.follow(self.bus, self.quotas, self.cache_policies, self.limits_stale.set)

    def _limits(self, redis_url: str) -> None:
        """Quotas, and the answers that are kept."""
        self.quota_store = PostgresQuotas(self.database)
        self.quota_counts = RedisQuotas(redis_url)
        self.quotas = Quotas(self.quota_counts, self.quota_store, self.holder, refused=quota_refused)
        self.cache_store = PostgresCachePolicies(self.database)
        self.cache_policies = CachePolicies(self.cache_store)
        self.kept_answers = RedisAnswers(redis_url)
        self.limits_stale = asyncio.Event()

    def _use_cases(self) -> None:
        chooser = Chooser(self.catalogue, self.wallet, self.circuits)
        dispatcher = Dispatcher(
            chooser, self.wallet, self.circuits, self.providers, counter=Tiktoken.installed()
        )
        complete = CompleteChat(dispatcher)
        self.completions = Completions(
            complete, StreamChat(dispatcher), self.usage, self.catalogue, self.record_refusal
        )
        self.answers = CachedAnswers(
            self.completions,
            self.cache_policies,
            self.kept_answers,
            SimilarQuestions(self.embedder, self.kept_answers),
            note=self.note_hit,
            describe=self.describe,
            resolve=self.fingerprint,
            holder=self.holder,
        )
        self.worker = CompletionWorker(
            self.store,
            AnswerCompletion(complete, self.store, quotas=self.quotas),
            label=self.completions.label,
            concurrency=self.settings.worker_concurrency,
            poll=self.settings.worker_poll_s,
            heartbeat=self.settings.claim_ttl_s / 3,
        )

    def note_hit(
        self, ask: Ask, caller: Caller, completion_id: UUID, kept: Kept, kind: str, seconds: float
    ) -> None:
        """Report an answer from the cache as usage that costs nothing."""
        fields = usage_fields_of_hit(ask, caller, completion_id, kept, kind, seconds)
        self.usage.note_if_room(caller.scope.organisation_id, {**fields, "started_at": datetime.now(UTC)})

    def describe(self, organisation_id: UUID, deployment: str) -> tuple[str, str, str]:
        found = self.catalogue.current(organisation_id).deployments.get(deployment)
        return (
            (found.model, found.provider, found.price.version) if found else (deployment, "unknown", "none")
        )

    def fingerprint(self, organisation_id: UUID, model: str) -> str | None:
        try:
            return self.catalogue.current(organisation_id).choice(model).fingerprint
        except ModelNotFound:
            return None

    def record_refusal(self, decision: Decision) -> None:
        # A refusal costs the caller nothing; when the database is away for long, the reasons are lost first.
        if not self.refusals.full:
            self.refusals.add(decision)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        start = self.upkeep.start
        start("bus", self._join)
        start("outbox-relay", OutboxRelay(self.database, self.bus).run)
        start("catalogue", self.catalogue.keep)
        start("circuits", self.circuit_events.run)
        start("partitions", self.database.keep_partitions)
        start("leases", self.wallet.keep)
        start("claims", self.worker.renew_forever)
        start("decisions", self.refusals.run)
        start("retention", self._purge_forever)
        start("quotas", self.quotas.keep)
        start("limits", self._read_limits_forever)
        for number in range(self.settings.usage_publishers):
            start(f"usage-{number}", self.usage.buffer.run)
        self.work.start("completions", self.worker.claim_forever)
        if any(each.kind == "litellm" for each in self.catalogue.current().deployments.values()):
            # Its import takes seconds, which no request should wait for.
            await self.litellm.warm()
        try:
            yield
        finally:
            await self._stop(self.settings.shutdown_grace_s / 2)

    async def _stop(self, grace: float) -> None:
        """Finish what has begun, report it, give the money back; then let go of the servers."""
        await self.work.stop()
        await self.worker.drain(grace)
        left = await self.usage.flush(grace / 2)
        await self.refusals.flush(1.0)
        if not left:
            # What is settled but unreported must not be called final: the leases' expiry finds it.
            await self.wallet.close()
        await self.upkeep.stop()
        await self.quotas.close()
        await self.bus.stop(grace / 2)
        for provider in self.providers.values():
            await provider.close()
        self.embedder.close()
        await self.session.close()
        await self.rate_limiter.close()
        await self.quota_counts.close()
        await self.kept_answers.close()
        await self.database.dispose()

    async def _join(self) -> None:
        """What was changed between the first reading and the first event that can come is read now."""
        await self.bus.start()
        self.limits_stale.set()
        self.catalogue.changed()

    async def _read_limits_forever(self) -> None:
        """Quotas and cache policies: once at the start, and again for changes whose event was lost."""
        while True:
            self.limits_stale.clear()
            try:
                await self.quotas.read()
                await self.cache_policies.read()
            except (DatabaseUnavailable, QuotasUnknown) as error:
                if DatabaseUnavailable not in {type(error), type(error.__cause__)}:
                    raise
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.limits_poll_s):
                    await self.limits_stale.wait()

    async def _purge_forever(self) -> None:
        while True:
            with suppress(DatabaseUnavailable):
                await self.store.purge(self.settings.keep_completions_days)
            await asyncio.sleep(PURGE_EVERY_S)

    async def audit_denial(
        self, context: AuditContext, permission: str, path: str, organisation_id: UUID | None
    ) -> None:
        async with self.database.unit_of_work(organisation_id) as unit:
            unit.emit(context.entry("access.denied", path, outcome="denied", reason=permission))


def sealer_of(settings: Settings) -> Sealer[Sealed] | None:
    """Opens and closes what organisations keep here; None without a data key."""
    if settings.data_key is None:
        return None
    previous = [key.get_secret_value() for key in settings.previous_data_keys]
    current = settings.data_key.get_secret_value()
    return Sealer(current, previous, kept_as=Sealed, unreadable=UnreadableSecret)


def reach_of(settings: Settings) -> Reach:
    """How far deployments of organisations reach; never to the servers these settings name."""
    secret = (settings.postgres_url, settings.amqp_url, settings.redis_url)
    urls = [settings.auth_url, settings.budget_url, *(each.get_secret_value() for each in secret)]
    own = {(socket.gethostname().lower(), settings.port), ("127.0.0.1", settings.port)}
    for url in [*urls, *([settings.otlp_endpoint] if settings.otlp_endpoint else [])]:
        parts = urlsplit(url)
        if parts.hostname:
            own.add((parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)))
    return Reach(settings.private_providers, settings.provider_networks, frozenset(own))


def build_app(router: Router) -> FrontDoor:
    """The application over a wired router; `build_app(Router(settings))` is the whole service."""
    app = create_app(
        SERVICE,
        title="Kairos llm-router",
        version=VERSION,
        lifespan=router.lifespan,
        authenticator=router.authenticator,
        checks=[
            # /v1 needs neither of the servers: a router without them is degraded and stays in service.
            HealthCheck("postgres", router.database.ping, required=False),
            # These are missing only until PostgreSQL has been read once; nobody is served before.
            HealthCheck("catalogue", router.catalogue.check),
            HealthCheck("quotas", router.quotas.check),
            HealthCheck("rabbitmq", router.bus.check, required=False),
            HealthCheck("work", router.work.check, required=False),
            HealthCheck("upkeep", router.upkeep.check, required=False),
        ],
        audit_denial=router.audit_denial,
        unavailable=(DatabaseUnavailable, PublishFailed, CatalogueUnknown),
        rate_limiter=router.rate_limiter,
        max_body=router.settings.max_body,
    )
    app.state.parts = router
    add_deployments(app, router.catalogues)
    add_routes(app, router.catalogues)
    add_prices(app, router.catalogues)
    add_decisions(app, router.decisions)
    management.add_money(app, router.wallet, router.holder, time.monotonic)
    add_quotas(app, router.quota_store, router.quotas)
    add_cache(app, router.cache_store, router.cache_policies, semantic=weights_installed())
    offered = operations(router)
    app.state.more_paths = described(offered)
    api = OpenAIApi(
        router.gate,
        offered,
        router.completions.refusal,
        service=SERVICE,
        max_body=router.settings.max_body,
        admission=router.quotas,
        trace_ratio=router.settings.trace_ratio,
    )
    return FrontDoor(app, api)


def quota_refused(quota: Quota) -> None:
    metrics.counter("kairos_quota_refused_total").labels(
        scope=quota.scope.value, metric=quota.metric.value
    ).inc()


def operations(router: Router) -> tuple[Operation, ...]:
    """What /v1 offers."""
    models = Models(router.completions)
    create, read = Permission.COMPLETIONS_CREATE, Permission.MODELS_READ
    return (
        Operation("POST", CHAT, create, Chat(router.answers), "chat"),
        Operation("POST", RESPONSES, create, Responses(router.answers), "responses"),
        Operation("POST", EMBEDDINGS, create, Embeddings(router.answers), "embeddings"),
        Operation("GET", MODELS, read, models.all),
        Operation("GET", MODEL, read, models.one),
    )
