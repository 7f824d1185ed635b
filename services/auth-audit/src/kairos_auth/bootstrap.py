"""The only place where ports meet adapters. Tests call it too."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import FastAPI

from kairos_auth.adapters.anchor_file import AnchorFile
from kairos_auth.adapters.hashing import Argon2Hasher
from kairos_auth.adapters.key_ring import KeyRing, check_signature
from kairos_auth.adapters.transactions import PostgresTransactions
from kairos_auth.application.audit_denial import AuditDenial
from kairos_auth.application.bootstrap_organisation import BootstrapOrganisation
from kairos_auth.application.chain_entry import CONSUMER, ChainEntry
from kairos_auth.application.describe_caller import DescribeCaller
from kairos_auth.application.end_session import EndSession
from kairos_auth.application.introspect import Introspect
from kairos_auth.application.issue_service_token import IssueServiceToken
from kairos_auth.application.manage_api_keys import CreateApiKey, ListApiKeys, RevokeApiKey
from kairos_auth.application.manage_members import (
    AddMember,
    ChangePassword,
    ChangeRole,
    ListMembers,
    RemoveMember,
)
from kairos_auth.application.manage_projects import CreateProject, ListProjects
from kairos_auth.application.manage_teams import CreateTeam, ListTeams
from kairos_auth.application.ports import Clock, PasswordHasher
from kairos_auth.application.read_audit import ExportEntries, ListCheckpoints, ListEntries, VerifyEntries
from kairos_auth.application.sign_in import SignIn
from kairos_auth.application.write_checkpoints import WriteCheckpoints
from kairos_auth.domain.fingerprints import Fingerprints
from kairos_auth.entrypoints import failures
from kairos_auth.entrypoints.api_keys import api_key_routes
from kairos_auth.entrypoints.audit import audit_routes
from kairos_auth.entrypoints.authentication import LocalAuthenticator
from kairos_auth.entrypoints.consumers import Checkpointer, EntryConsumer
from kairos_auth.entrypoints.internal import internal_routes
from kairos_auth.entrypoints.members import member_routes, project_routes
from kairos_auth.entrypoints.sessions import session_routes, sign_in_routes
from kairos_auth.entrypoints.teams import team_routes
from kairos_auth.settings import Settings
from kairos_messaging import Bus, OutboxRelay, PublishFailed
from kairos_persistence import Database, DatabaseUnavailable, create_engine
from kairos_web import Background, HealthCheck, RateLimiter, create_app

SERVICE = "auth-audit"
VERSION = "0.1.0"


def wall_clock() -> datetime:
    return datetime.now(UTC)


def key_ring(settings: Settings) -> KeyRing:
    others = [
        key.get_secret_value()
        for key in (settings.next_signing_key, settings.previous_signing_key)
        if key is not None
    ]
    return KeyRing(settings.signing_key.get_secret_value(), others=others)


@dataclass(frozen=True)
class Service:
    """Everything one process holds; `app`'s lifespan starts and stops it."""

    app: FastAPI
    database: Database
    bus: Bus
    keys: KeyRing
    checkpointer: Checkpointer


@dataclass(frozen=True)
class _Core:
    """What most use cases are made of."""

    transactions: PostgresTransactions
    hasher: PasswordHasher
    fingerprints: Fingerprints
    keys: KeyRing
    anchor: AnchorFile
    clock: Clock


def build(settings: Settings, *, clock: Clock = wall_clock, hasher: PasswordHasher | None = None) -> Service:
    engine = create_engine(settings.postgres_url.get_secret_value(), application_name=SERVICE)
    database = Database(engine, service=SERVICE)
    bus = Bus(settings.amqp_url.get_secret_value(), service=SERVICE)
    core = _Core(
        transactions=PostgresTransactions(database),
        hasher=hasher or Argon2Hasher(at_once=settings.hashes_at_once),
        fingerprints=Fingerprints(settings.key_pepper.get_secret_value().encode()),
        keys=key_ring(settings),
        anchor=AnchorFile(settings.anchor_file),
        clock=clock,
    )
    checkpointer = Checkpointer(
        WriteCheckpoints(core.transactions, core.keys, core.anchor, clock),
        seconds=settings.checkpoint_seconds,
        entries=settings.checkpoint_entries,
    )
    consumer = EntryConsumer(ChainEntry(core.transactions, clock), checkpointer)
    bus.consume(CONSUMER, consumer.handle)
    app = _application(settings, core, database, bus, checkpointer)
    return Service(app, database, bus, core.keys, checkpointer)


