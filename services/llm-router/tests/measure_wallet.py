"""What money costs on the hot path: `python services/llm-router/tests/measure_wallet.py`.

Times try_hold + finish on a warm lease, in microseconds of CPU per pair, for an organisation without budgets
of single scopes, with 10,000 of them, and with reserves; and one step of a growing stream.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

from kairos_router.application.hold_money import LeasePolicy, Wallet
from kairos_router.application.ports import Grant, Renewal, RenewalRequest
from kairos_router.domain.ask import Caller
from kairos_router.domain.lease import Scope
from kairos_router.domain.scope_index import FIELDS, ScopeIndex

ROUNDS = 5
PAIRS = 50_000
PLENTY = 10**15


class Generous:
    """An authority that grants everything, for exactly the chains its index knows."""

    def __init__(self, index: ScopeIndex) -> None:
        self.index = index

    async def scopes(self, organisation_id: UUID) -> ScopeIndex:
        return self.index

    async def grant(
        self, scope: Scope, lease_id: UUID, *, want: int, need: int, priority: str = "normal"
    ) -> Grant:
        key = self.index.key(scope, MODEL, priority)  # type: ignore[arg-type] # one of the three
        return Grant(lease_id, 1, PLENTY, False, 1e9, Scope(scope.organisation_id, *key[:6]), key[6], 1)

    async def renew(self, leases: Sequence[RenewalRequest]) -> Sequence[Renewal]:
        return [Renewal(lease.lease_id, "ok", 0, 1e9) for lease in leases]

    async def close(self, lease_id: UUID, *, epoch: int, settled: int) -> None:
        """Nothing is kept."""


MODEL = "model-1"


def best(run: Callable[[], None]) -> float:
    """Microseconds a call, of the fastest round: others were disturbed."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(PAIRS):
            run()
        times.append((time.process_time() - started) / PAIRS)
    return min(times) * 1e6


async def measure(name: str, index: ScopeIndex, caller: Caller) -> None:
    wallet = Wallet(Generous(index), LeasePolicy(slice_nano_usd=PLENTY))
    wallet.finish(await wallet.hold(caller, 1_000, uuid4(), MODEL), "released", 0)
    attempt = uuid4()

    def pair() -> None:
        hold = wallet.try_hold(caller, 1_000, attempt, MODEL)
        if hold is None:
            raise SystemExit("the lease ran out")
        wallet.finish(hold, "settled", 700)

    sys.stdout.write(f"{name:<46}{best(pair):8.2f} us\n")
    amount = 1_000
    held = wallet.try_hold(caller, amount, attempt, MODEL)

    def grow() -> None:
        nonlocal held, amount
        amount += 1
        held = wallet.extend(held, amount) if held else None

    sys.stdout.write(f"{'  a hold that grows':<46}{best(grow):8.2f} us\n")


async def main() -> None:
    organisation = uuid4()
    ids = {name: uuid4() for name in FIELDS[:-1]}
    caller = Caller(Scope(organisation, **ids))
    kinds = [name.removesuffix("_id") for name in FIELDS]
    crowd = [(kind, uuid4(), False) for kind in kinds for _ in range(10_000 // len(kinds))]
    own = [(name.removesuffix("_id"), found, False) for name, found in ids.items()]
    await measure("no budgets but the organisation's", ScopeIndex.of(1, ()), caller)
    await measure("10,000 budgets of others", ScopeIndex.of(1, crowd), caller)
    await measure("10,000 budgets, five of the caller's", ScopeIndex.of(1, crowd + own), caller)
    reserved = [*crowd, *own, ("organisation", organisation, True)]
    await measure("the same with reserves", ScopeIndex.of(1, reserved), caller)


if __name__ == "__main__":
    asyncio.run(main())
