"""Ends the processes of a run when the run itself dies.

A test process may be killed by a timeout, a signal or the kernel; its servers must not outlive it. The
guardian reads lines from its standard input ("+ PID", "- PID", "d DIRECTORY") and, when the pipe closes,
kills what is still registered, by process group, and removes the directories. It is started as a plain
file with `python -I -S`, so it imports nothing but the standard library.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


class Guardian:
    """Parent side: holds the pipe whose closing tells the child that this process is gone."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, pid: int) -> None:
        self._tell(f"+ {pid}")

    def forget(self, pid: int) -> None:
        self._tell(f"- {pid}")

    def remove_at_end(self, directory: Path) -> None:
        self._tell(f"d {directory}")

    def close(self) -> None:
        """Ends everything still registered now."""
        if self._child.stdin is not None and not self._child.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        self._child.wait(timeout=30)

    def _tell(self, line: str) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()


def start_time(pid: int) -> str | None:
    """When the process started, in kernel ticks: tells it from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def end_group(pid: int) -> None:
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    watched: dict[int, str | None] = {}
    directories: list[Path] = []
    for line in sys.stdin:
        kind, _, value = line.strip().partition(" ")
        if kind == "+":
            watched[int(value)] = start_time(int(value))
        elif kind == "-":
            watched.pop(int(value), None)
        elif kind == "d":
            directories.append(Path(value))
    for pid, started in watched.items():
        if started is not None and start_time(pid) == started:
            end_group(pid)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
