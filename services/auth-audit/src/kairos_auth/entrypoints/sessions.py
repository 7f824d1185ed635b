"""Sign in, who am I, sign out, change the password."""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from kairos_auth.application.describe_caller import DescribeCaller
from kairos_auth.application.end_session import EndSession
from kairos_auth.application.manage_members import ChangePassword
from kairos_auth.application.records import Member, Organisation
from kairos_auth.application.sign_in import SignIn
from kairos_auth.domain.lifetimes import SESSION_ABSOLUTE
from kairos_contracts.credentials import csrf_token
from kairos_contracts.permissions import ROLE_GRANTS, Actor, Permission, Role
from kairos_web import (
    CurrentActor,
    CurrentContext,
    CurrentOrganisation,
    Problem,
    from_same_origin,
    limited,
    public,
    requires,
    session_cookie_name,
)


class Credentials(BaseModel):
    email: str = Field(max_length=256)
    password: str = Field(max_length=256)


class NewPassword(BaseModel):
    current_password: str = Field(max_length=256)
    new_password: str = Field(max_length=256)


class OrganisationView(BaseModel):
    id: UUID
    name: str


class SessionView(BaseModel):
    """Who calls. `csrf_token` is set for browser sessions; unsafe requests repeat it in X-CSRF-Token."""

    kind: str
    id: str
    display: str
    organisation: OrganisationView
    role: Role
    permissions: list[Permission]
    project_id: UUID | None = None
    must_change_password: bool = False
    csrf_token: str | None = None
    expires_at: datetime | None = None


def _view(actor: Actor, organisation: Organisation, member: Member | None, token: str | None) -> SessionView:
    role = actor.role or Role.VIEWER
    granted = ROLE_GRANTS[role] if actor.scopes is None else ROLE_GRANTS[role] & actor.scopes
    return SessionView(
        kind=actor.kind,
        id=actor.id,
        display=actor.display,
        organisation=OrganisationView(id=organisation.id, name=organisation.name),
        role=role,
        permissions=sorted(granted),
        project_id=actor.project_id,
        must_change_password=member.must_change_password if member else False,
        csrf_token=csrf_token(token) if token else None,
    )


def sign_in_routes(sign_in: SignIn, describe_caller: DescribeCaller, *, cookie_secure: bool) -> APIRouter:
    router = APIRouter(tags=["session"])
    cookie = session_cookie_name(secure=cookie_secure)

    @router.post(
        "/session",
        status_code=201,
        dependencies=[
            public("signing in is how a caller becomes known"),
            limited("sign-in", 120, seconds=60),
        ],
    )
    async def open_session(
        body: Credentials, request: Request, response: Response, context: CurrentContext
    ) -> SessionView:
        """Sign in; the answer sets the session cookie."""
        if "origin" in request.headers and not from_same_origin(request):
            raise Problem(403, "cross_origin", "Sign in from our own page")
        opened = await sign_in(body.email, body.password, context)
        response.set_cookie(
            cookie,
            opened.token,
            max_age=int(SESSION_ABSOLUTE.total_seconds()),
            path="/",
            secure=cookie_secure,
            httponly=True,
            samesite="lax",
        )
        member = opened.member
        actor = Actor(
            kind="member",
            id=str(member.id),
            display=member.email,
            organisation_id=member.organisation_id,
            role=member.role,
        )
        organisation, _ = await describe_caller(member.organisation_id, actor)
        view = _view(actor, organisation, member, opened.token)
        return view.model_copy(update={"expires_at": opened.session.expires_at})

    return router


def session_routes(
    end_session: EndSession,
    describe_caller: DescribeCaller,
    change_password: ChangePassword,
    *,
    cookie_secure: bool,
) -> APIRouter:
    router = APIRouter(tags=["session"])
    cookie = session_cookie_name(secure=cookie_secure)

    @router.get("/session", dependencies=[requires(Permission.PROFILE_READ)])
    async def show_session(
        request: Request, actor: CurrentActor, organisation_id: CurrentOrganisation
    ) -> SessionView:
        organisation, member = await describe_caller(organisation_id, actor)
        token = request.cookies.get(cookie) if actor.session_id else None
        return _view(actor, organisation, member, token)

    @router.delete("/session", status_code=204, dependencies=[requires(Permission.PROFILE_READ)])
    async def close_session(
        response: Response,
        actor: CurrentActor,
        organisation_id: CurrentOrganisation,
        context: CurrentContext,
    ) -> None:
        if actor.session_id is None:
            raise Problem(409, "no_session", "This credential is not a session")
        await end_session(organisation_id, actor.session_id, context)
        response.delete_cookie(cookie, path="/", secure=cookie_secure, httponly=True, samesite="lax")

    @router.put("/session/password", status_code=204, dependencies=[requires(Permission.PROFILE_READ)])
    async def set_password(
        body: NewPassword,
        actor: CurrentActor,
        organisation_id: CurrentOrganisation,
        context: CurrentContext,
    ) -> None:
        """Change the own password; every other session of the member ends."""
        await change_password(organisation_id, actor, body.current_password, body.new_password, context)

    return router
