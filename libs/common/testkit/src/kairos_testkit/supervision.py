"""supervisord keeps everything of a local installation running: its configuration, and control over RPC."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from kairos_testkit import launch
from kairos_testkit.guardian import end_group, start_time
from kairos_testkit.local_state import LocalState, write_private
from kairos_testkit.ports import is_free, wait_until
from kairos_testkit.processes import ServerSpec

_USER: Final = "kairos"
_STOP_SECONDS: Final = 25

State = Literal["STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN"]


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    name: str
    state: State
    pid: int
    uptime_s: int
    description: str


class Supervisor:
    """The supervisord of one installation, running or not."""

    def __init__(self, state: LocalState) -> None:
        self._state = state
        self._port = state.ports["supervisor"]
        self._password = state.secrets["KAIROS_SUPERVISOR_PASSWORD"]
        self._config = state.home / "supervisord.conf"

    @property
    def running(self) -> bool:
        """Whether our own supervisord answers; another installation's on the same port doesn't count."""
        try:
            return bool(self._call("getIdentification") == self._state.identifier)
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            return False

    def write(self, specs: Sequence[ServerSpec], stamps: Mapping[str, str]) -> None:
        """Describe the programs. `stamps` name what else, when it changes, needs a restart (its code)."""
        folder = self._state.home / "programs"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._state.logs.mkdir(mode=0o700, exist_ok=True)
        sections = [self._head()]
        for spec in specs:
            content = json.dumps(
                {
                    "argv": list(spec.argv),
                    "env": dict(spec.env),
                    "cwd": str(spec.cwd),
                    "user": spec.user,
                    "note": str(folder / f"{spec.name}.pid"),
                }
            )
            file = folder / f"{spec.name}.json"
            write_private(file, content)
            digest = hashlib.sha256((content + stamps.get(spec.name, "")).encode()).hexdigest()[:16]
            sections.append(self._program(spec, file, digest))
        write_private(self._config, "\n".join(sections))
        priorities = {spec.name: spec.priority for spec in specs}
        write_private(self._state.home / "priorities.json", json.dumps(priorities))

    def start(self) -> None:
        if self.running:
            return
        self.end_orphans()
        wait_until(lambda: is_free(self._port), timeout=10, what=f"port {self._port} of supervisord")
        command = [str(Path(sys.prefix) / "bin" / "supervisord"), "-c", str(self._config)]
        subprocess.run(command, check=True, capture_output=True, start_new_session=True)
        wait_until(lambda: self.running, timeout=20, what="supervisord")

    def apply(self) -> list[str]:
        """Make a running supervisord follow the written configuration. Gives the programs it stopped."""
        [(added, changed, removed)] = self._call("reloadConfig")
        for name in (*changed, *removed):
            self._call("stopProcessGroup", name)
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)
        return [*changed, *removed]

    def start_programs(self, names: Iterable[str]) -> None:
        """Start what is not running yet, without waiting for it."""
        running = {info.name for info in self.programs() if info.state in ("RUNNING", "STARTING")}
        for name in names:
            if name not in running:
                with contextlib.suppress(xmlrpc.client.Fault):
                    self._call("startProcess", name, False)

    def stop_programs(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(xmlrpc.client.Fault):
                self._call("stopProcess", name)

    def programs(self) -> list[ProgramInfo]:
        return [
            ProgramInfo(
                name=info["name"],
                state=info["statename"],
                pid=int(info["pid"]),
                uptime_s=max(0, int(info["now"]) - int(info["start"])) if info["pid"] else 0,
                description=info["description"],
            )
            for info in self._call("getAllProcessInfo")
        ]

    def shut_down(self) -> None:
        """Stop everything in order, services before servers, then supervisord itself."""
        if self.running:
            for priority in (300, 200, 150, 20, 10):
                self._stop_group(priority)
            self._call("shutdown")
            wait_until(lambda: not self.running, timeout=60, what="the end of supervisord", pause=0.2)
        self.end_orphans()

    def end_orphans(self) -> None:
        """End processes of this installation that outlived their supervisord, and one that hangs."""
        notes = (self._state.home / "programs").glob("*.pid")
        found = [pid for note in notes if (pid := _noted(note)) is not None]
        hanging = self._hanging()
        if hanging is not None:
            # First: it would start the others again.
            end_group(hanging)
        for how, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    (os.kill if how is signal.SIGTERM else os.killpg)(pid, how)
            deadline = time.monotonic() + patience
            while found and time.monotonic() < deadline:
                found = [pid for pid in found if _alive(pid)]
                time.sleep(0.1)

    def _hanging(self) -> int | None:
        """Our supervisord when it lives but does not answer."""
        try:
            pid = int((self._state.home / "supervisord.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if str(self._config).encode() in command else None

    def _stop_group(self, priority: int) -> None:
        priorities = json.loads((self._state.home / "priorities.json").read_text())
        chosen = [name for name, value in priorities.items() if value == priority]
        for name in chosen:
            with contextlib.suppress(xmlrpc.client.Fault):
                self._call("stopProcess", name, False)
        wait_until(
            lambda: all(info.pid == 0 for info in self.programs() if info.name in chosen),
            timeout=_STOP_SECONDS + 10,
            what=f"the end of {', '.join(chosen)}",
        )

    def _call(self, method: str, *arguments: Any) -> Any:
        with xmlrpc.client.ServerProxy(
            f"http://127.0.0.1:{self._port}/RPC2",
            headers=[("Authorization", f"Basic {_basic(_USER, self._password)}")],
        ) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def _head(self) -> str:
        home = _escaped(self._state.home)
        return f"""\
[supervisord]
identifier={self._state.identifier}
directory={home}
pidfile={home}/supervisord.pid
logfile={home}/logs/supervisord.log
logfile_maxbytes=10MB
logfile_backups=3
loglevel=info
minfds=8192
nocleanup=true
user={"root" if os.geteuid() == 0 else ""}

[inet_http_server]
port=127.0.0.1:{self._port}
username={_USER}
password={self._password}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
""".replace("user=\n", "")

    def _program(self, spec: ServerSpec, file: Path, digest: str) -> str:
        home, logs = _escaped(self._state.home), _escaped(self._state.logs)
        return f"""\
[program:{spec.name}]
command="{_escaped(sys.executable)}" -I -S "{_escaped(launch.__file__)}" "{_escaped(file)}"
directory={home}
environment=KAIROS_SPEC="{digest}"
priority={spec.priority}
autostart=false
autorestart=true
startsecs=1
startretries=1000
stopsignal={spec.stop_signal.name.removeprefix("SIG")}
stopwaitsecs={_STOP_SECONDS}
killasgroup=true
redirect_stderr=true
stdout_logfile={logs}/{spec.name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


def _noted(note: Path) -> int | None:
    """The process a launch noted, if it is still that process."""
    try:
        pid, _, started = note.read_text().partition(" ")
        return int(pid) if started and start_time(int(pid)) == started else None
    except (OSError, ValueError):
        return None


def _alive(pid: int) -> bool:
    try:
        # A zombie is only waiting for its parent to notice.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _escaped(value: object) -> str:
    """Double percent signs, which supervisord would expand."""
    return str(value).replace("%", "%%")


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()
