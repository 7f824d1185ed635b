"""Databases for tests: provisioned and migrated once per run, then cloned in milliseconds.

PostgreSQL copies a template database file by file, so a module gets tables of its own without running the
migrations again. Roles belong to the whole server and are shared.
"""

import secrets
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

OWNER: Final = "kairos_owner"
# Package -> schema. The login role of a service is kairos_<schema>.
SCHEMAS: Final = {
    "kairos_bots": "bots",
    "kairos_router": "router",
    "kairos_budget": "budget",
    "kairos_auth": "auth",
    "kairos_ops": "ops",
}
_PRISTINE: Final = "kairos"


def with_login(url: str, *, user: str, password: str, database: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"{user}:{password}@{host}", f"/{database}", parts.query, ""))


@dataclass(frozen=True, slots=True)
class ClonedDatabase:
    """A database with the schemas of one or more services."""

    name: str
    admin_url: str
    owner_url: str
    # schema -> address with the service's own runtime role
    urls: dict[str, str]


@dataclass(slots=True)
class Provisioned:
    """A server with every role, and the templates made so far."""

    admin_url: str
    passwords: dict[str, str] = field(
        default_factory=lambda: (
            {OWNER: "owner-pw"} | {f"kairos_{schema}": f"{schema}-pw" for schema in SCHEMAS.values()}
        )
    )
    _templates: dict[tuple[str, ...], str] = field(default_factory=dict)
    _lent: list[str] = field(default_factory=list)

    def provision(self) -> None:
        from kairos_persistence.provision import provision  # noqa: PLC0415 - coverage must have started

        provision(self.admin_url, self.passwords)

    def owner_url(self, database: str) -> str:
        return with_login(self.admin_url, user=OWNER, password=self.passwords[OWNER], database=database)

    def role_url(self, schema: str, database: str) -> str:
        role = f"kairos_{schema}"
        return with_login(self.admin_url, user=role, password=self.passwords[role], database=database)

    def database(self, *packages: str) -> ClonedDatabase:
        """Clone a database migrated for these packages, e.g. "kairos_bots" and "kairos_budget"."""
        key = tuple(sorted(packages))
        if key not in self._templates:
            template = self._clone(_PRISTINE, f"template_{secrets.token_hex(6)}")
            self._migrate(template, key)
            self._templates[key] = template
        name = self._clone(self._templates[key], f"test_{secrets.token_hex(6)}")
        self._lent.append(name)
        return ClonedDatabase(
            name=name,
            admin_url=urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{name}")),
            owner_url=self.owner_url(name),
            urls={SCHEMAS[package]: self.role_url(SCHEMAS[package], name) for package in packages},
        )

    def service_database(self, package: str, schema: str | None = None) -> str:
        """The runtime address of one service's own fresh, migrated database."""
        return self.database(package).urls[schema or SCHEMAS[package]]

    def drop_lent(self) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            while self._lent:
                name = sql.Identifier(self._lent.pop())
                connection.execute(sql.SQL("drop database if exists {} with (force)").format(name))

    def _clone(self, template: str, name: str) -> str:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("create database {} template {} owner {}").format(
                    sql.Identifier(name), sql.Identifier(template), sql.Identifier(OWNER)
                )
            )
            # Rights on a database are the one thing a clone does not inherit.
            connection.execute(sql.SQL("revoke all on database {} from public").format(sql.Identifier(name)))
            for schema in SCHEMAS.values():
                connection.execute(
                    sql.SQL("grant connect on database {} to {}").format(
                        sql.Identifier(name), sql.Identifier(f"kairos_{schema}")
                    )
                )
        return name

    def _migrate(self, database: str, packages: tuple[str, ...]) -> None:
        from kairos_persistence.migrate import migrate  # noqa: PLC0415 - coverage must have started

        for package in packages:
            migrate(self.owner_url(database), package, SCHEMAS[package])


def service_database(provisioned: Provisioned, package: str, schema: str) -> str:
    """Function form of Provisioned.service_database."""
    return provisioned.service_database(package, schema)
