"""The squeeze in small, part of `make test`."""

import pytest
from tests.chaos.hard_cap import Plan, render, run_squeeze

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]


def test_no_budget_is_passed_while_routers_and_the_authority_are_killed() -> None:
    plan = Plan(
        seed=20261122,
        clients=40,
        seconds=8,
        routers=2,
        limits={"all": 60_000_000, "north": 20_000_000, "south": 20_000_000, "west": None},
        kills={"llm-router": 1, "budget-analytics": 1},
        flushes=1,
    )
    report = run_squeeze(plan)
    print(render(plan, report))
    assert report.breaches == []
    assert report.outcomes.get("refused", 0) > 0
    assert report.grown_streams + report.streams_cut > 0
