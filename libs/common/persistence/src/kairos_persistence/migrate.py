"""Run the migrations of one service in its schema.

Two phases: `expand` (package/migrations/versions, before the new code) and `contract`
(package/migrations/contract, after it). Each has its own version table in the schema, and two runners
at once take turns.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from kairos_persistence.engine import driver_url
from kairos_persistence.provision import OWNER
from kairos_persistence.settings import DatabaseSettings, given_or
from kairos_telemetry import configure, get_logger

Phase = Literal["expand", "contract"]

DIRECTORIES: dict[Phase, str] = {"expand": "versions", "contract": "contract"}
VERSION_TABLES: dict[Phase, str] = {"expand": "alembic_version", "contract": "alembic_version_contract"}
PARTITION_DAYS = 7
WAIT_PAUSE = 1.0
WAIT_FOR_RUNNER = "120s"
WAIT_FOR_TABLE = "10s"
"""A change that waits longer for a table's lock gives up, because every query queues up behind it."""

_log = get_logger(__name__)


class ExpandPending(Exception):  # noqa: N818 - reads as the fact it states
    """Contract migrations need every expand migration first; nothing was changed."""


class SchemaMissing(Exception):  # noqa: N818 - reads as the fact it states
    """The schema does not exist; run kairos_persistence.provision first."""


class NotMigrated(Exception):  # noqa: N818 - reads as the fact it states
    """The schema is not at the revision the program needs; run its migrations."""


def migrate(url: str, package: str, schema: str, phase: Phase = "expand") -> None:
    """Bring the schema to the newest revision of the phase. `url` logs in as kairos_owner or an admin."""
    root = migrations_of(package)
    with _session(url, schema) as connection:
        if phase == "contract" and _pending(connection, root, schema, "expand"):
            raise ExpandPending(schema)
        before = heads(connection, schema, phase)
        _upgrade(connection, root, schema, phase)
        _settle(connection, schema)
        _log.info(
            "schema_migrated",
            schema=schema,
            phase=phase,
            before=before,
            after=heads(connection, schema, phase),
        )


def wait_until_migrated(
    url: str, package: str, schema: str, *, seconds: float, pause: Callable[[float], None] = time.sleep
) -> None:
    """Return when the schema is at the newest expand revision of the package.

    Raises NotMigrated after `seconds`. A server or a role that is not there yet is waited for.
    """
    script = _script(migrations_of(package), "expand")
    wanted = set(script.get_heads()) if script else set()
    engine = create_engine(driver_url(url), poolclass=NullPool, connect_args={"connect_timeout": 5})
    deadline = time.monotonic() + seconds
    found: set[str] = set()
    while time.monotonic() < deadline:
        with suppress(OperationalError, ProgrammingError), engine.connect() as connection:
            found = set(heads(connection, schema))
            # An older program may run on a newer schema: migrations only expand.
            if wanted <= found or (found and script and not _knows(script, found)):
                return
        pause(WAIT_PAUSE)
    raise NotMigrated(f"{schema} is at {sorted(found) or 'nothing'}, {sorted(wanted)} is wanted")


def _knows(script: ScriptDirectory, revisions: set[str]) -> bool:
    known = {revision.revision for revision in script.walk_revisions()}
    return revisions <= known


