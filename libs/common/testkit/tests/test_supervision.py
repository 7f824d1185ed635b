"""One real supervisord with small programs: started, changed, orphaned, ended."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from kairos_testkit.local_state import LocalState, existing_state, forget_data, open_state
from kairos_testkit.ports import wait_until
from kairos_testkit.processes import ServerSpec
from kairos_testkit.supervision import Supervisor
from kairos_testkit.up import UpError, start


def sleeper(name: str, state: LocalState, **env: str) -> ServerSpec:
    return ServerSpec(
        name=name,
        argv=("/bin/sh", "-c", 'echo "secret is $SECRET"; exec sleep 600'),
        env={"PATH": "/usr/bin:/bin", "SECRET": "none", **env},
        cwd=state.home,
        ready=lambda: True,
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[LocalState]:
    state = open_state(tmp_path, "native")
    yield state
    forget_data(state)


@pytest.fixture
def supervisor(state: LocalState) -> Iterator[Supervisor]:
    supervisor = Supervisor(state)
    yield supervisor
    supervisor.shut_down()


def pids(supervisor: Supervisor) -> dict[str, int]:
    return {info.name: info.pid for info in supervisor.programs()}


def run(supervisor: Supervisor, state: LocalState, *specs: ServerSpec, **stamps: str) -> dict[str, int]:
    supervisor.write(specs, stamps)
    supervisor.start()
    supervisor.apply()
    supervisor.start_programs([spec.name for spec in specs])

    def launched() -> bool:
        notes = {
            note.stem: int(note.read_text().split()[0]) for note in (state.home / "programs").glob("*.pid")
        }
        return notes == pids(supervisor)

    wait_until(launched, timeout=20, what="the programs")
    return pids(supervisor)


def test_only_what_changed_is_restarted(supervisor: Supervisor, state: LocalState) -> None:
    before = run(supervisor, state, sleeper("one", state), sleeper("two", state), sleeper("three", state))
    after = run(
        supervisor,
        state,
        sleeper("one", state),
        sleeper("two", state, SECRET="new"),
        sleeper("three", state),
        three="x",
    )
    assert after["one"] == before["one"]
    assert after["two"] != before["two"]
    assert after["three"] != before["three"]


def test_secrets_stand_in_private_files_only(supervisor: Supervisor, state: LocalState) -> None:
    pid = run(supervisor, state, sleeper("one", state, SECRET="hush"))["one"]
    log = state.logs / "one.log"
    wait_until(lambda: log.exists() and "secret is hush" in log.read_text(), timeout=10, what="the log")
    assert b"hush" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert "hush" not in (state.home / "supervisord.conf").read_text()
    assert (state.home / "programs" / "one.json").stat().st_mode & 0o077 == 0


def test_a_killed_program_is_started_again(supervisor: Supervisor, state: LocalState) -> None:
    pid = run(supervisor, state, sleeper("one", state))["one"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pids(supervisor)["one"] not in (0, pid), timeout=15, what="the restart")


def test_a_program_that_keeps_ending_is_told_with_its_log_long_before_the_deadline(
    supervisor: Supervisor, state: LocalState
) -> None:
    argv = ("/bin/sh", "-c", "echo no such module; exit 1")
    broken = replace(sleeper("one", state), argv=argv, ready=lambda: False, ready_timeout=600)
    supervisor.write([broken], {})
    supervisor.start()
    supervisor.apply()
    with ThreadPoolExecutor(1) as pool, pytest.raises(UpError, match="ends by itself") as told:
        start([broken], supervisor, state, pool)
    assert "no such module" in str(told.value)


def test_programs_that_outlived_their_supervisor_are_ended(supervisor: Supervisor, state: LocalState) -> None:
    pid = run(supervisor, state, sleeper("one", state))["one"]
    os.kill(int((state.home / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not supervisor.running, timeout=10, what="the end of supervisord")
    after = run(supervisor, state, sleeper("one", state))
    assert after["one"] != pid
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()


def test_a_stale_note_never_ends_somebody_elses_process(supervisor: Supervisor, state: LocalState) -> None:
    supervisor.write([], {})
    note = state.home / "programs" / "one.pid"
    note.write_text(f"{os.getpid()} 1")
    supervisor.end_orphans()
    note.write_text("nonsense")
    supervisor.end_orphans()


def test_a_supervisor_that_hangs_is_replaced(supervisor: Supervisor, state: LocalState) -> None:
    run(supervisor, state, sleeper("one", state))
    hanging = int((state.home / "supervisord.pid").read_text())
    os.kill(hanging, signal.SIGSTOP)
    supervisor.end_orphans()
    run(supervisor, state, sleeper("one", state))
    assert int((state.home / "supervisord.pid").read_text()) != hanging


def test_another_installation_is_not_taken_for_this_one(supervisor: Supervisor, state: LocalState) -> None:
    run(supervisor, state, sleeper("one", state))
    impostor = replace(state, home=state.home / "elsewhere")
    assert not Supervisor(impostor).running
    assert existing_state(state.home) is None
