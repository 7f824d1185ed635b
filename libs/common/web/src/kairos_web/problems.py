"""Errors as RFC 9457 problem details, one shape for every service and every status."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketState

MEDIA_TYPE = "application/problem+json"
_WS_POLICY_VIOLATION = 1008
_WS_TRY_LATER = 1013
# Before what a validator of ours says; it helps nobody.
_PYDANTIC_SAYS = "Value error, "
# Parts of a request that are no documents.
_OUTSIDE = frozenset({("path",), ("query",), ("header",), ("cookie",)})


class Problem(Exception):  # noqa: N818 - the name RFC 9457 gives it
    """The request ends here with this status and problem document. `extra` becomes members of it."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(f"{status} {code}: {title}")
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra


def problem_document(problem: Problem, *, request_id: str | None = None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": f"urn:kairos:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
    }
    if problem.detail:
        document["detail"] = problem.detail
    if request_id:
        document["request_id"] = request_id
    return document | problem.extra


def problem_response(problem: Problem, *, request_id: str | None = None) -> JSONResponse:
    document = problem_document(problem, request_id=request_id)
    return JSONResponse(document, status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def unavailable(detail: str = "", *, retry_after: int = 2) -> Problem:
    """503 for a server this service needs; the caller may repeat the request."""
    return Problem(
        503,
        "unavailable",
        "A server this service needs is away",
        detail,
        headers={"Retry-After": str(retry_after)},
    )


def _request_id(connection: HTTPConnection) -> str | None:
    value: str | None = getattr(connection.state, "request_id", None)
    return value


async def _answer(connection: HTTPConnection, problem: Problem) -> Response | None:
    """An HTTP answer, or the matching close of a WebSocket that is open already."""
    if isinstance(connection, WebSocket) and connection.application_state is WebSocketState.CONNECTED:
        code = _WS_TRY_LATER if problem.status == HTTPStatus.SERVICE_UNAVAILABLE else _WS_POLICY_VIOLATION
        await connection.close(code, problem.code)
        return None
    return problem_response(problem, request_id=_request_id(connection))


async def _on_problem(connection: Any, error: Any) -> Response | None:
    return await _answer(connection, error)


_KNOWN_STATUS = {
    404: ("not_found", "There is nothing at this address"),
    405: ("method_not_allowed", "This address does not take that method"),
    413: ("body_too_large", "The body is larger than this address accepts"),
}


async def _on_http_exception(connection: Any, error: Any) -> Response | None:
    code, title = _KNOWN_STATUS.get(
        error.status_code, (f"http_{error.status_code}", HTTPStatus(error.status_code).phrase)
    )
    detail = "" if error.detail == HTTPStatus(error.status_code).phrase else str(error.detail)
    problem = Problem(error.status_code, code, title, detail, headers=error.headers)
    return await _answer(connection, problem)


def as_written(error: Mapping[str, Any], document: object) -> tuple[str | int, ...]:
    """Where pydantic's error is, in the words of the document it is about.

    pydantic's own path also names the member of a union that it tried, which nobody has written.
    """
    where: tuple[str | int, ...] = tuple(error["loc"])
    if error["type"] == "json_invalid" or where[:1] in _OUTSIDE:
        return where
    path: list[str | int] = []
    for part in where:
        if _has(document, part):
            document = document[part]  # type: ignore[index] # it has it
            path.append(part)
    if error["type"] == "missing":
        path.append(where[-1])
    return tuple(path)


def _has(document: object, part: str | int) -> bool:
    if isinstance(document, dict):
        return part in document
    return isinstance(document, list) and isinstance(part, int) and part < len(document)


def findings(errors: Sequence[Mapping[str, Any]], document: object) -> list[dict[str, str]]:
    """What is wrong where. The rejected input is left out: it may be a password or a token."""
    located = [(as_written(error, document), error) for error in errors]
    wrong_inside = {path[:length] for path, _ in located for length in range(len(path))}
    return [
        {
            "at": "/".join(map(str, path)),
            "problem": error["msg"].removeprefix(_PYDANTIC_SAYS),
            "kind": error["type"],
        }
        for path, error in located
        # A list whose members are wrong is said to be too short without them.
        if error["type"] != "too_short" or path not in wrong_inside
    ]


async def _on_validation(connection: Any, error: Any) -> Response | None:
    errors = findings(error.errors(), {"body": getattr(error, "body", None)})
    return await _answer(
        connection, Problem(422, "invalid_request", "The request is not valid", errors=errors)
    )


def install(app: FastAPI, unavailable_errors: Sequence[type[Exception]]) -> None:
    """Register the handlers that turn every expected error into a problem document."""

    async def on_unavailable(connection: Any, error: Any) -> Response | None:
        return await _answer(connection, unavailable(type(error).__name__))

    handlers: list[tuple[type[Exception], Any]] = [
        (Problem, _on_problem),
        (HTTPException, _on_http_exception),
        (RequestValidationError, _on_validation),
        (WebSocketRequestValidationError, _on_validation),
        *((kind, on_unavailable) for kind in unavailable_errors),
    ]
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)


def internal_error(request: Request) -> JSONResponse:
    """What a caller sees of an error nobody expected: the request id, nothing else."""
    problem = Problem(500, "internal", "The service failed; the request id finds the log entry")
    return problem_response(problem, request_id=_request_id(request))
