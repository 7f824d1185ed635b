"""An environment per client, made from its locked requirements on first use and kept for later runs."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".kairos" / "compat"


def interpreter(client: str, purpose: str = "compat") -> Path:
    """Python of the environment that has exactly what requirements/<purpose>-<client>.txt locks."""
    locked = ROOT / "requirements" / f"{purpose}-{client}.txt"
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode() + locked.read_bytes()).hexdigest()[:12]
    home = PLACE / f"{client}-{digest}"
    python = home / "bin" / "python"
    PLACE.mkdir(parents=True, exist_ok=True)
    # Two runs in one clone make it once.
    with (PLACE / f"{client}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            _make(home, python, locked)
            (home / "complete").touch()
    return python


def _make(home: Path, python: Path, locked: Path) -> None:
    uv = ROOT / ".venv" / "bin" / "uv"
    wanted = ["install", "--quiet", "--require-hashes", "-r", str(locked)]
    _run([str(uv), "venv", "--quiet", "--python", sys.executable, str(home)])
    done = subprocess.run(
        [uv, "pip", *wanted, "--python", python], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        # uv does not read pip's configuration; where only pip knows the way to an index, pip installs.
        _run([sys.executable, "-m", "pip", "--python", str(python), *wanted])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
