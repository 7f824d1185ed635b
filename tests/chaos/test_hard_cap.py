"""`make chaos`: 200 clients against budgets at their last cents. SEED=... repeats a run."""

import os
import secrets

import pytest
from tests.chaos.hard_cap import Plan, render, run_squeeze

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_200_clients_never_pass_a_budget_while_everything_about_money_is_killed() -> None:
    seed = int(os.environ.get("SEED") or secrets.randbelow(2**31))  # noqa: TID251 - the seed of a run is its only setting
    print(f"SEED={seed}")
    plan = Plan(seed=seed)
    report = run_squeeze(plan)
    print(render(plan, report))
    assert report.breaches == []
    assert all(report.kills[name] == count for name, count in plan.kills.items())
    assert report.outcomes.get("refused", 0) > plan.clients
    assert report.samples > plan.seconds
    assert report.grown_streams > 0
    assert report.outcomes.get("ended at the cap", 0) > 0
