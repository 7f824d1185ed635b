"""The one way to make an HTTP application of the suite."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

from kairos_telemetry import metrics
from kairos_web.access import AuditDenial, Authenticator, public, refuse_undeclared_routes
from kairos_web.health import HealthCheck, health_router
from kairos_web.interface import interface
from kairos_web.middleware import RequestScope
from kairos_web.problems import install
from kairos_web.rate_limit import RateLimiter

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
MAX_BODY = 1_048_576


def _guarded(lifespan: Lifespan) -> Lifespan:
    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        refuse_undeclared_routes(app)
        async with lifespan(app):
            yield

    return run


def create_app(
    service: str,
    *,
    title: str,
    version: str,
    lifespan: Lifespan,
    authenticator: Authenticator | None,
    checks: Sequence[HealthCheck],
    audit_denial: AuditDenial | None = None,
    max_body: int = MAX_BODY,
    unavailable: Sequence[type[Exception]] = (),
    rate_limiter: RateLimiter | None = None,
) -> FastAPI:
    """An application with health, metrics, problem+json, request ids, spans and the route guard.

    `authenticator` may be None when the lifespan sets `app.state.authenticator` later; until then guarded
    routes answer 503. `unavailable` lists the exceptions that mean "a server is away": they answer 503
    with Retry-After. Starting fails with UndeclaredRoute when a route declares no permission.
    """
    app = FastAPI(
        title=title,
        version=version,
        lifespan=_guarded(lifespan),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.authenticator = authenticator
    app.state.audit_denial = audit_denial
    app.state.rate_limiter = rate_limiter
    install(app, unavailable)
    app.add_middleware(RequestScope, service=service, max_body=max_body)
    app.include_router(health_router(service, version, checks))
    _describe_interface(app, service)
    return app


def _describe_interface(app: FastAPI, service: str) -> None:
    no_secret = "it describes the interface and carries no data"  # noqa: S105 - a sentence

    @app.get("/metrics", include_in_schema=False, dependencies=[public("scraped inside the cluster only")])
    async def metrics_page(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept"))
        return Response(body, media_type=content_type)

    @app.get("/openapi.json", include_in_schema=False, dependencies=[public(no_secret)])
    async def openapi() -> dict[str, Any]:
        return interface(app, service)
