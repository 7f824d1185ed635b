"""Refusals of use cases as HTTP problems."""

from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from kairos_auth.domain import errors
from kairos_web import Problem, problem_response

_PROBLEMS: dict[type[errors.AuthError], tuple[int, str, str]] = {
    errors.BadCredentials: (401, "invalid_credentials", "E-mail or password is wrong"),
    errors.TooManyAttempts: (429, "too_many_attempts", "Sign-in pauses after failed attempts"),
    errors.Busy: (503, "busy", "Too many sign-ins at once"),
    errors.WeakPassword: (422, "weak_password", "The password is too easy to guess"),
    errors.NotFound: (404, "not_found", "There is no such thing in this organisation"),
    errors.AlreadyExists: (409, "already_exists", "It exists already"),
    errors.LastAdmin: (409, "last_admin", "An organisation keeps at least one admin"),
    errors.ScopeExceedsRole: (422, "scope_exceeds_role", "A key can't do more than the member who makes it"),
    errors.MemberRequired: (403, "member_required", "Only a signed-in member can do this"),
    errors.UnknownService: (401, "invalid_credentials", "The service name or its secret is wrong"),
}


def problem_of(error: errors.AuthError) -> Problem:
    status, code, title = _PROBLEMS[type(error)]
    headers: dict[str, str] = {}
    if isinstance(error, errors.TooManyAttempts):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, errors.Busy):
        headers["Retry-After"] = "1"
    detail = str(error) if isinstance(error, errors.WeakPassword) else ""
    return Problem(status, code, title, detail, headers=headers)


def install(app: FastAPI) -> None:
    async def answer(request: Any, error: Any) -> Response:
        return problem_response(problem_of(error), request_id=request.state.request_id)

    for kind in _PROBLEMS:
        app.add_exception_handler(kind, answer)
