"""Say who a session token or an API key belongs to, right now."""

from dataclasses import dataclass
from datetime import datetime

from kairos_auth.application.ports import Clock, Transaction, Transactions
from kairos_auth.domain.fingerprints import Fingerprints
from kairos_auth.domain.lifetimes import (
    SESSION_SEEN_STEP,
    coarse_use,
    session_alive,
    session_deadline,
)
from kairos_contracts.credentials import API_KEY_PREFIX, is_well_formed_api_key
from kairos_contracts.permissions import Actor


@dataclass(frozen=True)
class Introspection:
    """The actor and until when this answer can be true at most."""

    actor: Actor
    expires_at: datetime | None


@dataclass(frozen=True)
class Introspect:
    transactions: Transactions
    fingerprints: Fingerprints
    clock: Clock

    async def __call__(self, credential: str) -> Introspection | None:
        """None for everything that is wrong, expired, ended or revoked."""
        if credential.startswith(API_KEY_PREFIX):
            if not is_well_formed_api_key(credential):
                return None
            async with self.transactions.system() as transaction:
                return await self._api_key(transaction, self.fingerprints.of("api_key", credential))
        async with self.transactions.system() as transaction:
            return await self._session(transaction, self.fingerprints.of("session", credential))

    async def _session(self, transaction: Transaction, token_hash: str) -> Introspection | None:
        now = self.clock()
        session = await transaction.sessions.by_hash(token_hash)
        if session is None or not session_alive(
            last_seen_at=session.last_seen_at, expires_at=session.expires_at, now=now
        ):
            return None
        member = await transaction.members.by_id(session.member_id)
        if member is None:
            return None
        last_seen_at = session.last_seen_at
        if now - last_seen_at >= SESSION_SEEN_STEP:
            await transaction.sessions.touch(session.id, now)
            last_seen_at = now
        actor = Actor(
            kind="member",
            id=str(member.id),
            display=member.email,
            organisation_id=member.organisation_id,
            role=member.role,
            session_id=session.id,
        )
        return Introspection(
            actor, session_deadline(last_seen_at=last_seen_at, expires_at=session.expires_at)
        )

    async def _api_key(self, transaction: Transaction, key_hash: str) -> Introspection | None:
        now = self.clock()
        key = await transaction.api_keys.by_hash(key_hash)
        if key is None or key.revoked_at is not None or (key.expires_at and key.expires_at <= now):
            return None
        member = await transaction.members.by_id(key.member_id)
        if member is None:
            return None
        used_at = coarse_use(now)
        if key.last_used_at is None or key.last_used_at < used_at:
            await transaction.api_keys.note_use(key.id, used_at)
        actor = Actor(
            kind="api_key",
            id=str(key.id),
            display=key.name,
            organisation_id=key.organisation_id,
            role=member.role,
            scopes=key.scopes,
            project_id=key.project_id,
            team_id=key.team_id,
        )
        return Introspection(actor, key.expires_at)
