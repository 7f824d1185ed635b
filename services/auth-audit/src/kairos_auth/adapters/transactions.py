"""Units of work of kairos_persistence as the transactions the use cases know."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from sqlalchemy import text

from kairos_auth.adapters.audit_store import PostgresAuditLog
from kairos_auth.adapters.identity_store import (
    PostgresApiKeys,
    PostgresMembers,
    PostgresOrganisations,
    PostgresProjects,
    PostgresSessions,
    PostgresSignInAttempts,
    PostgresTeams,
)
from kairos_auth.application.ports import (
    ApiKeys,
    AuditLog,
    Members,
    Organisations,
    Projects,
    Sessions,
    SignInAttempts,
    Teams,
    Transaction,
)
from kairos_contracts.message import Message
from kairos_persistence import Database, UnitOfWork

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 12))")


class PostgresTransaction:
    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit
        self.members: Members = PostgresMembers(unit.session)
        self.sessions: Sessions = PostgresSessions(unit.session)
        self.api_keys: ApiKeys = PostgresApiKeys(unit.session)
        self.organisations: Organisations = PostgresOrganisations(unit.session)
        self.projects: Projects = PostgresProjects(unit.session)
        self.teams: Teams = PostgresTeams(unit.session)
        self.attempts: SignInAttempts = PostgresSignInAttempts(unit.session)
        self.audit: AuditLog = PostgresAuditLog(unit.session)

    def emit(self, message: Message, organisation_id: UUID | None) -> None:
        self._unit.emit(message, organisation_id=organisation_id)

    async def first_time(self, consumer: str, message_id: UUID) -> bool:
        return await self._unit.first_time(consumer, message_id)

    async def lock(self, name: str) -> None:
        await self._unit.session.execute(_LOCK, {"name": name})


class PostgresTransactions:
    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def scoped(self, organisation_id: UUID) -> AsyncIterator[Transaction]:
        async with self._database.unit_of_work(organisation_id) as unit:
            yield PostgresTransaction(unit)

    @asynccontextmanager
    async def system(self) -> AsyncIterator[Transaction]:
        async with self._database.system_unit_of_work() as unit:
            yield PostgresTransaction(unit)
