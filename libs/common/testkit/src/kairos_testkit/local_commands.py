"""`make down`, `status`, `restart`, `logs`, `clean`: `python -m kairos_testkit.local_commands <command>`."""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor

from kairos_testkit.local_state import LocalState, existing_state, forget_data
from kairos_testkit.local_suite import LocalSuite, local_suite
from kairos_testkit.processes import ServerSpec
from kairos_testkit.settings import LocalSettings
from kairos_testkit.supervision import Supervisor
from kairos_testkit.up import UpError, guarded, only_one, repository, start


def _opened(settings: LocalSettings) -> tuple[LocalState, LocalSuite, Supervisor]:
    root = repository()
    state = existing_state(root)
    if state is None:
        raise UpError("nothing is set up here; run: make up")
    return state, local_suite(root, state, settings), Supervisor(state)


def down(settings: LocalSettings) -> int:
    """Stop everything; data stays."""
    state, local, supervisor = _opened(settings)
    with only_one(state):
        supervisor.shut_down()
        if local.compose is not None:
            local.compose.stop()
    print("stopped; data is kept in .kairos")
    return 0


def status(settings: LocalSettings) -> int:
    """A line per program; exit code 1 when one of them is not well."""
    _, local, supervisor = _opened(settings)
    if not supervisor.running:
        print("not running; start with: make up")
        return 1
    known = {info.name: info for info in supervisor.programs()}
    with ThreadPoolExecutor() as pool:
        well = dict(zip([spec.name for spec in local.specs], pool.map(_answers, local.specs), strict=True))
    for name, ready in well.items():
        info = known.get(name)
        state, pid, uptime = (info.state, info.pid, info.uptime_s) if info else ("MISSING", 0, 0)
        url = local.suite.url(name) if name in local.suite.ports else ""
        verdict = "ready" if ready else "NOT READY"
        print(f"{name:<18} {state:<9} {verdict:<10} pid {pid:<8} up {uptime:>6} s  {url}")
    return 0 if all(well.values()) else 1


def restart(settings: LocalSettings, service: str | None) -> int:
    """Restart one program, or every service."""
    state, local, supervisor = _opened(settings)
    if not supervisor.running:
        raise UpError("not running; start with: make up")
    chosen = [spec for spec in local.specs if spec.name == service] if service else list(local.services)
    if not chosen:
        raise UpError(
            f"no program is called {service}; known: {', '.join(spec.name for spec in local.specs)}"
        )
    with only_one(state), ThreadPoolExecutor() as pool:
        supervisor.stop_programs([spec.name for spec in chosen])
        start(chosen, supervisor, state, pool)
    print(f"restarted {', '.join(spec.name for spec in chosen)}")
    return 0


def logs(settings: LocalSettings, service: str | None) -> int:
    """Follow the log of one program, or of all; ends with Ctrl-C."""
    state, _, _ = _opened(settings)
    files = [state.logs / f"{service}.log"] if service else sorted(state.logs.glob("*.log"))
    missing = [file for file in files if not file.exists()]
    if missing:
        raise UpError(
            f"no log {missing[0].name}; known: {', '.join(sorted(f.stem for f in state.logs.glob('*.log')))}"
        )
    command = ["tail", "-n", "100", "-F", *map(str, files)]
    os.execvp(command[0], command)  # noqa: S606 - tail takes over this terminal


def clean(settings: LocalSettings) -> int:
    """Stop everything and delete its data, when CLEAN=yes says so."""
    state, local, supervisor = _opened(settings)
    if settings.clean != "yes":
        raise UpError(f"this deletes all local data in {state.home}; run: make clean CLEAN=yes")
    supervisor.shut_down()
    if local.compose is not None:
        local.compose.remove()
    forget_data(state)
    print("stopped, data deleted")
    return 0


def _answers(spec: ServerSpec) -> bool:
    try:
        return bool(spec.ready())
    except Exception:  # noqa: BLE001 - whatever a probe raises, the program is not ready
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Control the local installation.")
    parser.add_argument("command", choices=["down", "status", "restart", "logs", "clean"])
    parser.add_argument("service", nargs="?", default=None)
    given = parser.parse_args()
    settings = LocalSettings()
    service = given.service or None
    match given.command:
        case "down":
            return guarded(lambda: down(settings))
        case "status":
            return guarded(lambda: status(settings))
        case "restart":
            return guarded(lambda: restart(settings, service))
        case "logs":
            return guarded(lambda: logs(settings, service))
        case _:
            return guarded(lambda: clean(settings))


if __name__ == "__main__":
    raise SystemExit(main())
