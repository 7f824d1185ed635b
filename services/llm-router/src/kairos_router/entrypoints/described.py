"""/v1 in OpenAPI's words. It is served past FastAPI, so nothing else describes it."""

from collections.abc import Iterable
from typing import Any, Final

from kairos_router.entrypoints.operations import Operation

_SHAPES: Final[dict[str, tuple[str, str]]] = {
    "chat": ("messages", "https://platform.openai.com/docs/api-reference/chat/create"),
    "responses": ("input", "https://platform.openai.com/docs/api-reference/responses/create"),
    "embeddings": ("input", "https://platform.openai.com/docs/api-reference/embeddings/create"),
}
_REQUEST_HEADERS: Final = {
    "x-kairos-priority": "`batch`, `normal` or `interactive`: who may use what budgets reserve",
    "x-kairos-contact-id": "the UUID of the contact this is for; it adds that contact's limits",
    "x-kairos-cache": "`no-store`, `no-cache` or `only-if-cached`",
}
_ANSWER_HEADERS: Final = {
    "x-kairos-completion-id": "names the request in usage",
    "x-kairos-deployment": "who answered",
    "x-kairos-degraded": "`budget.clamped`, `budget.cheaper` or `budget.local`: what a budget has changed",
    "x-kairos-cost-nano-usd": "what it cost; a stream says it in a comment event",
    "x-kairos-cache": "`hit`, `semantic` or `miss`, where the route keeps answers",
    "RateLimit-Remaining": "what the tightest quota leaves; also OpenAI's `x-ratelimit-*`",
}
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "decision_id": {"type": "string", "description": "`GET /decisions/{id}` says why"},
            },
        }
    },
}
_REFUSALS: Final = {
    "400": "`invalid_request`, `invalid_header`, `context_length_exceeded`, `unsupported_by_model`",
    "401": "`invalid_api_key`",
    "402": "`budget_exceeded`: no budget has room, not even for less or for a cheaper model",
    "403": "The key lacks the permission",
    "404": "`model_not_found`",
    "429": "`rate_limit_exceeded` with Retry-After, or the provider's own limit",
    "default": "Another failure, of the provider or of a server here; `error.code` says which",
}


def _headers(texts: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in texts.items()}


def _described(operation: Operation) -> dict[str, Any]:
    error = {"application/json": {"schema": _ERROR}}
    permission = operation.permission.value
    found: dict[str, Any] = {
        "tags": ["v1"],
        "summary": f"OpenAI's {operation.template.removeprefix('/v1/')}",
        "operationId": f"{operation.method.lower()}{operation.template}",
        "description": f"Errors are OpenAI's envelope.\n\nPermission: `{permission}`.",
        "security": [{"bearer": []}],
        "x-kairos-permission": permission,
        "responses": {"200": {"description": "As OpenAI answers", "headers": _headers(_ANSWER_HEADERS)}}
        | {status: {"description": text, "content": error} for status, text in _REFUSALS.items()},
    }
    if operation.kind in _SHAPES:
        field, reference = _SHAPES[operation.kind]
        schema = {
            "type": "object",
            "required": ["model", field],
            "properties": {"model": {"type": "string", "description": "a route or a deployment"}, field: {}},
            "additionalProperties": True,
        }
        found["externalDocs"] = {"url": reference, "description": "every field; unknown ones pass untouched"}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        found["parameters"] = [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
            for name, text in _REQUEST_HEADERS.items()
        ]
    elif "{" in operation.template:
        name = operation.template.partition("{")[2].rstrip("}")
        found["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]
    return found


def described(operations: Iterable[Operation]) -> dict[str, Any]:
    """OpenAPI's paths. The front door serves /v1 at its root, unlike everything else."""
    paths: dict[str, Any] = {}
    for operation in operations:
        path = paths.setdefault(operation.template, {"servers": [{"url": "/"}]})
        path[operation.method.lower()] = _described(operation)
    return paths
