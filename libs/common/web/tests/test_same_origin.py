import pytest
from starlette.requests import HTTPConnection

from kairos_contracts.credentials import csrf_token
from kairos_web import Problem, refuse_forgery

TOKEN = "the session"
RIGHT = csrf_token(TOKEN)


def connection(method: str, kind: str = "http", **headers: str) -> HTTPConnection:
    named = {"host": "kairos.test", **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    return HTTPConnection({"type": kind, "method": method, "headers": raw, "path": "/", "query_string": b""})


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_needs_no_proof(method: str) -> None:
    refuse_forgery(connection(method, origin="http://evil.test"), TOKEN)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://kairos.test"},
        {"sec_fetch_site": "same-origin"},
        {"origin": "https://kairos.test", "sec_fetch_site": "same-origin"},
    ],
)
def test_our_own_page_with_the_token_may_write(headers: dict[str, str]) -> None:
    refuse_forgery(connection("POST", x_csrf_token=RIGHT, **headers), TOKEN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://evil.test"},
        {"origin": "http://kairos.test.evil.test"},
        {"origin": "http://kairos.test:8080"},
        {"origin": "null"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"origin": "http://kairos.test", "sec_fetch_site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_another_page_may_not_even_with_the_token(method: str, headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as refused:
        refuse_forgery(connection(method, x_csrf_token=RIGHT, **headers), TOKEN)
    assert refused.value.code == "cross_origin"


@pytest.mark.parametrize("token", ["", "wrong", "é", csrf_token("another session")])
def test_our_own_page_without_the_right_token_may_not(token: str) -> None:
    with pytest.raises(Problem) as refused:
        refuse_forgery(connection("POST", origin="http://kairos.test", x_csrf_token=token), TOKEN)
    assert refused.value.code == "csrf"


def test_a_websocket_opens_from_our_own_page_only() -> None:
    refuse_forgery(connection("GET", "websocket", origin="http://kairos.test"), TOKEN)
    for headers in ({}, {"origin": "http://evil.test"}):
        with pytest.raises(Problem):
            refuse_forgery(connection("GET", "websocket", **headers), TOKEN)