def migrations_of(package: str) -> Path:
    """The folder `migrations` of an installed package, found without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(next(iter(spec.submodule_search_locations))) / "migrations"


def heads(connection: Connection, schema: str, phase: Phase = "expand") -> tuple[str, ...]:
    """The revisions the schema is at now."""
    options = {"version_table": VERSION_TABLES[phase], "version_table_schema": schema}
    return MigrationContext.configure(connection, opts=options).get_current_heads()


@contextmanager
def _session(url: str, schema: str) -> Iterator[Connection]:
    engine = create_engine(driver_url(url), poolclass=NullPool, connect_args={"connect_timeout": 10})
    with engine.connect() as connection:
        _take_role(connection)
        found = connection.execute(
            text("SELECT to_regnamespace(quote_ident(:schema)) IS NOT NULL"), {"schema": schema}
        )
        if not found.scalar_one():
            raise SchemaMissing(schema)
        for name, value in {
            "search_path": f'"{schema}", pg_temp',
            # Data migrations cross organisations; row level security binds the owner too.
            "kairos.system": "on",
            "statement_timeout": "0",
            "lock_timeout": WAIT_FOR_RUNNER,
        }.items():
            connection.execute(
                text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
            )
        key = {"key": f"kairos_migrate/{schema}"}
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:key, 0))"), key)
        connection.execute(
            text("SELECT set_config('lock_timeout', :value, false)"), {"value": WAIT_FOR_TABLE}
        )
        connection.commit()
        yield connection
        # The lock belongs to the session, which ends here.


def _take_role(connection: Connection) -> None:
    if connection.execute(text("SELECT current_user")).scalar_one() != OWNER:
        connection.execute(text(f"SET ROLE {OWNER}"))
        connection.commit()


def _script(root: Path, phase: Phase) -> ScriptDirectory | None:
    folder = root / DIRECTORIES[phase]
    if not folder.is_dir():
        return None
    return ScriptDirectory(str(root), version_locations=[str(folder)])


def _pending(connection: Connection, root: Path, schema: str, phase: Phase) -> bool:
    script = _script(root, phase)
    return script is not None and set(script.get_heads()) != set(heads(connection, schema, phase))


def _upgrade(connection: Connection, root: Path, schema: str, phase: Phase) -> None:
    script = _script(root, phase)
    if script is None:
        return
    connection.commit()

    def steps(revision: Any, _: MigrationContext) -> Any:
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - what alembic.command.upgrade itself calls

    with EnvironmentContext(Config(), script, fn=steps, destination_rev="head") as environment:
        environment.configure(
            connection=connection,
            version_table=VERSION_TABLES[phase],
            version_table_schema=schema,
            transaction_per_migration=True,
        )
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()


_SETTLE = text("""
DO $$
DECLARE
    runtime text = 'kairos_' || current_schema();
    versions text;
BEGIN
    FOREACH versions IN ARRAY ARRAY['alembic_version', 'alembic_version_contract'] LOOP
        IF to_regclass(versions) IS NOT NULL AND EXISTS (SELECT FROM pg_roles WHERE rolname = runtime) THEN
            EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON TABLE %I FROM %I', versions, runtime);
        END IF;
    END LOOP;
END $$
""")


def _settle(connection: Connection, schema: str) -> None:
    """Leave version tables readable only, and partitions for the coming days."""
    connection.execute(_SETTLE)
    if connection.execute(text("SELECT to_regprocedure('ensure_partitions(integer)')")).scalar_one() is None:
        _log.warning("schema_without_partitions", schema=schema)
    else:
        connection.execute(text("SELECT ensure_partitions(:days)"), {"days": PARTITION_DAYS})
    connection.commit()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kairos_persistence.migrate", description=__doc__)
    parser.add_argument("--url", help="URL of kairos_owner; otherwise KAIROS_POSTGRES_URL")
    parser.add_argument("--package", required=True, help="for example kairos_bots")
    parser.add_argument("--schema", required=True, help="for example bots")
    parser.add_argument("--phase", choices=sorted(DIRECTORIES), default="expand")
    parser.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        help="migrate nothing; wait until someone has. Any role that may read the schema will do",
    )
    given = parser.parse_args(sys.argv[1:] if argv is None else argv)
    configure("migrate", otlp_endpoint=None)
    url = given_or(given.url, DatabaseSettings().postgres_url, "KAIROS_POSTGRES_URL")
    if given.wait is not None:
        wait_until_migrated(url, given.package, given.schema, seconds=given.wait)
        return 0
    migrate(url, given.package, given.schema, given.phase)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
