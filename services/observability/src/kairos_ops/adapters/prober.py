"""Looks at a service's own health page."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import aiohttp

from kairos_ops.domain.health import Probe
from kairos_telemetry import metrics

TIMEOUT_S = 2.0


class HttpProber:
    """Implements Prober. `targets` maps a service to its base address."""

    def __init__(self, targets: Mapping[str, str], session: Callable[[], aiohttp.ClientSession]) -> None:
        self._targets = targets
        self._session = session

    async def probe(self, service: str) -> Probe:
        found = await self._look(self._targets[service])
        metrics.gauge("kairos_service_up").labels(service=service).set(1 if found.reached and found.ok else 0)
        return found

    async def _look(self, base: str) -> Probe:
        started = perf_counter()
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._session().get(f"{base.rstrip('/')}/health", timeout=timeout) as answer:
                body = await answer.json(content_type=None)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Probe(reached=False, ok=False, detail=_why(error), latency_ms=_since(started))
        ok = status == 200 and _field(body, "status") in {None, "up"}  # noqa: PLR2004 - HTTP OK
        return Probe(reached=True, ok=ok, detail="" if ok else _failing(body), latency_ms=_since(started))


def _since(started: float) -> int:
    return round((perf_counter() - started) * 1_000)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connection refused"
    return type(error).__name__


def _field(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, dict) else None


def _failing(body: Any) -> str:
    checks = _field(body, "checks") or []
    names = [
        str(check.get("name")) for check in checks if isinstance(check, dict) and not check.get("healthy")
    ]
    return f"failing: {', '.join(names)}" if names else "reports trouble"