def _application(
    settings: Settings, core: _Core, database: Database, bus: Bus, checkpointer: Checkpointer
) -> FastAPI:
    background = Background()
    limiter = RateLimiter(settings.redis_url.get_secret_value())
    introspect = Introspect(core.transactions, core.fingerprints, core.clock)

    async def start_messaging() -> None:
        await bus.start()
        # Before the topology is declared a message would come back unroutable.
        background.start("outbox relay", OutboxRelay(database, bus).run)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Signing in does not need the broker, so starting does not wait for it.
        background.start("bus", start_messaging)
        background.start("checkpoints", checkpointer.run)
        background.start("partitions", database.keep_partitions)
        yield
        await background.stop()
        await bus.stop()
        await limiter.close()
        await database.dispose()

    app = create_app(
        SERVICE,
        title="Kairos auth-audit",
        version=VERSION,
        lifespan=lifespan,
        authenticator=LocalAuthenticator(
            introspect,
            core.keys.verifier(SERVICE),
            core.keys.public,
            cookie_secure=settings.cookie_secure,
        ),
        checks=[
            HealthCheck("postgresql", database.ping),
            HealthCheck("rabbitmq", bus.check, required=False),
            HealthCheck("background", background.check, required=False),
            HealthCheck("checkpoints", checkpointer.check, required=False),
        ],
        audit_denial=AuditDenial(core.transactions),
        unavailable=(DatabaseUnavailable, PublishFailed),
        rate_limiter=limiter,
    )
    failures.install(app)
    _add_routes(app, settings, core, introspect)
    return app


def _add_routes(app: FastAPI, settings: Settings, core: _Core, introspect: Introspect) -> None:
    transactions, hasher, prints, clock = core.transactions, core.hasher, core.fingerprints, core.clock
    secrets = {name: secret.get_secret_value() for name, secret in settings.service_secrets.items()}
    describe, secure = DescribeCaller(transactions), settings.cookie_secure
    app.include_router(
        sign_in_routes(SignIn(transactions, hasher, prints, clock), describe, cookie_secure=secure)
    )
    app.include_router(
        session_routes(
            EndSession(transactions, clock),
            describe,
            ChangePassword(transactions, hasher, clock),
            cookie_secure=secure,
        )
    )
    app.include_router(
        api_key_routes(
            CreateApiKey(transactions, prints, clock),
            ListApiKeys(transactions),
            RevokeApiKey(transactions, clock),
        )
    )
    app.include_router(
        member_routes(
            AddMember(transactions, hasher, clock),
            ListMembers(transactions),
            ChangeRole(transactions),
            RemoveMember(transactions, clock),
        )
    )
    app.include_router(project_routes(CreateProject(transactions, clock), ListProjects(transactions)))
    app.include_router(team_routes(CreateTeam(transactions, clock), ListTeams(transactions)))
    app.include_router(
        internal_routes(IssueServiceToken(transactions, core.keys, secrets), introspect, core.keys.jwks())
    )
    app.include_router(
        audit_routes(
            ListEntries(transactions),
            ListCheckpoints(transactions),
            ExportEntries(transactions, core.keys, clock),
            VerifyEntries(transactions, core.anchor, check_signature, core.keys.public_keys),
        )
    )


def build_bootstrap(database: Database) -> BootstrapOrganisation:
    return BootstrapOrganisation(PostgresTransactions(database), Argon2Hasher(at_once=1), wall_clock)
