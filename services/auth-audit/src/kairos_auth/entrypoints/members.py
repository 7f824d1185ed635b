"""Members, roles and projects over HTTP."""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from kairos_auth.application.manage_members import AddMember, ChangeRole, ListMembers, RemoveMember
from kairos_auth.application.manage_projects import CreateProject, ListProjects
from kairos_auth.entrypoints.positions import after_id
from kairos_contracts.permissions import ROLE_GRANTS, SERVICE_ONLY, Permission, Role
from kairos_web import (
    CurrentContext,
    CurrentOrganisation,
    Page,
    Paged,
    Problem,
    encode_cursor,
    requires,
)


class NewMember(BaseModel):
    email: str = Field(max_length=256)
    role: Role
    display: str = Field(default="", max_length=100)


class RoleChange(BaseModel):
    role: Role


class MemberView(BaseModel):
    id: UUID
    email: str
    display: str
    role: Role
    must_change_password: bool
    created_at: datetime


class AddedMember(MemberView):
    """`password` is shown this once; the member must change it."""

    password: str


class RoleView(BaseModel):
    role: Role
    permissions: list[Permission]


class RoleTable(BaseModel):
    roles: list[RoleView]
    permissions: list[Permission]


class NewProject(BaseModel):
    name: str = Field(min_length=1, max_length=100)


class ProjectView(BaseModel):
    id: UUID
    name: str
    created_at: datetime


def member_routes(
    add: AddMember, list_members: ListMembers, change_role: ChangeRole, remove: RemoveMember
) -> APIRouter:
    router = APIRouter(tags=["members"])

    @router.get("/members", dependencies=[requires(Permission.MEMBERS_READ)])
    async def show_members(page: Paged, organisation_id: CurrentOrganisation) -> Page[MemberView]:
        members = await list_members(organisation_id, page.limit + 1, after_id(page))
        shown = [MemberView.model_validate(vars(member)) for member in members[: page.limit]]
        more = len(members) > page.limit
        return Page(items=shown, next_cursor=encode_cursor({"id": str(shown[-1].id)}) if more else None)

    @router.post("/members", status_code=201, dependencies=[requires(Permission.MEMBERS_WRITE)])
    async def add_member(
        body: NewMember, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> AddedMember:
        try:
            member, password = await add(organisation_id, body.email, body.display, body.role, context)
        except ValueError as error:
            raise Problem(422, "invalid_request", "This is not an e-mail address") from error
        return AddedMember.model_validate({**vars(member), "password": password})

    @router.patch("/members/{member_id}", dependencies=[requires(Permission.MEMBERS_WRITE)])
    async def set_role(
        member_id: UUID, body: RoleChange, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> MemberView:
        member = await change_role(organisation_id, member_id, body.role, context)
        return MemberView.model_validate(vars(member))

    @router.delete("/members/{member_id}", status_code=204, dependencies=[requires(Permission.MEMBERS_WRITE)])
    async def remove_member(
        member_id: UUID, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> None:
        await remove(organisation_id, member_id, context)

    @router.get("/roles", dependencies=[requires(Permission.PROFILE_READ)])
    async def show_roles() -> RoleTable:
        """The permission matrix, as data."""
        return RoleTable(
            roles=[RoleView(role=role, permissions=sorted(grants)) for role, grants in ROLE_GRANTS.items()],
            permissions=[permission for permission in Permission if permission not in SERVICE_ONLY],
        )

    return router


def project_routes(create: CreateProject, list_projects: ListProjects) -> APIRouter:
    router = APIRouter(prefix="/projects", tags=["projects"])

    @router.get("", dependencies=[requires(Permission.PROJECTS_READ)])
    async def show_projects(page: Paged, organisation_id: CurrentOrganisation) -> Page[ProjectView]:
        projects = await list_projects(organisation_id, page.limit + 1, after_id(page))
        shown = [ProjectView.model_validate(vars(project)) for project in projects[: page.limit]]
        more = len(projects) > page.limit
        return Page(items=shown, next_cursor=encode_cursor({"id": str(shown[-1].id)}) if more else None)

    @router.post("", status_code=201, dependencies=[requires(Permission.PROJECTS_WRITE)])
    async def create_project(
        body: NewProject, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> ProjectView:
        return ProjectView.model_validate(vars(await create(organisation_id, body.name, context)))

    return router
