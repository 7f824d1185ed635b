"""`make chaos`: a thousand messages while every part is killed. SEED=... repeats a run."""

import os
import secrets

import pytest
from tests.chaos.storm import Plan, render, run_storm

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_every_message_is_answered_once_while_everything_is_killed() -> None:
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**31))  # noqa: TID251 - the seed of a run is its only setting
    print(f"SEED={seed}")
    plan = Plan(seed=seed)
    report = run_storm(plan)
    print(render(plan, report))
    assert report.breaches == []
    assert all(report.kills[name] == count for name, count in plan.kills.items())
    assert report.attempted == plan.messages
    assert report.budget_samples > plan.seconds
