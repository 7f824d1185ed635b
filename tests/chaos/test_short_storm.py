"""The storm in small, part of `make test`: each part is killed once."""

import pytest
from tests.chaos.storm import PATIENT, Plan, render, run_storm

from kairos_testkit.stack import StackOptions

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def test_a_short_storm_loses_doubles_and_disorders_nothing() -> None:
    kills = {"bot-worker": 1, "llm-router": 1, "budget-analytics": 1, "rabbitmq": 1}
    plan = Plan(seed=20261122, messages=120, conversations=20, kills=kills, seconds=12, heal_seconds=90)
    report = run_storm(plan, StackOptions(env=PATIENT, measured=False))
    print(render(plan, report))
    assert report.breaches == []
    assert report.kills == kills
