import asyncio
import signal
import subprocess
import sys

import pytest

import kairos_faults
from kairos_faults import (
    POINTS,
    Action,
    Faults,
    FaultSyntaxError,
    InjectedFault,
    UndeclaredPoint,
    parse,
)

NAME = next(iter(POINTS))


def test_a_point_does_nothing_until_it_is_armed() -> None:
    Faults().point(NAME)


def test_an_undeclared_point_can_not_be_armed() -> None:
    with pytest.raises(UndeclaredPoint):
        Faults().arm("no.such.point", Action("error"))


async def test_an_armed_point_raises_as_often_as_it_was_told() -> None:
    faults = Faults()
    faults.arm(NAME, Action("error", times=2))
    with pytest.raises(InjectedFault):
        faults.point(NAME)
    with pytest.raises(InjectedFault):
        await faults.apoint(NAME)
    faults.point(NAME)
    await faults.apoint(NAME)


def test_probability_decides_each_pass() -> None:
    draws = iter([0.05, 0.5, 0.09])
    faults = Faults(chance=lambda: next(draws))
    faults.arm(NAME, Action("error", probability=0.1))
    with pytest.raises(InjectedFault):
        faults.point(NAME)
    faults.point(NAME)
    with pytest.raises(InjectedFault):
        faults.point(NAME)


def test_other_points_stay_quiet_and_disarming_ends_it() -> None:
    faults = Faults()
    first, second = list(POINTS)[:2]
    faults.arm(first, Action("error"))
    faults.point(second)
    assert set(faults.armed()) == {first}
    faults.disarm(first)
    faults.point(first)
    faults.arm(first, Action("error", times=1))
    faults.arm(first, Action("delay"))
    faults.disarm()
    assert faults.armed() == {}


def test_a_kill_is_a_kill() -> None:
    killed: list[str] = []
    faults = Faults(kill=lambda: killed.append("now"))
    faults.arm(NAME, Action("kill"))
    faults.point(NAME)
    assert killed == ["now"]


def test_the_real_kill_leaves_no_time_to_say_goodbye() -> None:
    program = (
        "import atexit, kairos_faults\n"
        "atexit.register(print, 'goodbye')\n"
        f"kairos_faults.arm_all('{NAME}=kill')\n"
        f"kairos_faults.point('{NAME}')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")


async def test_a_delay_lets_others_run() -> None:
    faults = Faults()
    faults.arm(NAME, Action("delay", seconds=0.05))
    order: list[str] = []

    async def passing() -> None:
        await faults.apoint(NAME)
        order.append("passed")

    async def other() -> None:
        order.append("other")

    await asyncio.gather(passing(), other())
    assert order == ["other", "passed"]
    faults.point(NAME)


def test_the_setting_is_read() -> None:
    assert parse("") == {}
    assert parse("a.b=kill:0.1, c=delay:1:2.5,d=error") == {
        "a.b": Action("kill", probability=0.1),
        "c": Action("delay", probability=1.0, seconds=2.5),
        "d": Action("error"),
    }


@pytest.mark.parametrize(
    "text", ["a", "a=", "a=explode", "a=kill:x", "a=kill:2", "a=kill:-1", "a=delay:1:2:3"]
)
def test_a_malformed_setting_is_refused(text: str) -> None:
    with pytest.raises(FaultSyntaxError):
        parse(text)


def test_the_process_wide_points_are_armed_by_the_setting() -> None:
    try:
        kairos_faults.arm_all(f"{NAME}=error")
        assert NAME in kairos_faults.armed()
        with pytest.raises(InjectedFault):
            kairos_faults.point(NAME)
    finally:
        kairos_faults.disarm()
    kairos_faults.arm_all(None)
    assert kairos_faults.armed() == {}
