"""What router processes may do with money, on real PostgreSQL."""

from uuid import uuid4

import pytest
from kairos_budget.domain.book import BudgetExceeded

from .conftest import Bench

pytestmark = pytest.mark.servers


async def test_a_lease_reserves_money_and_usage_settles_it(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    granted = await bench.lease(600)
    assert granted.lease.granted == 600
    await bench.record(bench.usage(granted.lease.id, cost=150, hold=200))
    balances = (await bench.reading(budget)).balances
    assert (balances.leased, balances.settled, balances.available) == (450, 150, 400)
    closed = await bench.cases.close_lease(granted.lease.id, epoch=1, settled=150)
    assert (closed.returned, closed.owed) == (450, 0)
    await bench.assert_balanced()
