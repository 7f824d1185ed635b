"""One child process that a test can start, kill, pause and restart by its number."""

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kairos_testkit.guardian import Guardian
from kairos_testkit.ports import NotReadyError, wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """Everything needed to run one program: tests start it as a child, `make up` hands it to supervisord."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    ready: Callable[[], bool]
    user: str | None = None
    prepare: Callable[[], None] = lambda: None
    stop_signal: signal.Signals = signal.SIGTERM
    ready_timeout: float = 60.0
    priority: int = 100


@dataclass(slots=True)
class Process:
    """A running ServerSpec. Its group is killed as one, so a wrapper script never leaves its child behind."""

    spec: ServerSpec
    log: Path
    guardian: Guardian
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        if self._child is None:
            raise NotReadyError(f"{self.spec.name} was never started")
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self, *, wait: bool = True) -> None:
        if self.alive:
            return
        self.spec.prepare()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        as_root = os.geteuid() == 0
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.spec.argv,
                env=dict(self.spec.env),
                cwd=self.spec.cwd,
                user=self.spec.user if as_root else None,
                group=self.spec.user and _group(self.spec.user) if as_root else None,
                extra_groups=[] if as_root and self.spec.user else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.guardian.watch(self._child.pid)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout: float | None = None) -> None:
        def ready() -> bool:
            if not self.alive:
                raise _EndedError(f"{self.spec.name} ended with {self.returncode}: {self.tail()}")
            return self.spec.ready()

        wait_until(ready, timeout=timeout or self.spec.ready_timeout, what=self.spec.name)

    @property
    def returncode(self) -> int | None:
        return None if self._child is None else self._child.poll()

    def tail(self, lines: int = 15) -> str:
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
        )

    def kill(self) -> None:
        """SIGKILL, as a power cut would do it; returns when the process is gone."""
        self._end(signal.SIGKILL, timeout=10)

    def stop(self, timeout: float = 20.0) -> int | None:
        """The polite end; SIGKILL when it takes longer than the timeout. Gives the exit code."""
        self._end(self.spec.stop_signal, timeout=timeout)
        return self.returncode

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: the process keeps its connections and answers nothing (a zombie holder of leases)."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals, timeout: float) -> None:
        if self._child is None:
            return
        child = self._child
        if child.poll() is None:
            # A polite signal goes to the leader only: its children are its own to end.
            end = os.killpg if how is signal.SIGKILL else os.kill
            with contextlib.suppress(ProcessLookupError):
                end(child.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=timeout)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(timeout=10)
        self.guardian.forget(child.pid)


class _EndedError(Exception):
    """The process ended before it was ready."""


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid
