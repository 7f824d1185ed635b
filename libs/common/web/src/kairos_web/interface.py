"""What `/openapi.json` says beyond what FastAPI knows: permissions, problem documents, the front door."""

import re
from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI

from kairos_web.access import Requires, declarations
from kairos_web.problems import MEDIA_TYPE

_CONVERTER: Final = re.compile(r":[a-z]+(?=\})")
_BEARER: Final = "bearer"
_INTERNAL: Final = "/internal/"
_SCHEMAS: Final = "#/components/schemas/"
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457. `code` is stable, for programs; `errors` names what is wrong with a request.",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:kairos:problem:invalid_request"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "request_id": {"type": "string", "description": "finds the log entry"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "at": {"type": "string", "examples": ["body/limit_usd"]},
                    "problem": {"type": "string"},
                    "kind": {"type": "string"},
                },
            },
        },
    },
}


def _refusal(description: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, "content": content}


def _explain(operation: dict[str, Any], permission: str | None) -> None:
    responses = operation["responses"]
    if "422" in responses:
        responses["422"] = _refusal("The request is not valid; `errors` says where and why")
    responses["default"] = _refusal("Any other refusal")
    if permission is not None:
        operation["security"] = [{_BEARER: []}]
        operation["x-kairos-permission"] = permission
        told = operation.get("description", "")
        operation["description"] = f"{told}\n\nPermission: `{permission}`.".strip()
        responses["401"] = _refusal("No credential, or one nobody knows")
        responses["403"] = _refusal(f"The caller lacks `{permission}`")


def _named(part: object) -> Iterator[str]:
    """The schemas that a part of the document refers to."""
    if isinstance(part, dict):
        reference = part.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(_SCHEMAS)
        for each in part.values():
            yield from _named(each)
    elif isinstance(part, list):
        for each in part:
            yield from _named(each)


def _used(paths: object, schemas: dict[str, Any]) -> set[str]:
    used: set[str] = set()
    waiting = set(_named(paths))
    while waiting:
        used |= waiting
        waiting = {name for each in waiting for name in _named(schemas[each])} - used
    return used


def interface(app: FastAPI, service: str) -> dict[str, Any]:
    """The OpenAPI document, made once: FastAPI keeps it.

    `app.state.more_paths` are paths served beside FastAPI, whose operations describe themselves.
    """
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = app.openapi()
    # What services say to each other is nobody else's interface, and the front door does not serve it.
    document["paths"] = {
        path: operations for path, operations in document["paths"].items() if not path.startswith(_INTERNAL)
    }
    permissions = {
        (_CONVERTER.sub("", declared.path), method.lower()): guard.permission.value
        for declared in declarations(app)
        for method in declared.methods
        for guard in declared.guards
        if isinstance(guard, Requires)
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _explain(operation, permissions.get((path, method)))
    document["paths"] |= getattr(app.state, "more_paths", {})
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    components["schemas"] = {name: schemas[name] for name in sorted(_used(document["paths"], schemas))}
    components["securitySchemes"] = {
        _BEARER: {"type": "http", "scheme": "bearer", "description": "An API key, or a person's access token"}
    }
    document["servers"] = [
        {"url": f"/api/{service}", "description": "through the front door"},
        {"url": "/", "description": "the service itself"},
    ]
    return document
