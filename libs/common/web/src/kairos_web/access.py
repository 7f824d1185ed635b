"""Every route declares who may use it; the declaration is also the guard."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal, Protocol, cast
from uuid import UUID

from fastapi import Depends, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.requests import HTTPConnection

from kairos_contracts.audit import AuditContext
from kairos_contracts.auth.v1 import AuditActor
from kairos_contracts.permissions import Actor, Permission, authorize
from kairos_telemetry import current_traceparent, get_logger
from kairos_web.problems import Problem, unavailable
from kairos_web.rate_limit import RateLimiter, enforce

_log = get_logger(__name__)

ORGANISATION_HEADER = "x-kairos-organisation"

AuditDenial = Callable[[AuditContext, str, str, UUID | None], Awaitable[None]]


class Authenticator(Protocol):
    """Says who calls, or None when nobody vouches for the caller. May raise Problem (CSRF, 503)."""

    async def authenticate(self, connection: HTTPConnection) -> Actor | None: ...


class UndeclaredRoute(RuntimeError):  # noqa: N818 - reads as the fact it states
    """A route declares neither requires(...) nor public(...), or both: the service does not start."""


def client_ip(connection: HTTPConnection) -> str | None:
    return connection.client.host if connection.client else None


def _trace_id() -> str | None:
    traceparent = current_traceparent()
    return traceparent.split("-")[1] if traceparent else None


def audit_context(connection: HTTPConnection, actor: Actor | None) -> AuditContext:
    via: Literal["rest", "ws"] = "ws" if connection.scope["type"] == "websocket" else "rest"
    request_id = getattr(connection.state, "request_id", None)
    if actor is not None:
        return AuditContext.of_actor(
            actor, via=via, request_id=request_id, trace_id=_trace_id(), ip=client_ip(connection)
        )
    return AuditContext(
        actor=AuditActor(kind="anonymous", id="anonymous"),
        via=via,
        request_id=request_id,
        trace_id=_trace_id(),
        ip=client_ip(connection),
    )


def _unauthenticated() -> Problem:
    return Problem(
        401, "unauthenticated", "Sign in or send a valid credential", headers={"WWW-Authenticate": "Bearer"}
    )


async def _identify(connection: HTTPConnection) -> Actor:
    actor: Actor | None = getattr(connection.state, "actor", None)
    if actor is None:
        authenticator = cast("Authenticator | None", connection.app.state.authenticator)
        if authenticator is None:
            raise unavailable("the authenticator is not ready")
        actor = await authenticator.authenticate(connection)
        if actor is None:
            raise _unauthenticated()
        connection.state.actor = actor
    return actor


async def _audit_denial(connection: HTTPConnection, actor: Actor, permission: Permission) -> None:
    audit = cast("AuditDenial | None", connection.app.state.audit_denial)
    if audit is None:
        return
    try:
        await audit(
            audit_context(connection, actor), permission.value, connection.url.path, actor.organisation_id
        )
    except Exception:  # noqa: BLE001 - logged with its trace; the refusal must not depend on the audit
        # The caller stays refused either way; an operator must see that the entry is missing.
        _log.exception("denial_not_audited", permission=permission.value, actor_id=actor.id)


@dataclass(frozen=True)
class Requires:
    """The caller holds this permission. 401 without a credential, 403 (audited) without the right."""

    permission: Permission

    async def __call__(self, connection: HTTPConnection) -> None:
        actor = await _identify(connection)
        limiter = cast("RateLimiter | None", connection.app.state.rate_limiter)
        if limiter is not None:
            await enforce(limiter, limiter.default, connection, f"{actor.kind}:{actor.id}")
        if authorize(actor, self.permission):
            return
        await _audit_denial(connection, actor, self.permission)
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "forbidden",
            "Your role or scopes do not allow this",
            permission=self.permission.value,
        )


@dataclass(frozen=True)
class Public:
    """Anyone may call; `reason` says why that is safe."""

    reason: str

    async def __call__(self, connection: HTTPConnection) -> None:
        """Public routes have nothing to check; the declaration itself is the point."""


def requires(permission: Permission) -> Any:
    """Declare the permission of a route: `dependencies=[requires(Permission.BOTS_READ)]`."""
    return Depends(Requires(permission))


def public(reason: str) -> Any:
    """Declare that a route needs no caller, and why: `dependencies=[public("health probe")]`."""
    return Depends(Public(reason))


async def _current_actor(connection: HTTPConnection) -> Actor:
    actor: Actor | None = getattr(connection.state, "actor", None)
    if actor is None:
        raise _unauthenticated()
    return actor


async def _current_context(connection: HTTPConnection) -> AuditContext:
    return audit_context(connection, getattr(connection.state, "actor", None))


async def _current_organisation(connection: HTTPConnection) -> UUID:
    actor = await _current_actor(connection)
    named = connection.headers.get(ORGANISATION_HEADER)
    if actor.organisation_id is not None:
        if named and named.lower() != str(actor.organisation_id):
            raise Problem(400, "wrong_organisation", "This credential belongs to another organisation")
        return actor.organisation_id
    if actor.kind == "service" and named:
        try:
            return UUID(named)
        except ValueError:
            pass
    raise Problem(400, "organisation_required", "Name the organisation in X-Kairos-Organisation")


CurrentActor = Annotated[Actor, Depends(_current_actor)]
CurrentContext = Annotated[AuditContext, Depends(_current_context)]
CurrentOrganisation = Annotated[UUID, Depends(_current_organisation)]


@dataclass(frozen=True)
class Declaration:
    """One route with what it declares."""

    path: str
    methods: frozenset[str]
    guards: tuple[Requires | Public, ...]


def declarations(app: FastAPI) -> Iterator[Declaration]:
    """Every HTTP and WebSocket route of the application, included routers resolved."""
    for context in iter_route_contexts(app.router.routes):
        dependant = getattr(context, "dependant", None)
        calls = [each.call for each in dependant.dependencies] if dependant is not None else []
        yield Declaration(
            path=context.path or repr(context.route),
            methods=frozenset(context.methods or {"WEBSOCKET"}),
            guards=tuple(call for call in calls if isinstance(call, Requires | Public)),
        )


def refuse_undeclared_routes(app: FastAPI) -> None:
    """Raise UndeclaredRoute naming every route that declares nothing, or both kinds at once."""
    wrong = []
    for declared in declarations(app):
        kinds = {type(guard) for guard in declared.guards}
        if len(kinds) != 1:
            wrong.append(f"{'/'.join(sorted(declared.methods))} {declared.path}")
    if wrong:
        raise UndeclaredRoute(", ".join(wrong))
