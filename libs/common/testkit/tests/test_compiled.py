import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kairos_testkit.compiled import FOLDER, SERVICE, compiled, make, manifest
from kairos_testkit.suite import BY_NAME, SERVICES, Suite, new_secrets

ROOT = Path(__file__).parents[4]


def clone(at: Path, program: str) -> Path:
    """A clone with one source, and a compiler that does what the program says."""
    source = at / SERVICE / "src" / "kairos_router" / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    (at / SERVICE / "pyproject.toml").write_text("")
    (at / SERVICE / "compile.py").write_text(program)
    return at


COMPILES = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.mkdir(parents=True); (p / 'made').touch()"


def test_a_compiled_copy_is_used_while_it_fits_the_sources(tmp_path: Path) -> None:
    root = clone(tmp_path, COMPILES)
    assert compiled(root) is None

    assert make(root) == compiled(root) == root / FOLDER
    assert (root / FOLDER / "made").exists()
    # A second time compiles nothing: this compiler would fail over the folder that is there.
    assert make(root) == root / FOLDER

    (root / SERVICE / "src" / "kairos_router" / "new.py").write_text("")
    assert compiled(root) is None


def test_a_compiler_that_fails_leaves_nothing_to_use(tmp_path: Path) -> None:
    root = clone(tmp_path, "raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError):
        make(root)
    assert compiled(root) is None


def test_a_copy_for_another_python_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = clone(tmp_path, COMPILES)
    make(root)
    monkeypatch.setattr(sys.implementation, "cache_tag", "cpython-399")
    assert compiled(root) is None


def test_only_the_router_is_started_from_the_compiled_copy(tmp_path: Path) -> None:
    suite = Suite(
        root=ROOT,
        state=tmp_path,
        ports={service.name: service.port for service in SERVICES} | {"front-door": 1, "fake-telegram": 2},
        amqp_url="amqp://localhost",
        postgres_admin_url="postgresql://postgres:x@localhost/postgres",
        redis_url="redis://localhost",
        secrets=new_secrets(),
        compiled=tmp_path,
    )
    assert suite.environment(BY_NAME["llm-router"])["PYTHONPATH"] == str(tmp_path)
    assert "PYTHONPATH" not in suite.environment(BY_NAME["budget-analytics"])


def test_the_modules_to_compile_exist() -> None:
    project = tomllib.loads((ROOT / SERVICE / "pyproject.toml").read_text("utf-8"))
    names = project["tool"]["kairos"]["compiled"]
    assert names == sorted(set(names))
    for name in names:
        assert f"src/kairos_router/{name}" in manifest(ROOT)
