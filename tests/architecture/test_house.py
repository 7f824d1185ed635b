"""Rules of the house that no linter knows. Each test names the rule it holds."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBS = ("contracts", "messaging", "persistence", "telemetry", "web", "faults", "sealing", "testkit")
SERVICES = ("bot-worker", "llm-router", "budget-analytics", "auth-audit", "observability")
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "base", "core", "shared", "manager"}
MAX_FUNCTION, MAX_FILE = 60, 400
MAX_TEXT_BYTES = 2_000_000
# A reason for every function that is longer than the limit; an entry that is no longer needed fails the test.
LONG_FUNCTIONS: dict[str, str] = {}


def tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [
        ROOT / name
        for name in listed
        if (not suffixes or name.endswith(suffixes)) and (ROOT / name).is_file()
    ]


def product_code() -> list[Path]:
    return [path for path in tracked(".py") if "/src/" in str(path) and "/migrations/" not in str(path)]


def test_imports_point_the_way_the_house_says() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "name", [f"libs/common/{lib}" for lib in LIBS] + ["libs/sdk"] + [f"services/{s}" for s in SERVICES]
)
def test_every_distribution_has_a_readme_a_package_and_tests(name: str) -> None:
    folder = ROOT / name
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("# ")
    assert (folder / "pyproject.toml").is_file()
    assert list(folder.glob("src/kairos_*/py.typed"))
    assert list(folder.glob("tests/**/test_*.py"))


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in product_code() if path.stem in FORBIDDEN_NAMES] == []


def test_long_functions_and_files_have_a_reason() -> None:
    long_functions, long_files = set(), []
    for path in product_code():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MAX_FILE:
            long_files.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION:
                    long_functions.add(f"{path.relative_to(ROOT)}:{node.name}")
    assert long_functions == set(LONG_FUNCTIONS)
    assert long_files == []


def test_an_entry_point_only_wires_and_runs() -> None:
    for service in SERVICES:
        (main,) = (ROOT / "services" / service / "src").glob("kairos_*/main.py")
        assert main.read_text(encoding="utf-8").count("\n") <= 40, main


def test_nothing_names_a_package_registry() -> None:
    hosts = re.compile(
        "|".join(["py" + r"pi\.org", "python" + r"hosted", "npm" + r"js\.org", r"proxy\.gol" + "ang"])
    )
    guilty = []
    for path in tracked():
        content = path.read_bytes() if path.stat().st_size < MAX_TEXT_BYTES else b"\0"
        if b"\0" not in content and hosts.search(content.decode("utf-8", "replace")):
            guilty.append(path)
    assert guilty == []


def test_no_lock_file_with_addresses_is_committed() -> None:
    assert [path for path in tracked() if path.name in {"uv.lock", "poetry.lock", "Pipfile.lock"}] == []
    for lock in tracked("package-lock.json"):
        assert '"resolved"' not in lock.read_text(encoding="utf-8")


def test_every_locked_requirement_has_a_hash() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        entries = re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip())
        assert entries
        assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_litellm_is_nobodys_dependency_but_the_routers() -> None:
    for path in tracked("pyproject.toml"):
        if "llm-router" not in str(path):
            assert "litellm" not in path.read_text(encoding="utf-8")


def test_every_decision_ends_with_what_enforces_it() -> None:
    decisions = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert decisions
    for path in decisions:
        last = path.read_text(encoding="utf-8").strip().splitlines()[-1]
        assert last.startswith("Enforced by"), path


def test_every_ignored_lint_rule_says_why() -> None:
    for path in product_code():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := re.search(r"#\s*(noqa|type: ignore|pragma: no cover)(.*)$", line):
                reason = re.sub(r"^[:\[\]\w,\s-]*?(?=\s-\s|\s#\s|$)", "", found.group(2))
                assert len(reason) > 8, f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
