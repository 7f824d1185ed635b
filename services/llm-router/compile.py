"""Make a copy of llm-router whose hot modules are machine code: `compile.py INTO`.

INTO is a folder for an import path: `INTO/kairos_router` holds the whole package, and beside the source of
each module that pyproject.toml names an extension module, which Python prefers. mypyc makes them from the
sources as they are. It needs mypy, setuptools, a C compiler and Python's headers; images carry none of
these. `--python` names the interpreter whose packages the sources import, when another one runs this.
"""

import argparse
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup

HERE = Path(__file__).resolve().parent
PACKAGE = "kairos_router"
CONFIG = "[mypy]\nignore_missing_imports = true\nfollow_imports = silent\n"


def modules() -> list[str]:
    """Paths of the hot modules, relative to the package's folder."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))
    return [str(name) for name in project["tool"]["kairos"]["compiled"]]


def compile_into(target: Path, python: str) -> None:
    package = target / PACKAGE
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(HERE / "src" / PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mypy.ini"
        config.write_text(CONFIG, "utf-8")
        # mypyc takes names of modules from paths, and setuptools builds in place below the current folder.
        os.chdir(target)
        extensions = mypycify(
            [
                f"--config-file={config}",
                f"--cache-dir={folder}",
                f"--python-executable={python}",
                *(f"{PACKAGE}/{name}" for name in modules()),
            ],
            opt_level="2",
            debug_level="0",
            multi_file=True,
            target_dir=folder,
            group_name=PACKAGE,
        )
        jobs = f"-j{os.cpu_count() or 1}"
        setup(
            name=PACKAGE,
            packages=[],
            py_modules=[],
            ext_modules=extensions,
            script_args=["--quiet", "build_ext", "--inplace", jobs, f"--build-temp={folder}"],
        )
    shutil.rmtree("build", ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("into", type=Path, help="folder of the import path")
    parser.add_argument("--python", default=sys.executable, help="interpreter with what the sources import")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    compile_into(given.into.resolve(), given.python)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
