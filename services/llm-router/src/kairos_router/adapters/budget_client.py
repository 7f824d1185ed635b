"""budget-analytics over HTTP: ask for leases, keep them alive, give them back."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import aiohttp

from kairos_contracts.llm.v1 import Priority
from kairos_router.application.ports import (
    BudgetExceeded,
    BudgetUnavailable,
    Grant,
    LeaseOver,
    Refusal,
    Renewal,
    RenewalRequest,
)
from kairos_router.domain.lease import Scope
from kairos_router.domain.scope_index import FIELDS, ScopeIndex
from kairos_web import OutboundSession, ServiceTokens
from kairos_web.service_tokens import AuthUnavailable, TokenRefused

# A lost answer is asked for once more; a grant has an id and is not granted twice.
ATTEMPTS = 2
HEARTBEATS_AT_ONCE = 1_000
_GONE = frozenset({404, 409})


def _refusal(problem: Mapping[str, Any]) -> Refusal:
    def identifier(name: str) -> UUID | None:
        value = problem.get(name)
        return UUID(str(value)) if value else None

    return Refusal(
        decision_id=identifier("decision_id"),
        budget_id=identifier("budget_id"),
        scope=str(problem.get("scope", "")),
        remaining=int(problem.get("remaining_nano", 0)),
        limit=int(problem.get("limit_nano", 0)),
    )


def _text(value: UUID | None) -> str | None:
    return str(value) if value else None


def _id(value: str | None) -> UUID | None:
    return UUID(value) if value else None


class BudgetClient:
    """The authority's protocol. `holder` names this process and no other, ever."""

    def __init__(self, url: str, holder: str, tokens: ServiceTokens, session: OutboundSession) -> None:
        self._url = url.rstrip("/")
        self._holder = holder
        self._tokens = tokens
        self._session = session

    async def scopes(self, organisation_id: UUID) -> ScopeIndex:
        status, answer = await self._call("GET", f"/internal/leases/scopes/{organisation_id}")
        _require(status == 200, status)  # noqa: PLR2004 - HTTP OK
        scopes = ((kind, UUID(found), bool(reserves)) for kind, found, reserves in answer["scopes"] or ())
        return ScopeIndex.of(int(answer["version"]), scopes)

    async def grant(
        self, scope: Scope, lease_id: UUID, *, want: int, need: int, priority: Priority = "normal"
    ) -> Grant:
        body = {
            "holder": self._holder,
            "lease_id": str(lease_id),
            "organisation_id": str(scope.organisation_id),
            **{name: _text(getattr(scope, name)) for name in FIELDS},
            "want_nano": want,
            "need_nano": need,
            "priority": priority,
        }
        status, answer = await self._post("/internal/leases", body)
        if status == 402:  # noqa: PLR2004 - HTTP Payment Required
            raise BudgetExceeded(_refusal(answer))
        if status in _GONE:
            raise LeaseOver(str(lease_id))
        _require(status in {200, 201}, status)
        return Grant(
            lease_id=UUID(answer["lease_id"]),
            epoch=int(answer["epoch"]),
            granted=int(answer["granted_nano"]),
            unlimited=bool(answer["unlimited"]),
            expires_in=int(answer["expires_in_ms"]) / 1000,
            scope=Scope(scope.organisation_id, **{name: _id(answer[name]) for name in FIELDS}),
            priority=answer["priority"],
            index_version=int(answer["index_version"]),
        )

    async def renew(self, leases: Sequence[RenewalRequest]) -> Sequence[Renewal]:
        renewals: list[Renewal] = []
        for start in range(0, len(leases), HEARTBEATS_AT_ONCE):
            renewals += await self._renew(leases[start : start + HEARTBEATS_AT_ONCE])
        return renewals

    async def _renew(self, leases: Sequence[RenewalRequest]) -> list[Renewal]:
        body = {
            "holder": self._holder,
            "leases": [
                {
                    "lease_id": str(lease.lease_id),
                    "epoch": lease.epoch,
                    "settled_nano": lease.settled,
                    "open_nano": lease.open,
                    "want_more_nano": lease.want_more,
                    "returned_nano": lease.returned,
                    "holds": [
                        {
                            "attempt_id": str(hold.attempt_id),
                            "amount_nano": hold.amount,
                            "age_ms": int(hold.age * 1000),
                            "model": hold.model,
                        }
                        for hold in lease.holds
                    ],
                }
                for lease in leases
            ],
        }
        status, answer = await self._post("/internal/leases/renew", body)
        _require(status == 200, status)  # noqa: PLR2004 - HTTP OK
        return [
            Renewal(
                lease_id=UUID(item["lease_id"]),
                status=item["status"],
                granted_more=int(item.get("granted_more_nano") or 0),
                expires_in=int(item.get("expires_in_ms") or 0) / 1000,
                index_version=int(item.get("index_version") or 0),
                keep=item.get("keep_nano"),
            )
            for item in answer
        ]

    async def close(self, lease_id: UUID, *, epoch: int, settled: int) -> None:
        body = {"epoch": epoch, "settled_nano": settled}
        status, _ = await self._post(f"/internal/leases/{lease_id}/close", body)
        _require(status < 300 or status in _GONE, status)  # noqa: PLR2004 - HTTP success

    async def _post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        return await self._call("POST", path, body)

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        error: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                headers = {"Authorization": await self._tokens.bearer()}
                async with self._session().request(
                    method, self._url + path, json=body, headers=headers
                ) as response:
                    if response.status == 401:  # noqa: PLR2004 - HTTP Unauthorized
                        self._tokens.drop()
                        continue
                    if response.status >= 500:  # noqa: PLR2004 - HTTP server error
                        continue
                    return response.status, await response.json(content_type=None)
            except TimeoutError as failure:
                # Too slow once is too slow: a second try would only add to the wait.
                raise BudgetUnavailable(path) from failure
            except (aiohttp.ClientError, AuthUnavailable, TokenRefused, ValueError) as failure:
                error = failure
        raise BudgetUnavailable(path) from error


def _require(condition: bool, status: int) -> None:
    if not condition:
        raise BudgetUnavailable(f"budget-analytics answered {status}")
