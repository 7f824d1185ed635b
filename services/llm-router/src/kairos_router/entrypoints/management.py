"""The management API: what the router has, what it holds, and why it refused."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel

from kairos_contracts.permissions import Permission
from kairos_router.application.choose_deployment import Circuits
from kairos_router.application.held_lease import HeldLease
from kairos_router.application.hold_money import Wallet
from kairos_router.application.ports import CatalogueSource
from kairos_router.domain.catalogue import Deployment
from kairos_router.domain.decision import Decision
from kairos_web import CurrentOrganisation, Problem, requires

FindDecision = Callable[[UUID, UUID], Awaitable[Decision | None]]


class DeploymentView(BaseModel):
    """`circuit` is this process's view: an open one is left alone for a while."""

    name: str
    kind: str
    provider: str
    model: str
    context_window: int
    max_output_tokens: int
    capabilities: list[str]
    has_key: bool
    free: bool
    circuit: str


class RouteView(BaseModel):
    name: str
    deployments: list[str]


class PriceView(BaseModel):
    """nano-USD per million tokens, exact."""

    deployment: str
    model: str
    version: str
    input_nano_usd_per_million: int
    output_nano_usd_per_million: int
    cached_input_nano_usd_per_million: int | None


class StepView(BaseModel):
    deployment: str
    max_tokens: int
    hold_nano_usd: int
    remaining_nano_usd: int
    limit_nano_usd: int
    scope: str
    budget_id: UUID | None
    budget_decision_id: UUID | None


class DecisionView(BaseModel):
    decision_id: UUID
    completion_id: UUID
    project_id: UUID | None
    bot_id: UUID | None
    api_key_id: UUID | None
    model: str
    code: str
    decided_at: datetime
    steps: list[StepView]


class HoldView(BaseModel):
    attempt_id: UUID
    amount_nano_usd: int
    age_ms: int
    api_key_id: UUID | None


class LeaseView(BaseModel):
    """A lease of this process. `expires_in_ms` is when it stops taking holds unless renewed."""

    lease_id: UUID
    project_id: UUID | None
    bot_id: UUID | None
    unlimited: bool
    granted_nano_usd: int
    held_nano_usd: int
    settled_nano_usd: int
    free_nano_usd: int
    retired: bool
    expires_in_ms: int
    holds: list[HoldView]


class HoldsView(BaseModel):
    """Every replica answers for itself: `holder` names the one that answered."""

    holder: str
    leases: list[LeaseView]


def _deployment(deployment: Deployment, circuits: Circuits) -> DeploymentView:
    return DeploymentView(
        name=deployment.name,
        kind=deployment.kind,
        provider=deployment.provider,
        model=deployment.model,
        context_window=deployment.context_window,
        max_output_tokens=deployment.max_output_tokens,
        capabilities=sorted(deployment.capabilities),
        has_key=deployment.api_key is not None,
        free=deployment.price.free,
        circuit=circuits.state(deployment.name),
    )


def _lease(lease: HeldLease, now: float) -> LeaseView:
    balance = lease.balance
    return LeaseView(
        lease_id=lease.lease_id,
        project_id=lease.scope.project_id,
        bot_id=lease.scope.bot_id,
        unlimited=balance.unlimited,
        granted_nano_usd=balance.granted,
        held_nano_usd=balance.held,
        settled_nano_usd=balance.settled,
        free_nano_usd=balance.free,
        retired=lease.retired,
        expires_in_ms=max(0, int((lease.expires_at - now) * 1000)),
        holds=[
            HoldView(
                attempt_id=hold.attempt_id,
                amount_nano_usd=hold.amount,
                age_ms=int((now - hold.taken_at) * 1000),
                api_key_id=hold.caller.api_key_id,
            )
            for hold in lease.holds.values()
        ],
    )


def _decision(decision: Decision) -> DecisionView:
    scope = decision.caller.scope
    return DecisionView(
        decision_id=decision.decision_id,
        completion_id=decision.completion_id,
        project_id=scope.project_id,
        bot_id=scope.bot_id,
        api_key_id=decision.caller.api_key_id,
        model=decision.model,
        code=decision.code,
        decided_at=decision.decided_at,
        steps=[StepView.model_validate(step, from_attributes=True) for step in decision.steps],
    )


def add_catalogue(app: FastAPI, catalogue: CatalogueSource, circuits: Circuits) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_READ)]}

    @app.get("/deployments", **guard)
    async def deployments() -> list[DeploymentView]:
        return [_deployment(each, circuits) for each in catalogue.current().deployments.values()]

    @app.get("/routes", **guard)
    async def routes() -> list[RouteView]:
        return [
            RouteView(name=route.name, deployments=list(route.deployments))
            for route in catalogue.current().routes.values()
        ]

    @app.get("/prices", **guard)
    async def prices() -> list[PriceView]:
        """What tokens cost; divide by a million for the price of one."""
        return [
            PriceView(
                deployment=each.name,
                model=each.model,
                version=each.price.version,
                input_nano_usd_per_million=each.price.input,
                output_nano_usd_per_million=each.price.output,
                cached_input_nano_usd_per_million=each.price.cached_input,
            )
            for each in catalogue.current().deployments.values()
        ]


def add_money(
    app: FastAPI, wallet: Wallet, find_decision: FindDecision, holder: str, clock: Callable[[], float]
) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.BUDGETS_READ)]}

    @app.get("/decisions/{decision_id}", **guard)
    async def decision(decision_id: UUID, organisation_id: CurrentOrganisation) -> DecisionView:
        """Why a request was refused."""
        found = await find_decision(organisation_id, decision_id)
        if found is None:
            raise Problem(404, "decision_not_found", "There is no such decision")
        return _decision(found)

    @app.get("/holds", **guard)
    async def holds(organisation_id: CurrentOrganisation) -> HoldsView:
        """The money this process holds for the organisation right now."""
        now = clock()
        leases = [
            _lease(lease, now) for lease in wallet.leases() if lease.scope.organisation_id == organisation_id
        ]
        return HoldsView(holder=holder, leases=leases)
