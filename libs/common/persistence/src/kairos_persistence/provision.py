"""Make the database, its roles and its schemas; doing it again changes nothing but passwords.

`kairos_owner` owns every object and runs migrations. Each service logs in as its own role, owns
nothing, and has rights in its own schema only.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from kairos_persistence.settings import DatabaseSettings, given_or

OWNER = "kairos_owner"
ROLE_PREFIX = "kairos_"
DATABASE = "kairos"

RUNTIME_SETTINGS: Mapping[str, str] = {
    "statement_timeout": "15s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
}
_LOCK = 0x6B6169726F73  # "kairos": two provisioners of one server take turns.


class UnsafeRole(Exception):  # noqa: N818 - reads as the fact it states
    """The role exists and is a superuser or bypasses row level security; nothing was changed for it."""


def schema_of(role: str) -> str:
    """`kairos_bots` owns nothing and works in `bots`."""
    schema = role.removeprefix(ROLE_PREFIX)
    if schema == role or not schema.isidentifier() or schema != schema.lower():
        raise ValueError(f"a role is named {ROLE_PREFIX}<schema>, not {role!r}")
    return schema


def provision(admin_url: str, roles: Mapping[str, str], *, database: str = DATABASE) -> None:
    """Make everything that is missing.

    `roles` maps a role to its password; include `kairos_owner` to let it log in. `admin_url` is a
    superuser's, or of a role with CREATEDB and CREATEROLE. Raises UnsafeRole.
    """
    services = [role for role in roles if role != OWNER]
    schemas = {role: schema_of(role) for role in services}
    with _session(admin_url) as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        for role, password in {OWNER: None, **roles}.items():
            _ensure_role(admin, role, password)
        _ensure_membership(admin)
        _ensure_database(admin, database)
        for role, schema in schemas.items():
            _configure_role(admin, role, schema)
        with _session(make_conninfo(_libpq(admin_url), dbname=database)) as inside:
            _close_public(inside, database, services)
            for role, schema in schemas.items():
                _ensure_schema(inside, role, schema)


@contextmanager
def _session(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(_libpq(url), autocommit=True, connect_timeout=10) as connection:
        connection.execute("SET client_min_messages = warning")
        yield connection


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _ensure_role(admin: psycopg.Connection, role: str, password: str | None) -> None:
    found = admin.execute(
        "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = %s", (role,)
    ).fetchone()
    if found is None:
        admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    elif found[0]:
        raise UnsafeRole(role)
    if password is not None:
        # The verifier is computed here, so that the password never stands in a server's statement log.
        verifier = admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        admin.execute(
            sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier))
        )


def _ensure_membership(admin: psycopg.Connection) -> None:
    # An administrator who is no superuser can give objects to the owner only as its member.
    admin.execute(
        sql.SQL(
            "DO $$ BEGIN IF NOT pg_has_role(current_user, {name}, 'MEMBER')"
            " THEN EXECUTE format('GRANT {role} TO %I', current_user); END IF; END $$"
        ).format(name=sql.Literal(OWNER), role=sql.Identifier(OWNER))
    )


def _ensure_database(admin: psycopg.Connection, database: str) -> None:
    if admin.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone() is None:
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(database), sql.Identifier(OWNER)
            )
        )


def _configure_role(admin: psycopg.Connection, role: str, schema: str) -> None:
    for name, value in {"search_path": schema, **RUNTIME_SETTINGS}.items():
        admin.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(
                sql.Identifier(role), sql.Identifier(name), sql.Literal(value)
            )
        )


def _close_public(inside: psycopg.Connection, database: str, services: Sequence[str]) -> None:
    name = sql.Identifier(database)
    statements: tuple[sql.Composed | sql.SQL, ...] = (
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name),
        sql.SQL("REVOKE ALL ON SCHEMA public FROM PUBLIC"),
        sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC").format(
            sql.Identifier(OWNER)
        ),
        *(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, sql.Identifier(r)) for r in services),
    )
    for statement in statements:
        inside.execute(statement)


def _ensure_schema(inside: psycopg.Connection, role: str, schema: str) -> None:
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role), "owner": sql.Identifier(OWNER)}
    defaults = "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT "
    for statement in (
        "CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner}",
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        defaults + "SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
        defaults + "USAGE, SELECT ON SEQUENCES TO {role}",
        defaults + "EXECUTE ON FUNCTIONS TO {role}",
    ):
        inside.execute(sql.SQL(statement).format(**names))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kairos_persistence.provision", description=__doc__)
    parser.add_argument("--admin-url", help="otherwise KAIROS_POSTGRES_ADMIN_URL")
    parser.add_argument("--database", default=DATABASE)
    parser.add_argument("--role", action="append", default=[], metavar="ROLE=PASSWORD")
    parser.add_argument(
        "--roles-file", type=Path, help="JSON object of role to password; keeps them off the process list"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments(sys.argv[1:] if argv is None else argv)
    settings = DatabaseSettings()
    roles = {role: password.get_secret_value() for role, password in settings.role_passwords.items()}
    if given.roles_file:
        roles |= json.loads(given.roles_file.read_text("utf-8"))
    for pair in given.role:
        role, separator, password = pair.partition("=")
        if not separator:
            raise SystemExit(f"--role takes ROLE=PASSWORD; {role} has no password")
        roles[role] = password
    if not roles:
        raise SystemExit("no role is named: set KAIROS_ROLE_PASSWORDS, or use --roles-file or --role")
    admin_url = given_or(given.admin_url, settings.postgres_admin_url, "KAIROS_POSTGRES_ADMIN_URL")
    provision(admin_url, roles, database=given.database)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
