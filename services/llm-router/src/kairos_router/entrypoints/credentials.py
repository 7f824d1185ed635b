"""Who calls /v1, and whether they may."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from kairos_contracts.audit import AuditContext
from kairos_contracts.permissions import Actor, Permission, authorize
from kairos_router.application.explain_failure import Explanation
from kairos_router.domain.ask import PRIORITIES, Caller
from kairos_router.domain.lease import Scope
from kairos_router.entrypoints import openai_errors as errors
from kairos_router.entrypoints.openai_errors import Header
from kairos_telemetry import current_trace_id, get_logger
from kairos_web import AuditDenial, Problem

_log = get_logger(__name__)

MOST_CALLERS = 10_000


class Rejected(Exception):  # noqa: N818 - reads as the fact it states
    """The caller is unknown, or may not do this, or not now; nothing was reserved."""

    def __init__(self, explanation: Explanation, headers: Sequence[Header] = ()) -> None:
        super().__init__(explanation.code)
        self.explanation = explanation
        self.headers = headers


class Authenticates(Protocol):
    """The part of RemoteAuthenticator used here."""

    def cached(self, credential: str) -> Actor | None: ...

    async def resolve(self, credential: str) -> Actor | None: ...


class Gate:
    def __init__(self, authenticator: Authenticates, audit_denial: AuditDenial | None) -> None:
        self._authenticator = authenticator
        self._audit_denial = audit_denial
        # What is the same for every request of an actor, as long as memory holds that very actor.
        self._callers: dict[int, tuple[Actor, Caller]] = {}

    def known(self, credential: str | None, permission: Permission) -> Actor | None:
        """The caller when memory has it and it may do this; None means: ask `admit`."""
        actor = self._authenticator.cached(credential) if credential else None
        return actor if actor is not None and authorize(actor, permission) else None

    async def admit(
        self,
        credential: str | None,
        permission: Permission,
        *,
        path: str,
        request_id: str,
        ip: str | None,
    ) -> Actor:
        """Raises Rejected; a caller without the right is audited."""
        try:
            actor = await self._authenticator.resolve(credential) if credential else None
        except Problem:
            raise Rejected(errors.AUTH_AWAY) from None
        if actor is None:
            raise Rejected(errors.UNAUTHENTICATED)
        if not authorize(actor, permission) or actor.organisation_id is None:
            context = AuditContext.of_actor(
                actor, via="rest", request_id=request_id, trace_id=current_trace_id(), ip=ip
            )
            await self._audit(context, actor, permission, path)
            raise Rejected(errors.FORBIDDEN)
        return actor

    def caller(self, actor: Actor, priority: bytes = b"", contact_id: bytes = b"") -> Caller:
        """On whose account the request runs. Raises Rejected for an actor without an organisation.

        `priority` and `contact_id` are what the request's headers say: they limit and attribute more,
        and never less.
        """
        known = self._callers.get(id(actor))
        if known is None or known[0] is not actor:
            if len(self._callers) >= MOST_CALLERS:
                self._callers.clear()
            known = self._callers[id(actor)] = (actor, _caller(actor))
        if not (priority or contact_id):
            return known[1]
        return _narrowed(known[1], priority, contact_id)

    async def _audit(self, context: AuditContext, actor: Actor, permission: Permission, path: str) -> None:
        if self._audit_denial is None:
            return
        try:
            await self._audit_denial(context, permission.value, path, actor.organisation_id)
        except Exception:  # noqa: BLE001 - logged with its trace; the refusal must not depend on the audit
            _log.exception("denial_not_audited", permission=permission.value, actor_id=actor.id)


def _caller(actor: Actor) -> Caller:
    if actor.organisation_id is None:
        raise Rejected(errors.FORBIDDEN)
    api_key_id = UUID(actor.id) if actor.kind == "api_key" else None
    scope = Scope(actor.organisation_id, actor.project_id, team_id=actor.team_id, api_key_id=api_key_id)
    return Caller(scope, api_key_id)


def _narrowed(caller: Caller, priority: bytes, contact_id: bytes) -> Caller:
    if priority:
        named = next((each for each in PRIORITIES if each.encode() == priority), None)
        if named is None:
            raise Rejected(errors.bad_header("x-kairos-priority", "batch, normal or interactive"))
        caller = replace(caller, priority=named)
    if contact_id:
        try:
            contact = UUID(contact_id.decode("latin-1"))
        except ValueError:
            raise Rejected(errors.bad_header("x-kairos-contact-id", "a UUID")) from None
        caller = replace(caller, scope=replace(caller.scope, contact_id=contact), affinity=contact)
    return caller
