"""kairos.toml: the deployments, routes and prices the router starts with."""

import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kairos_router.domain.catalogue import (
    Auth,
    Capability,
    Catalogue,
    Deployment,
    Dialect,
    Route,
    Timeouts,
)
from kairos_router.domain.pricing import TOKENS_PER_PRICE, Price

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")

# A name travels in a response header and in metrics.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$")]
NanoPerToken = Annotated[Decimal, Field(ge=0, decimal_places=6)]


class InvalidCatalogue(ValueError):  # noqa: N818 - reads as the fact it states
    """kairos.toml can't be used as it is; the router does not start with it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PriceSection(_Section):
    """nano-USD per token; fractions down to a millionth are exact."""

    input: NanoPerToken
    output: NanoPerToken
    cached_input: NanoPerToken | None = None


class _TimeoutSection(_Section):
    connect: float = Field(3.0, gt=0)
    first_byte: float = Field(60.0, gt=0)
    idle: float = Field(30.0, gt=0)


class _DeploymentSection(_Section):
    kind: Literal["simulator", "openai", "litellm", "local"]
    model: str
    price: _PriceSection
    provider: str = "openai"
    base_url: str = ""
    api_key_env: str | None = None
    stand_in: bool = False
    context_window: int = Field(gt=0)
    max_output_tokens: int = Field(gt=0)
    capabilities: frozenset[Capability] = frozenset({Capability.STREAMING})
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    image_tokens: int = Field(2_048, gt=0)
    latency_ms: int = Field(0, ge=0)
    timeouts: _TimeoutSection = _TimeoutSection()
    path: str = "/{operation}"
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    auth: Auth = "bearer"
    strip: frozenset[str] = frozenset()
    options: dict[str, str] = {}


class _RouteSection(_Section):
    deployments: tuple[Name, ...] = Field(min_length=1)


class _File(_Section):
    price_version: str
    deployments: dict[Name, _DeploymentSection]
    routes: dict[Name, _RouteSection] = {}


class _Unset(LookupError):  # noqa: N818 - reads as the fact it states
    """A variable without a default is not set: the deployment is absent."""


def _expand(text: str, environment: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = environment.get(match["name"]) or match["default"]
        if found is None:
            raise _Unset(match["name"])
        return found

    return _VARIABLE.sub(value, text)


def _per_million(price: Decimal) -> int:
    return int(price * TOKENS_PER_PRICE)


def _price(section: _PriceSection, version: str) -> Price:
    cached = section.cached_input
    return Price(
        version,
        _per_million(section.input),
        _per_million(section.output),
        None if cached is None else _per_million(cached),
    )


def _dialect(section: _DeploymentSection, environment: Mapping[str, str]) -> Dialect:
    def pairs(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return tuple((name, _expand(value, environment)) for name, value in values.items())

    return Dialect(
        path=section.path,
        query=pairs(section.query),
        headers=pairs(section.headers),
        auth=section.auth,
        strip=section.strip,
        options=pairs(section.options),
    )


def _deployment(
    name: str, section: _DeploymentSection, version: str, environment: Mapping[str, str]
) -> Deployment | None:
    """None when a variable the deployment needs is not set."""
    api_key = None
    if section.api_key_env:
        api_key = environment.get(section.api_key_env)
        if not api_key:
            return None
    try:
        base_url = _expand(section.base_url, environment)
        model = _expand(section.model, environment)
        dialect = _dialect(section, environment)
    except _Unset:
        return None
    if section.kind == "openai" and not base_url.startswith(("http://", "https://")):
        raise InvalidCatalogue(f"deployment {name}: base_url must be an http address")
    return Deployment(
        name=name,
        kind=section.kind,
        model=model,
        price=_price(section.price, version),
        provider=section.provider,
        base_url=base_url,
        api_key=api_key,
        context_window=section.context_window,
        max_output_tokens=section.max_output_tokens,
        capabilities=section.capabilities,
        max_tokens_field=section.max_tokens_field,
        image_tokens=section.image_tokens,
        latency_ms=section.latency_ms,
        timeouts=Timeouts(**section.timeouts.model_dump()),
        dialect=dialect,
    )


def _route(name: str, section: _RouteSection, file: _File, present: Mapping[str, Deployment]) -> Route | None:
    """The route over what is present. A stand-in serves only where nothing else does."""
    for deployment in section.deployments:
        if deployment not in file.deployments:
            raise InvalidCatalogue(f"route {name}: there is no deployment {deployment}")
    names = tuple(deployment for deployment in section.deployments if deployment in present)
    real = tuple(deployment for deployment in names if not file.deployments[deployment].stand_in)
    return Route(name, real or names) if names else None


def read_catalogue(document: Mapping[str, Any], environment: Mapping[str, str]) -> Catalogue:
    """Build the catalogue from a parsed file. Raises InvalidCatalogue."""
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        # The input is left out: somebody may have written a key where its variable's name belongs.
        findings = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise InvalidCatalogue("; ".join(findings)) from None
    deployments: dict[str, Deployment] = {}
    for name, section in file.deployments.items():
        deployment = _deployment(name, section, file.price_version, environment)
        if deployment is not None:
            deployments[name] = deployment
    routes: dict[str, Route] = {}
    for name, route_section in file.routes.items():
        route = _route(name, route_section, file, deployments)
        if route is not None:
            routes[name] = route
    return Catalogue(deployments, routes)


def load_catalogue(path: Path, environment: Mapping[str, str]) -> Catalogue:
    """Raises InvalidCatalogue, OSError."""
    try:
        document = tomllib.loads(path.read_text("utf-8"), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise InvalidCatalogue(f"{path}: {error}") from None
    return read_catalogue(document, environment)


class FixedCatalogue:
    """The catalogue of the file, for the life of the process."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def current(self) -> Catalogue:
        return self._catalogue
