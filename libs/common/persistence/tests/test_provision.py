import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg
import pytest

from kairos_persistence.provision import UnsafeRole, main, provision, schema_of
from kairos_testkit.servers import Servers

pytestmark = pytest.mark.servers


def test_a_service_cannot_reach_another_schema(store: Any) -> None:
    with psycopg.connect(store.url("kairos_router"), autocommit=True) as connection:
        for statement in (
            b"SELECT * FROM bots.notes",
            b"SELECT * FROM bots.outbox",
            b"SELECT bots.ensure_partitions(1)",
            b"SELECT nextval('bots.outbox_sequence')",
            b"CREATE TABLE bots.mine ()",
            b"CREATE TABLE public.mine ()",
            b"SET ROLE kairos_owner",
            b"SET ROLE kairos_bots",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_service_owns_nothing_and_changes_no_definition(store: Any) -> None:
    with psycopg.connect(store.url("kairos_bots"), autocommit=True) as connection:
        for statement in (
            b"ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
            b"DROP POLICY tenant_scope ON notes",
            b"CREATE TABLE mine ()",
            b"CREATE TEMP TABLE mine ()",
            b"TRUNCATE notes",
            b"UPDATE partitioned_tables SET keep_days = 1",
            b"UPDATE alembic_version SET version_num = 'x'",
            b"SELECT create_day('outbox', 'created_at', current_date)",
            b"SELECT drop_day('outbox', 'outbox_default', 'true')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_an_append_only_table_takes_rows_and_gives_none_back_changed(store: Any) -> None:
    with psycopg.connect(store.url("kairos_bots"), autocommit=True) as connection:
        connection.execute("INSERT INTO seals VALUES (1)")
        assert connection.execute("SELECT id FROM seals").fetchall() == [(1,)]
        for statement in (
            b"UPDATE seals SET id = 2",
            b"DELETE FROM seals",
            b"TRUNCATE seals",
            b"SELECT * FROM seals FOR UPDATE",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_login_works_in_its_schema_with_bounded_waits(store: Any) -> None:
    query = (
        "SELECT current_schema(), current_setting('statement_timeout'), current_setting('lock_timeout'),"
        " current_setting('idle_in_transaction_session_timeout'), current_setting('timezone')"
    )
    assert store.rows(query, "kairos_bots") == [("bots", "15s", "5s", "30s", "UTC")]


def test_provisioning_again_and_at_once_changes_nothing_but_the_password(servers: Servers) -> None:
    name = f"store_{token_hex(6)}"
    suffix = token_hex(4)
    roles = {f"kairos_x{suffix}": "first", f"kairos_y{suffix}": "first"}
    again = dict.fromkeys(roles, "second")

    def run(passwords: dict[str, str]) -> None:
        provision(servers.postgres_admin_url, passwords, database=name)

    with ThreadPoolExecutor() as pool:
        list(pool.map(run, [roles] * 4))
    before = _privileges(servers, name)
    run(again)

    assert _privileges(servers, name) == before
    address = servers.postgres_admin_url.rpartition("@")[2].partition("/")[0]
    role = next(iter(roles))
    psycopg.connect(f"postgresql://{role}:second@{address}/{name}").close()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://{role}:first@{address}/{name}")
    with psycopg.connect(servers.postgres_admin_url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name}".encode())


def _privileges(servers: Servers, name: str) -> list[tuple[Any, ...]]:
    url = servers.postgres_admin_url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT nspname::text, nspacl::text FROM pg_namespace"
            " UNION ALL SELECT defaclobjtype::text, defaclacl::text FROM pg_default_acl"
            " UNION ALL SELECT datname::text, datacl::text FROM pg_database"
            " WHERE datname = current_database() ORDER BY 1, 2"
        ).fetchall()


def test_an_administrator_without_superuser_rights_can_provision(servers: Servers) -> None:
    name, admin_role = f"store_{token_hex(6)}", f"admin_{token_hex(4)}"
    with psycopg.connect(servers.postgres_admin_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {admin_role} LOGIN CREATEDB CREATEROLE PASSWORD 'pw'".encode())
    host = servers.postgres_admin_url.rpartition("@")[2]
    role = f"kairos_z{token_hex(4)}"

    provision(f"postgresql://{admin_role}:pw@{host}", {role: "pw"}, database=name)

    address = host.partition("/")[0]
    with psycopg.connect(f"postgresql://{role}:pw@{address}/{name}") as connection:
        assert connection.execute("SELECT current_schema()").fetchone() == (schema_of(role),)
    with psycopg.connect(servers.postgres_admin_url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name}".encode())


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS"])
def test_a_role_that_would_escape_the_scope_is_refused(servers: Servers, attribute: str) -> None:
    role = f"kairos_u{token_hex(4)}"
    with psycopg.connect(servers.postgres_admin_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} {attribute}".encode())
    with pytest.raises(UnsafeRole):
        provision(servers.postgres_admin_url, {role: "pw"})


@pytest.mark.parametrize("role", ["bots", "kairos_", "kairos_Bots", 'kairos_a"b', "postgres"])
def test_a_role_names_its_schema(role: str) -> None:
    with pytest.raises(ValueError, match="named kairos_"):
        schema_of(role)


def test_the_command_takes_roles_from_arguments_and_from_a_file(
    servers: Servers, tmp_path: Path, store_name: Callable[[], str]
) -> None:
    suffix, name = token_hex(4), store_name()
    file = tmp_path / "roles.json"
    file.write_text(json.dumps({f"kairos_f{suffix}": "pw"}))

    assert (
        main(
            [
                "--admin-url",
                servers.postgres_admin_url,
                "--database",
                name,
                "--roles-file",
                str(file),
                "--role",
                f"kairos_g{suffix}=p=w",
            ]
        )
        == 0
    )

    address = servers.postgres_admin_url.rpartition("@")[2].partition("/")[0]
    psycopg.connect(f"postgresql://kairos_f{suffix}:pw@{address}/{name}").close()
    psycopg.connect(f"postgresql://kairos_g{suffix}:p%3Dw@{address}/{name}").close()


def test_a_role_without_a_password_is_told_so() -> None:
    with pytest.raises(SystemExit, match="no password"):
        main(["--admin-url", "postgresql://nowhere/x", "--role", "kairos_bots"])
