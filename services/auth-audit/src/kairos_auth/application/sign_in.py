"""Open a session for a member who knows their password."""

import math
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from kairos_auth.application.ports import Clock, PasswordHasher, Transactions
from kairos_auth.application.records import Member, Session
from kairos_auth.domain.errors import BadCredentials, TooManyAttempts
from kairos_auth.domain.fingerprints import Fingerprints
from kairos_auth.domain.lifetimes import SESSION_ABSOLUTE
from kairos_auth.domain.throttle import ACCOUNT, ADDRESS, PAIR, ThrottleRule
from kairos_contracts.audit import AuditContext
from kairos_contracts.auth.v1 import AuditActor
from kairos_contracts.credentials import new_session_token


@dataclass(frozen=True)
class OpenedSession:
    member: Member
    session: Session
    token: str


@dataclass(frozen=True)
class SignIn:
    transactions: Transactions
    hasher: PasswordHasher
    fingerprints: Fingerprints
    clock: Clock

    async def __call__(self, email: str, password: str, context: AuditContext) -> OpenedSession:
        """Raises BadCredentials, TooManyAttempts or Busy."""
        email = email.strip().casefold()
        counters = self._counters(email, context.ip or "unknown")
        member = await self._count_attempt(email, counters)
        # Hashing happens between two transactions: it takes long and holds no connection.
        right = await self.hasher.verify(password, member.password_hash if member else None)
        if member is None or not right:
            await self._record_failure(email, member, context)
            raise BadCredentials
        return await self._open(member, counters, context)

    def _counters(self, email: str, ip: str) -> dict[str, ThrottleRule]:
        subjects = {PAIR: f"{email} {ip}", ACCOUNT: email, ADDRESS: ip}
        return {
            f"{rule.name}:{self.fingerprints.of('throttle', subject)}": rule
            for rule, subject in subjects.items()
        }

    async def _count_attempt(self, email: str, counters: dict[str, ThrottleRule]) -> Member | None:
        """Count the attempt as failed before it is checked, so that parallel guesses are counted too."""
        now = self.clock()
        async with self.transactions.system() as transaction:
            known = await transaction.attempts.lock(list(counters), now)
            wait = max(known[key].wait(now) for key in counters)
            if wait:
                raise TooManyAttempts(math.ceil(wait.total_seconds()))
            for key, rule in counters.items():
                await transaction.attempts.save(key, known[key].failed(rule, now), now)
            return await transaction.members.by_email(email)

    async def _record_failure(self, email: str, member: Member | None, context: AuditContext) -> None:
        async with self.transactions.system() as transaction:
            entry = context.entry(
                "session.failed", f"email:{email}", outcome="failed", reason="wrong e-mail or password"
            )
            transaction.emit(entry, member.organisation_id if member else None)

    async def _open(
        self, member: Member, counters: dict[str, ThrottleRule], context: AuditContext
    ) -> OpenedSession:
        now = self.clock()
        token = new_session_token()
        session = self._session(member, token, now, context.ip)
        async with self.transactions.system() as transaction:
            # The address keeps its count: one right guess must not pay for many wrong ones.
            forgiven = [key for key, rule in counters.items() if rule is not ADDRESS]
            await transaction.attempts.forget(forgiven)
            await transaction.sessions.add(session)
            as_member = signed_in_context(context, member)
            transaction.emit(
                as_member.entry("session.created", f"session:{session.id}"), member.organisation_id
            )
        return OpenedSession(member, session, token)

    def _session(self, member: Member, token: str, now: datetime, ip: str | None) -> Session:
        return Session(
            id=uuid4(),
            organisation_id=member.organisation_id,
            member_id=member.id,
            token_hash=self.fingerprints.of("session", token),
            created_at=now,
            last_seen_at=now,
            expires_at=now + SESSION_ABSOLUTE,
            ip=ip,
        )


def signed_in_context(context: AuditContext, member: Member) -> AuditContext:
    """The same request, now with the member it turned out to come from."""
    return AuditContext(
        actor=AuditActor(kind="member", id=str(member.id), display=member.email),
        via=context.via,
        request_id=context.request_id,
        trace_id=context.trace_id,
        ip=context.ip,
    )
