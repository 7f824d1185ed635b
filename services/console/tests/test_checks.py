"""The console's own checks, run with all others. Building it checks the size of the first page."""

import json
import subprocess
from pathlib import Path

import pytest

from kairos_testkit.console_build import build_console, node_directory
from kairos_testkit.settings import passed_environment

CONSOLE = Path(__file__).parents[1]
ROOT = CONSOLE.parents[1]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    build_console(ROOT)
    known = passed_environment()
    return known | {"PATH": f"{node_directory(known['PATH'])}:{known['PATH']}"}


@pytest.mark.parametrize("script", ["lint", "types", "test"])
def test_the_check_passes(script: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["npm", "run", "--silent", script],
        cwd=CONSOLE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_installs_on_every_platform() -> None:
    # Where a registry lacks one platform's package, npm leaves it out and `npm ci` fails elsewhere.
    packages = json.loads((CONSOLE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    missing = [
        name
        for package in packages.values()
        for name in package.get("optionalDependencies", {})
        if f"node_modules/{name}" not in packages
    ]
    assert missing == []
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []
