"""OpenAI's error envelope."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import orjson

from kairos_router.application.explain_failure import Explanation

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    status: int
    code: str
    body: bytes
    headers: list[Header] = field(default_factory=list)


def envelope(
    message: str, kind: str, code: str, param: str | None = None, decision_id: UUID | None = None
) -> bytes:
    error: dict[str, object] = {"message": message, "type": kind, "param": param, "code": code}
    if decision_id is not None:
        error["decision_id"] = str(decision_id)
    return orjson.dumps({"error": error})


def error_answer(
    explanation: Explanation, decision_id: UUID | None = None, *, headers: Sequence[Header] = ()
) -> ErrorAnswer:
    """The answer to a caller. A provider's own error document passes through when it is one."""
    body = explanation.body if _is_error_document(explanation.body) else b""
    headers = list(headers)
    if explanation.retry_after:
        headers.append((b"retry-after", explanation.retry_after.encode("latin-1", "ignore")))
    if decision_id is not None:
        headers.append((b"x-kairos-decision-id", str(decision_id).encode()))
    return ErrorAnswer(
        explanation.status,
        explanation.code,
        body
        or envelope(explanation.message, explanation.type, explanation.code, explanation.param, decision_id),
        headers,
    )


def _is_error_document(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and isinstance(document.get("error"), dict)


UNAUTHENTICATED = Explanation(
    401, "invalid_api_key", "Send a valid API key as a bearer token", "authentication_error"
)
FORBIDDEN = Explanation(403, "forbidden", "Your role or scopes do not allow this", "permission_error")
NOT_FOUND = Explanation(404, "not_found", "There is nothing at this address", "invalid_request_error")
WRONG_METHOD = Explanation(
    405, "method_not_allowed", "This address does not take that method", "invalid_request_error"
)
TOO_LARGE = Explanation(
    413, "body_too_large", "The body is larger than this address accepts", "invalid_request_error"
)
INVALID_JSON = Explanation(400, "invalid_json", "The body is not valid JSON", "invalid_request_error")
AUTH_AWAY = Explanation(
    503, "auth_unavailable", "API keys can't be checked now", "server_error", retry_after="2"
)
INTERNAL = Explanation(500, "internal_error", "Something went wrong on our side", "server_error")


def bad_header(name: str, wanted: str) -> Explanation:
    return Explanation(
        400, "invalid_header", f"The header {name} must be {wanted}", "invalid_request_error", name
    )
