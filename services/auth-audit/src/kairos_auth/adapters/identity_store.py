"""Members, sessions, keys, projects and sign-in attempts in PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel, col

from kairos_auth.adapters.tables import (
    ApiKeyRow,
    MemberRow,
    OrganisationRow,
    ProjectRow,
    SessionRow,
    SignInAttemptRow,
    TeamRow,
)
from kairos_auth.application.records import ApiKey, Member, Organisation, Project, Session, Team
from kairos_auth.domain.errors import AlreadyExists
from kairos_auth.domain.throttle import FORGET_AFTER, Attempts
from kairos_contracts.permissions import Permission, Role


async def _add_unique(session: AsyncSession, row: SQLModel, what: str) -> None:
    session.add(row)
    try:
        await session.flush()
    except IntegrityError as error:
        raise AlreadyExists(what) from error


class PostgresMembers:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._present = select(MemberRow).where(col(MemberRow.removed_at).is_(None))

    async def add(self, member: Member) -> None:
        row = MemberRow(**{**vars(member), "role": member.role.value})
        await _add_unique(self._session, row, "member")

    async def by_id(self, member_id: UUID) -> Member | None:
        return await self._one(self._present.where(col(MemberRow.id) == member_id))

    async def by_email(self, email: str) -> Member | None:
        return await self._one(self._present.where(col(MemberRow.email) == email))

    async def _one(self, query: Any) -> Member | None:
        found = await self._session.execute(query.execution_options(populate_existing=True))
        row = found.scalar_one_or_none()
        return _member(row) if row is not None else None

    async def page(self, limit: int, after: UUID | None) -> list[Member]:
        query = self._present.order_by(col(MemberRow.id)).limit(limit)
        if after is not None:
            query = query.where(col(MemberRow.id) > after)
        return [_member(row) for row in (await self._session.execute(query)).scalars()]

    async def lock_admins(self) -> list[UUID]:
        query = (
            select(col(MemberRow.id))
            .where(col(MemberRow.removed_at).is_(None), col(MemberRow.role) == Role.ADMIN.value)
            .order_by(col(MemberRow.id))
            .with_for_update()
        )
        return list((await self._session.execute(query)).scalars())

    async def set_role(self, member_id: UUID, role: Role) -> None:
        await self._update(member_id, role=role.value)

    async def set_password(self, member_id: UUID, password_hash: str, *, must_change: bool) -> None:
        await self._update(member_id, password_hash=password_hash, must_change_password=must_change)

    async def remove(self, member_id: UUID, now: datetime) -> None:
        await self._update(member_id, removed_at=now)

    async def _update(self, member_id: UUID, **values: Any) -> None:
        await self._session.execute(update(MemberRow).where(col(MemberRow.id) == member_id).values(**values))


def _member(row: MemberRow) -> Member:
    return Member(
        id=row.id,
        organisation_id=row.organisation_id,
        email=row.email,
        display=row.display,
        role=Role(row.role),
        password_hash=row.password_hash,
        must_change_password=row.must_change_password,
        created_at=row.created_at,
    )


class PostgresSessions:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, session: Session) -> None:
        self._session.add(SessionRow(**vars(session)))
        await self._session.flush()

    async def by_hash(self, token_hash: str) -> Session | None:
        query = select(SessionRow).where(
            col(SessionRow.token_hash) == token_hash, col(SessionRow.ended_at).is_(None)
        )
        row = (await self._session.execute(query)).scalar_one_or_none()
        if row is None:
            return None
        return Session(**row.model_dump(exclude={"ended_at"}))

    async def touch(self, session_id: UUID, now: datetime) -> None:
        await self._session.execute(
            update(SessionRow).where(col(SessionRow.id) == session_id).values(last_seen_at=now)
        )

    async def end(self, session_id: UUID, now: datetime) -> bool:
        ended = await self._end(col(SessionRow.id) == session_id, now)
        return bool(ended)

    async def end_all_of(self, member_id: UUID, now: datetime, *, but: UUID | None = None) -> Sequence[UUID]:
        condition = col(SessionRow.member_id) == member_id
        if but is not None:
            condition &= col(SessionRow.id) != but
        return await self._end(condition, now)

    async def _end(self, condition: Any, now: datetime) -> list[UUID]:
        statement = (
            update(SessionRow)
            .where(condition, col(SessionRow.ended_at).is_(None))
            .values(ended_at=now)
            .returning(col(SessionRow.id))
        )
        return list((await self._session.execute(statement)).scalars())


class PostgresApiKeys:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, key: ApiKey) -> None:
        scopes = None if key.scopes is None else sorted(scope.value for scope in key.scopes)
        self._session.add(ApiKeyRow(**{**vars(key), "scopes": scopes}))
        await self._session.flush()

    async def by_hash(self, key_hash: str) -> ApiKey | None:
        return await self._one(col(ApiKeyRow.key_hash) == key_hash)

    async def by_id(self, key_id: UUID) -> ApiKey | None:
        return await self._one(col(ApiKeyRow.id) == key_id)

    async def _one(self, condition: Any) -> ApiKey | None:
        row = (await self._session.execute(select(ApiKeyRow).where(condition))).scalar_one_or_none()
        return _api_key(row) if row is not None else None

    async def page(self, limit: int, after: UUID | None, member_id: UUID | None) -> list[ApiKey]:
        query = select(ApiKeyRow).order_by(col(ApiKeyRow.id)).limit(limit)
        if after is not None:
            query = query.where(col(ApiKeyRow.id) > after)
        if member_id is not None:
            query = query.where(col(ApiKeyRow.member_id) == member_id)
        return [_api_key(row) for row in (await self._session.execute(query)).scalars()]

    async def live_ids_of(self, member_id: UUID) -> Sequence[UUID]:
        query = select(col(ApiKeyRow.id)).where(
            col(ApiKeyRow.member_id) == member_id, col(ApiKeyRow.revoked_at).is_(None)
        )
        return list((await self._session.execute(query)).scalars())

    async def revoke(self, key_id: UUID, now: datetime) -> bool:
        statement = (
            update(ApiKeyRow)
            .where(col(ApiKeyRow.id) == key_id, col(ApiKeyRow.revoked_at).is_(None))
            .values(revoked_at=now)
            .returning(col(ApiKeyRow.id))
        )
        return (await self._session.execute(statement)).scalar_one_or_none() is not None

    async def note_use(self, key_id: UUID, used_at: datetime) -> None:
        await self._session.execute(
            update(ApiKeyRow).where(col(ApiKeyRow.id) == key_id).values(last_used_at=used_at)
        )


def _api_key(row: ApiKeyRow) -> ApiKey:
    scopes = None if row.scopes is None else frozenset(Permission(scope) for scope in row.scopes)
    return ApiKey(**{**row.model_dump(), "scopes": scopes})


class PostgresOrganisations:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, organisation: Organisation) -> None:
        row = OrganisationRow(
            organisation_id=organisation.id, name=organisation.name, created_at=organisation.created_at
        )
        await _add_unique(self._session, row, "organisation")

    async def by_id(self, organisation_id: UUID) -> Organisation | None:
        return await self._one(col(OrganisationRow.organisation_id) == organisation_id)

    async def by_name(self, name: str) -> Organisation | None:
        return await self._one(col(OrganisationRow.name) == name)

    async def _one(self, condition: Any) -> Organisation | None:
        row = (await self._session.execute(select(OrganisationRow).where(condition))).scalar_one_or_none()
        return Organisation(row.organisation_id, row.name, row.created_at) if row is not None else None


class PostgresProjects:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, project: Project) -> None:
        await _add_unique(self._session, ProjectRow(**vars(project)), "project")

    async def by_id(self, project_id: UUID) -> Project | None:
        query = select(ProjectRow).where(col(ProjectRow.id) == project_id)
        row = (await self._session.execute(query)).scalar_one_or_none()
        return Project(**row.model_dump()) if row is not None else None

    async def page(self, limit: int, after: UUID | None) -> list[Project]:
        query = select(ProjectRow).order_by(col(ProjectRow.id)).limit(limit)
        if after is not None:
            query = query.where(col(ProjectRow.id) > after)
        return [Project(**row.model_dump()) for row in (await self._session.execute(query)).scalars()]


class PostgresTeams:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, team: Team) -> None:
        await _add_unique(self._session, TeamRow(**vars(team)), "team")

    async def by_id(self, team_id: UUID) -> Team | None:
        query = select(TeamRow).where(col(TeamRow.id) == team_id)
        row = (await self._session.execute(query)).scalar_one_or_none()
        return Team(**row.model_dump()) if row is not None else None

    async def page(self, limit: int, after: UUID | None) -> list[Team]:
        query = select(TeamRow).order_by(col(TeamRow.id)).limit(limit)
        if after is not None:
            query = query.where(col(TeamRow.id) > after)
        return [Team(**row.model_dump()) for row in (await self._session.execute(query)).scalars()]


class PostgresSignInAttempts:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self, keys: Sequence[str], now: datetime) -> Mapping[str, Attempts]:
        # Rows that do not exist yet can't be locked, so the keys are; sorted, so that nobody deadlocks.
        for key in sorted(keys):
            await self._session.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 11))"), {"key": key}
            )
        query = select(SignInAttemptRow).where(
            col(SignInAttemptRow.key).in_(keys), col(SignInAttemptRow.changed_at) > now - FORGET_AFTER
        )
        known = {
            row.key: Attempts(row.failures, row.blocked_until)
            for row in (await self._session.execute(query)).scalars()
        }
        return {key: known.get(key, Attempts()) for key in keys}

    async def save(self, key: str, attempts: Attempts, now: datetime) -> None:
        values = {
            "failures": attempts.failures,
            "blocked_until": attempts.blocked_until,
            "changed_at": now,
        }
        statement = insert(SignInAttemptRow).values(key=key, **values)
        await self._session.execute(statement.on_conflict_do_update(index_elements=["key"], set_=values))

    async def forget(self, keys: Sequence[str]) -> None:
        await self._session.execute(delete(SignInAttemptRow).where(col(SignInAttemptRow.key).in_(keys)))
