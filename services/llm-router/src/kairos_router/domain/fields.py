"""Fields that requests of several operations have in common. Each reader raises InvalidAsk by name."""

from collections.abc import Mapping
from typing import Any

from kairos_router.domain.ask import InvalidAsk


def document(payload: object) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise InvalidAsk("the body must be a JSON object")
    return payload


def model(payload: Mapping[str, Any]) -> str:
    value = payload.get("model")
    if not isinstance(value, str) or not value:
        raise InvalidAsk("you must provide a model parameter", "model")
    return value


def positive(payload: Mapping[str, Any], name: str) -> int | None:
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidAsk(f"'{name}' must be a positive integer", name)
    return value


def flag(payload: Mapping[str, Any], name: str) -> bool:
    value = payload.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidAsk(f"'{name}' must be a boolean", name)
    return value


def optional(payload: Mapping[str, Any], name: str, kind: type, noun: str) -> Any:
    """The value when it is of that type, None when it is absent."""
    value = payload.get(name)
    if value is not None and not isinstance(value, kind):
        raise InvalidAsk(f"'{name}' must be {noun}", name)
    return value
