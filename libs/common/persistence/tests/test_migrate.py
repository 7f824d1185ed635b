from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kairos_persistence.migrate import (
    ExpandPending,
    NotMigrated,
    SchemaMissing,
    main,
    migrate,
    wait_until_migrated,
)

pytestmark = pytest.mark.servers

VERSIONS = "SELECT version_num FROM bots.alembic_version"


def test_a_schema_reaches_the_newest_revision_once(empty_store: Any, example_package: str) -> None:
    owner = empty_store.url("kairos_owner")
    migrate(owner, example_package, "bots")
    tables = empty_store.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'bots' ORDER BY 1")
    migrate(owner, example_package, "bots")

    assert empty_store.rows(VERSIONS) == [("0002",)]
    assert ("notes",) in tables
    assert empty_store.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'bots' ORDER BY 1") == tables


def test_runners_at_once_take_turns(empty_store: Any, example_package: str) -> None:
    def run(_: int) -> None:
        migrate(empty_store.url("kairos_owner"), example_package, "bots")

    with ThreadPoolExecutor() as pool:
        list(pool.map(run, range(4)))
    assert empty_store.rows(VERSIONS) == [("0002",)]


def test_the_owner_owns_everything_whoever_runs_it(empty_store: Any, example_package: str) -> None:
    migrate(empty_store.url(), example_package, "bots")  # an administrator's address
    owners = empty_store.rows(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'bots'::regnamespace"
    )
    assert owners == [("kairos_owner",)]


def test_contract_waits_for_expand(empty_store: Any, example_package: str) -> None:
    owner = empty_store.url("kairos_owner")
    with pytest.raises(ExpandPending):
        migrate(owner, example_package, "bots", "contract")

    migrate(owner, example_package, "bots", "expand")
    assert empty_store.rows("SELECT title FROM bots.notes") == []
    migrate(owner, example_package, "bots", "contract")

    assert empty_store.rows("SELECT version_num FROM bots.alembic_version_contract") == [("c0001",)]
    with pytest.raises(psycopg.errors.UndefinedColumn):
        empty_store.rows("SELECT title FROM bots.notes")


def test_two_schemas_of_one_database_keep_their_own_versions(empty_store: Any, example_package: str) -> None:
    for schema in ("bots", "router"):
        migrate(empty_store.url("kairos_owner"), example_package, schema)
    assert empty_store.rows("SELECT version_num FROM router.alembic_version") == [("0002",)]
    assert empty_store.rows("SELECT count(*) FROM router.notes", "kairos_router") == [(0,)]


def test_a_failed_revision_leaves_the_ones_before_it(
    empty_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = tmp_path / "kairos_broken" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "kairos_broken" / "__init__.py").touch()
    body = (
        "from alembic import op\nrevision = {0!r}\ndown_revision = {1!r}\n"
        "def upgrade():\n    op.execute({2!r})\n"
    )
    (versions / "0001_fine.py").write_text(body.format("0001", None, "CREATE TABLE fine ()"))
    (versions / "0002_wrong.py").write_text(body.format("0002", "0001", "CREATE TABLE half (); SELECT 1/0"))
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(Exception, match="division by zero"):
        migrate(empty_store.url("kairos_owner"), "kairos_broken", "bots")

    assert empty_store.rows(VERSIONS) == [("0001",)]
    assert empty_store.rows("SELECT tablename FROM pg_tables WHERE tablename IN ('fine', 'half')") == [
        ("fine",)
    ]


def test_a_missing_schema_or_package_is_named(empty_store: Any, example_package: str) -> None:
    owner = empty_store.url("kairos_owner")
    with pytest.raises(SchemaMissing, match="nowhere"):
        migrate(owner, example_package, "nowhere")
    with pytest.raises(ModuleNotFoundError, match="kairos_absent"):
        migrate(owner, "kairos_absent", "bots")


def test_the_command_migrates(empty_store: Any, example_package: str) -> None:
    owner = empty_store.url("kairos_owner")
    assert main(["--url", owner, "--package", example_package, "--schema", "bots"]) == 0
    assert (
        main(["--url", owner, "--package", example_package, "--schema", "bots", "--phase", "contract"]) == 0
    )
    assert empty_store.rows(VERSIONS) == [("0002",)]


def test_a_service_waits_until_someone_has_migrated(empty_store: Any, example_package: str) -> None:
    owner, runtime = empty_store.url("kairos_owner"), empty_store.url("kairos_bots")
    pauses: list[float] = []

    def someone_migrates(seconds: float) -> None:
        pauses.append(seconds)
        migrate(owner, example_package, "bots")

    wait_until_migrated(runtime, example_package, "bots", seconds=30, pause=someone_migrates)
    assert len(pauses) == 1
    assert main(["--url", runtime, "--package", example_package, "--schema", "bots", "--wait", "5"]) == 0


def test_waiting_ends_with_what_is_missing(empty_store: Any, example_package: str) -> None:
    with pytest.raises(NotMigrated, match=r"bots is at nothing, \['0002'\] is wanted"):
        wait_until_migrated(empty_store.url("kairos_bots"), example_package, "bots", seconds=0.01)


def test_a_container_finds_the_server_in_its_environment(
    empty_store: Any, example_package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--package", example_package, "--schema", "bots"]
    with pytest.raises(SystemExit, match="KAIROS_POSTGRES_URL"):
        main(arguments)
    monkeypatch.setenv("KAIROS_POSTGRES_URL", empty_store.url("kairos_owner"))
    assert main(arguments) == 0
    assert empty_store.rows(VERSIONS) == [("0002",)]
