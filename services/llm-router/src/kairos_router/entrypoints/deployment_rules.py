"""What the file may say of a deployment and an organisation may not (docs/decisions/0021)."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from kairos_router.application.catalogue_documents import DeploymentDocument, Entry
from kairos_router.application.catalogue_store import Surroundings, lends
from kairos_router.application.guard_address import InvalidAddress, Reach, origin
from kairos_router.domain import vertex
from kairos_router.domain.catalogue import Catalogue
from kairos_router.domain.provider_rules import FRAMING, KEY_ONLY
from kairos_web import Problem

# What the SDK of kind litellm may be told by an organisation; other options name files and profiles of ours.
_SAFE_OPTIONS = frozenset({"api_version", "organization"})
# What people call what nobody should read. Headers and query are shown to all who may read models.
_SECRET = re.compile(r"auth|cookie|credential|key|passw|secret|signature|token", re.IGNORECASE)
_OUR_HEADERS = FRAMING | {"host", "traceparent", "x-kairos-attempt-id"}
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PATH = re.compile(r"[!\"$->@-\[\]-~]*")
_PRINTABLE = re.compile(r"[\t -~\x80-\xff]*")


def check(
    body: DeploymentDocument, reach: Reach, surroundings: Surroundings, shared: Catalogue, *, has_key: bool
) -> None:
    """Raises Problem 422."""
    if body.kind == "openai":
        _check_address(body, reach)
    elif body.kind == "litellm":
        _check_sdk(body, has_key=has_key)
    _check_headers(body.headers)
    for name in body.query:
        if _SECRET.search(name):
            raise _refuse("secret_in_query", "Give the provider's key as api_key; the query is shown", name)
    variable = body.api_key_env
    if variable is None:
        return
    if variable not in surroundings.key_names:
        raise _refuse(
            "variable_not_allowed",
            "Organisations may not use this variable",
            "KAIROS_ROUTER_PROVIDER_KEY_NAMES lists those they may",
        )
    if body.kind == "openai" and not lends(shared, surroundings.environment.get(variable), body.base_url):
        raise _refuse(
            "key_not_lent_there", "This variable's key goes only where a shared deployment sends it", variable
        )


def _check_address(body: DeploymentDocument, reach: Reach) -> None:
    try:
        _, host, port = origin(body.base_url)
    except InvalidAddress as error:
        raise _refuse("invalid_address", "base_url must be a plain http address") from error
    if not _PATH.fullmatch(body.path):
        raise _refuse("invalid_address", "path must be a plain path; a query stands in query")
    if not reach.may_be_named(host, port):
        raise _refuse(
            "private_address",
            "The address is inside this installation's own network",
            "KAIROS_ROUTER_PROVIDER_NETWORKS names the networks inside that are allowed",
        )


def _check_sdk(body: DeploymentDocument, *, has_key: bool) -> None:
    at_vertex = body.provider in vertex.NAMES
    if not (at_vertex or body.provider in KEY_ONLY) or not has_key:
        raise _refuse("needs_own_key", "This provider needs a key of your own here", body.provider)
    if body.base_url:
        raise _refuse("invalid_address", "Deployments of kind litellm are at their provider's own address")
    allowed = vertex.OPTIONS if at_vertex else _SAFE_OPTIONS
    if set(body.options) - allowed:
        raise _refuse("invalid_option", f"Allowed options: {', '.join(sorted(allowed))}")


def check_key(body: DeploymentDocument, key: str) -> None:
    """A key that was given, where more than its provider can tell whether it is one. Raises Problem 422."""
    if body.kind != "litellm" or body.provider not in vertex.NAMES:
        return
    try:
        account = vertex.service_account(key, anywhere=False)
    except vertex.InvalidVertex as error:
        raise _refuse("needs_own_key", "This key can't be used at Vertex AI", str(error)) from None
    try:
        vertex.place(body.options, body.model, account)
    except vertex.InvalidVertex as error:
        raise _refuse("invalid_option", "Vertex AI can't be reached like this", str(error)) from None


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if _SECRET.search(name):
            raise _refuse("secret_in_header", "Give the provider's key as api_key; headers are shown", name)
        if name.lower() in _OUR_HEADERS or not _TOKEN.fullmatch(name) or not _PRINTABLE.fullmatch(value):
            raise _refuse("invalid_header", "A deployment can't set this header", name)


def require_key_again(before: Entry | None, document: Mapping[str, Any], *, key_given: bool) -> None:
    """A kept key goes nowhere else than it was given for: nobody reads it by moving the deployment.

    Raises Problem 422.
    """
    if before is None or before.sealed is None or key_given:
        return
    if _destination(before.document) != _destination(document):
        raise _refuse(
            "key_needed_again",
            "The key was given for another address or provider: give it again, or null",
        )


def _destination(document: Mapping[str, Any]) -> tuple[str, ...]:
    kind = str(document.get("kind", ""))
    if kind != "openai":
        return kind, str(document.get("provider", ""))
    parts = urlsplit(str(document.get("base_url", "")))
    return kind, parts.scheme, parts.netloc.lower()


def _refuse(code: str, title: str, detail: str = "") -> Problem:
    return Problem(422, code, title, detail)
