"""Teams over HTTP."""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from kairos_auth.application.manage_teams import CreateTeam, ListTeams
from kairos_auth.entrypoints.positions import after_id
from kairos_contracts.permissions import Permission
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, encode_cursor, requires


class NewTeam(BaseModel):
    name: str = Field(min_length=1, max_length=100)


class TeamView(BaseModel):
    """An API key may name a team; budgets and quotas of the team then apply to it."""

    id: UUID
    name: str
    created_at: datetime


def team_routes(create: CreateTeam, list_teams: ListTeams) -> APIRouter:
    router = APIRouter(prefix="/teams", tags=["teams"])

    @router.get("", dependencies=[requires(Permission.PROJECTS_READ)])
    async def show_teams(page: Paged, organisation_id: CurrentOrganisation) -> Page[TeamView]:
        teams = await list_teams(organisation_id, page.limit + 1, after_id(page))
        shown = [TeamView.model_validate(vars(team)) for team in teams[: page.limit]]
        more = len(teams) > page.limit
        return Page(items=shown, next_cursor=encode_cursor({"id": str(shown[-1].id)}) if more else None)

    @router.post("", status_code=201, dependencies=[requires(Permission.PROJECTS_WRITE)])
    async def create_team(
        body: NewTeam, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> TeamView:
        return TeamView.model_validate(vars(await create(organisation_id, body.name, context)))

    return router
