"""Live, ready and detailed health of one service."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from kairos_web.access import public

Health = Literal["up", "degraded", "down"]
_NO_SECRET = "health and metrics carry no tenant data; the front door does not expose them"  # noqa: S105 - a sentence


@dataclass(frozen=True)
class HealthCheck:
    """A probe of something the service needs; it raises when that is away. `timeout` in seconds."""

    name: str
    probe: Callable[[], Awaitable[None]]
    required: bool = True
    timeout: float = 2.0


class CheckResult(BaseModel):
    name: str
    healthy: bool
    required: bool
    milliseconds: float
    error: str | None = None


class HealthReport(BaseModel):
    service: str
    version: str
    status: Health
    checks: list[CheckResult]


async def _run(check: HealthCheck) -> CheckResult:
    started = perf_counter()
    error: str | None = None
    try:
        async with asyncio.timeout(check.timeout):
            await check.probe()
    except Exception as failure:  # noqa: BLE001 - a probe may fail in any way; the class name is the finding
        error = type(failure).__name__
    return CheckResult(
        name=check.name,
        healthy=error is None,
        required=check.required,
        milliseconds=round((perf_counter() - started) * 1000, 1),
        error=error,
    )


async def report(service: str, version: str, checks: Sequence[HealthCheck]) -> HealthReport:
    results = list(await asyncio.gather(*(_run(check) for check in checks)))
    status: Health = "up"
    if any(not result.healthy for result in results):
        status = "down" if any(not r.healthy and r.required for r in results) else "degraded"
    return HealthReport(service=service, version=version, status=status, checks=results)


def health_router(service: str, version: str, checks: Sequence[HealthCheck]) -> APIRouter:
    router = APIRouter(include_in_schema=False, dependencies=[public(_NO_SECRET)])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Answers while the event loop turns; a failing server must not restart this process."""
        return {"service": service, "status": "up"}

    async def answer(response: Response) -> HealthReport:
        found = await report(service, version, checks)
        response.status_code = 503 if found.status == "down" else 200
        return found

    router.add_api_route("/health/ready", answer, methods=["GET"])
    router.add_api_route("/health", answer, methods=["GET"])
    return router
