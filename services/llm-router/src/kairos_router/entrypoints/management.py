"""The management API of money: what this process holds."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel

from kairos_contracts.permissions import Permission
from kairos_router.application.held_lease import HeldLease
from kairos_router.application.hold_money import Wallet
from kairos_web import CurrentOrganisation, requires


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


def add_money(app: FastAPI, wallet: Wallet, holder: str, clock: Callable[[], float]) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.BUDGETS_READ)]}

    @app.get("/holds", **guard)
    async def holds(organisation_id: CurrentOrganisation) -> HoldsView:
        """The money this process holds for the organisation right now."""
        now = clock()
        leases = [
            _lease(lease, now) for lease in wallet.leases() if lease.scope.organisation_id == organisation_id
        ]
        return HoldsView(holder=holder, leases=leases)
