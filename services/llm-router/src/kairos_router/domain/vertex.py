"""Vertex AI: whose key reaches it, and where it is.

A file of Google's credentials may also name programs to run, files to read and servers to ask for a token.
Only a service account's key is none of these, but for the server it names.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# LiteLLM's names for it, and ours.
NAMES: Final = frozenset({"vertex", "vertex_ai", "vertex_ai_beta"})
OPTIONS: Final = frozenset({"vertex_location", "vertex_project"})
TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
_UNIVERSE: Final = "googleapis.com"
_KEPT: Final = ("client_email", "private_key", "private_key_id", "project_id", "token_uri")
_NEEDED: Final = ("client_email", "private_key", "token_uri")
_PEM: Final = "-----BEGIN "
# They become part of a host's name and of a path.
_LOCATION: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9.:-]{0,99}")
_MODEL: Final = re.compile(r"gemini-[a-z0-9.-]+")


class InvalidVertex(ValueError):  # noqa: N818 - reads as the fact it states
    """It can't be reached like this. The message holds nothing of the key."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """`document` is the key with the fields that are used, as JSON; a secret, as `private_key` is."""

    document: str = field(repr=False)
    private_key: str = field(repr=False)
    project: str


@dataclass(frozen=True, slots=True)
class Place:
    """`base_url` is Google's own address of the location."""

    project: str
    location: str
    base_url: str


def service_account(text: str, *, anywhere: bool) -> ServiceAccount:
    """The key that `text` holds; `anywhere`: it may ask another server than Google's for its token.

    Raises InvalidVertex.
    """
    given = _document(text)
    if given.get("type") != "service_account":
        raise InvalidVertex("Vertex AI takes the key of a service account, as JSON")
    if given.get("universe_domain", _UNIVERSE) != _UNIVERSE:
        raise InvalidVertex("the service account belongs to another cloud than Google's public one")
    used = {name: given[name] for name in _KEPT if given.get(name)}
    missing = [name for name in _NEEDED if name not in used]
    if missing or not all(isinstance(value, str) for value in used.values()):
        raise InvalidVertex(f"the service account's key needs {', '.join(missing or _NEEDED)} as text")
    if not used["private_key"].startswith(_PEM):
        raise InvalidVertex("the service account's private_key is not in PEM")
    if used["token_uri"] != TOKEN_URI and not anywhere:
        raise InvalidVertex(f"the service account's token_uri must be {TOKEN_URI}")
    document = json.dumps({"type": "service_account", **used})
    return ServiceAccount(document, used["private_key"], used.get("project_id", ""))


def place(options: Mapping[str, str], model: str, account: ServiceAccount) -> Place:
    """Raises InvalidVertex."""
    location, project = options.get("vertex_location", ""), options.get("vertex_project") or account.project
    if not _LOCATION.fullmatch(location):
        raise InvalidVertex("vertex_location must name a location of Vertex AI, for example europe-west4")
    if not _PROJECT.fullmatch(project):
        raise InvalidVertex("vertex_project must name a project")
    if not _MODEL.fullmatch(model):
        raise InvalidVertex("of Vertex AI, Gemini's models are reached, by their plain names")
    return Place(project, location, f"https://{_host(location)}")


def _host(location: str) -> str:
    if location == "global":
        return "aiplatform.googleapis.com"
    if "-" not in location:
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}
