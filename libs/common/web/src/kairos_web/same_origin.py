"""Requests that ride on a cookie must come from our own pages."""

import hmac
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from kairos_contracts.credentials import csrf_token
from kairos_web.problems import Problem

CSRF_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def session_cookie_name(*, secure: bool) -> str:
    """The `__Host-` prefix needs HTTPS; plain HTTP is for development only."""
    return "__Host-kairos_session" if secure else "kairos_session"


def from_same_origin(connection: HTTPConnection) -> bool:
    """Whether the browser says that the request comes from a page of this very host."""
    fetch_site = connection.headers.get("sec-fetch-site")
    if fetch_site is not None and fetch_site != "same-origin":
        return False
    origin = connection.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == connection.headers.get("host")
    return fetch_site == "same-origin"


def refuse_forgery(connection: HTTPConnection, session_token: str) -> None:
    """Raise Problem 403 unless an unsafe request with this cookie comes from our own page.

    A WebSocket handshake can't carry our header, so there the origin decides.
    """
    if connection.scope["type"] == "http" and connection.scope["method"] in _SAFE:
        return
    if not from_same_origin(connection):
        raise Problem(403, "cross_origin", "A request with the session cookie must come from our own page")
    if connection.scope["type"] == "websocket":
        return
    offered = connection.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(offered.encode(), csrf_token(session_token).encode()):
        raise Problem(403, "csrf", "Send the token of GET /session as X-CSRF-Token")
