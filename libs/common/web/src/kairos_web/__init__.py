from kairos_web.access import (
    AuditDenial,
    Authenticator,
    CurrentActor,
    CurrentContext,
    CurrentOrganisation,
    Declaration,
    Public,
    Requires,
    UndeclaredRoute,
    audit_context,
    declarations,
    public,
    refuse_undeclared_routes,
    requires,
)
from kairos_web.application import create_app
from kairos_web.authenticators import RemoteAuthenticator, credential_of, is_service_token
from kairos_web.background import Background, BackgroundTaskDown
from kairos_web.bounded_heads import BoundedHeads
from kairos_web.health import HealthCheck
from kairos_web.outbound import OutboundSession
from kairos_web.paging import Page, Paged, PageQuery, decode_cursor, encode_cursor
from kairos_web.problems import Problem, problem_response, unavailable
from kairos_web.rate_limit import Decision, Limit, RateLimiter, limited
from kairos_web.same_origin import (
    CSRF_HEADER,
    from_same_origin,
    refuse_forgery,
    session_cookie_name,
)
from kairos_web.server import run, serve
from kairos_web.service_tokens import (
    AuthUnavailable,
    RemoteKeys,
    ServiceTokens,
    TokenRefused,
    TokenVerifier,
)
from kairos_web.settings import ServiceSettings

__all__ = [
    "CSRF_HEADER",
    "AuditDenial",
    "AuthUnavailable",
    "Authenticator",
    "Background",
    "BackgroundTaskDown",
    "BoundedHeads",
    "CurrentActor",
    "CurrentContext",
    "CurrentOrganisation",
    "Decision",
    "Declaration",
    "HealthCheck",
    "Limit",
    "OutboundSession",
    "Page",
    "PageQuery",
    "Paged",
    "Problem",
    "Public",
    "RateLimiter",
    "RemoteAuthenticator",
    "RemoteKeys",
    "Requires",
    "ServiceSettings",
    "ServiceTokens",
    "TokenRefused",
    "TokenVerifier",
    "UndeclaredRoute",
    "audit_context",
    "create_app",
    "credential_of",
    "declarations",
    "decode_cursor",
    "encode_cursor",
    "from_same_origin",
    "is_service_token",
    "limited",
    "problem_response",
    "public",
    "refuse_forgery",
    "refuse_undeclared_routes",
    "requires",
    "run",
    "serve",
    "session_cookie_name",
    "unavailable",
]
