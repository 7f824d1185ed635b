"""llm-router with its hot modules as machine code, as images have it: `python -m kairos_testkit.compiled`.

Made below .kairos, and used by `make up` and the benchmarks for as long as it fits the sources: a router
never runs code that differs from what the clone shows.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

SERVICE: Final = Path("services/llm-router")
FOLDER: Final = Path(".kairos/compiled")
# In the format of sha256sum: the sources a compiled copy was made from.
_MANIFEST: Final = "SOURCES"


def manifest(root: Path) -> str:
    """What a compiled copy depends on: the interpreter, and every source of the service."""
    lines = [f"# {sys.implementation.cache_tag}"]
    project = root / SERVICE
    for path in sorted([project / "compile.py", project / "pyproject.toml", *project.glob("src/**/*.py")]):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{digest}  {path.relative_to(root)}")
    return "\n".join(lines) + "\n"


def compiled(root: Path) -> Path | None:
    """The folder for an import path, or None without a copy that fits the sources."""
    made = root / FOLDER / _MANIFEST
    try:
        return root / FOLDER if made.read_text("utf-8") == manifest(root) else None
    except FileNotFoundError:
        return None


def make(root: Path) -> Path:
    """Compile when there is no copy that fits. Raises CalledProcessError; the compiler has said why."""
    folder = root / FOLDER
    if compiled(root) is None:
        (folder / _MANIFEST).unlink(missing_ok=True)
        sources = manifest(root)
        command = [sys.executable, str(root / SERVICE / "compile.py"), str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (folder / _MANIFEST).write_text(sources, "utf-8")
    return folder


def main() -> int:
    try:
        print(make(Path.cwd()))
    except subprocess.CalledProcessError as error:
        print(f"kairos: the compiler ended with {error.returncode}; what it said is above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
