"""Builds the console with the system's Node when it is new enough, else with the one in the environment."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from kairos_testkit.guardian import end_group
from kairos_testkit.settings import whole_environment

_OLDEST_NODE: Final = (20, 19)
_LONGEST_S: Final = 300
_NOT_SOURCES: Final = {"node_modules", "dist", ".vite", "test-results"}


class ConsoleBuildError(Exception):
    """The console could not be built; the suite runs without it."""


def is_stale(console: Path) -> bool:
    built = console / "dist" / "index.html"
    if not built.exists():
        return True
    return _newest(console) > built.stat().st_mtime


def build_console(root: Path) -> bool:
    """Build when sources are newer than the last build. False: nothing to do. Raises ConsoleBuildError."""
    console = root / "services" / "console"
    if not (console / "package.json").exists() or not is_stale(console):
        return False
    # Two workers of one run want it at the same time; the second finds it built.
    with (console / "package.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        return is_stale(console) and _build(console)


def _build(console: Path) -> bool:
    env = whole_environment()
    env["PATH"] = f"{node_directory(env['PATH'])}:{env['PATH']}"
    lock, installed = console / "package-lock.json", console / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _install(console, env)
    _run(["npm", "run", "--silent", "build"], console, env)
    return True


def _install(console: Path, env: dict[str, str]) -> None:
    """Exactly what is locked.

    A lock made behind a registry that has only this platform's packages lacks the others'. `npm ci` refuses
    such a lock; `npm install --no-save` takes every version and hash from it all the same.
    """
    quietly = ("--no-audit", "--no-fund", "--prefer-offline")
    try:
        _run(["npm", "ci", *quietly], console, env)
    except ConsoleBuildError:
        _run(["npm", "install", "--no-save", *quietly], console, env)


def node_directory(path: str) -> str:
    """The directory of a Node that is new enough."""
    system = shutil.which("node", path=path)
    if system is not None and shutil.which("npm", path=path) is not None:
        answer = subprocess.run([system, "--version"], capture_output=True, text=True, check=False).stdout
        found = tuple(int(part) for part in answer.strip().removeprefix("v").split(".") if part.isdecimal())
        if found >= _OLDEST_NODE:
            return str(Path(system).parent)
    return str(Path(sys.prefix) / "bin")


def _newest(console: Path) -> float:
    tops = (path for path in console.iterdir() if path.name not in _NOT_SOURCES)
    files = (file for top in tops for file in (top.rglob("*") if top.is_dir() else [top]))
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def _run(command: list[str], cwd: Path, env: dict[str, str]) -> None:
    # Nice: the services start meanwhile. A session of its own: npm's children hold the pipe open and must
    # end with it.
    with subprocess.Popen(
        ["nice", "-n", "10", *command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            output, _ = running.communicate(timeout=_LONGEST_S)
        except BaseException as error:
            end_group(running.pid)
            if isinstance(error, subprocess.TimeoutExpired):
                raise ConsoleBuildError(f"{' '.join(command)} took longer than {_LONGEST_S} s") from error
            raise
    if running.returncode:
        raise ConsoleBuildError(f"{' '.join(command)}: {output.strip()[-2000:]}")
