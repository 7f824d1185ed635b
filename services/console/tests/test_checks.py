"""The console's own checks, run with all others. Building it checks the size of the first page."""

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
