"""Choose a deployment for a request and take the hold for it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from kairos_router.application.hold_money import Wallet
from kairos_router.application.ports import BudgetExceeded, BudgetUnavailable, CatalogueSource
from kairos_router.domain.ask import Ask, Caller, hold_on
from kairos_router.domain.attempt import Hold
from kairos_router.domain.breaker import Breaker
from kairos_router.domain.catalogue import Deployment
from kairos_router.domain.decision import RefusedStep
from kairos_router.domain.selection import Rung, clamped, fitting, ladder


class NoneAvailable(Exception):  # noqa: N818 - reads as the fact it states
    """Every deployment that could answer has failed lately and is left alone for `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"retry after {retry_after:.0f} s")
        self.retry_after = retry_after


class Refused(Exception):  # noqa: N818 - reads as the fact it states
    """No rung of the ladder fits the budgets; nothing was reserved."""

    def __init__(self, steps: tuple[RefusedStep, ...]) -> None:
        super().__init__(f"{len(steps)} ways to answer, none within budget")
        self.steps = steps


@dataclass(frozen=True, slots=True)
class Chosen:
    rung: Rung
    hold: Hold


class Circuits:
    """The breakers of this process, one per deployment."""

    def __init__(
        self, breaker: Breaker | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fresh = breaker or Breaker()
        self._breakers: dict[str, Breaker] = {}
        self._clock = clock

    def state(self, name: str) -> str:
        return self._breakers.get(name, self._fresh).state

    def closed(self, deployments: Sequence[Deployment]) -> tuple[Deployment, ...]:
        """Those that may be tried now. Raises NoneAvailable."""
        if not self._breakers:
            return tuple(deployments)
        now = self._clock()
        allowed = tuple(d for d in deployments if self._breakers.get(d.name, self._fresh).allows(now))
        if not allowed:
            raise NoneAvailable(self._fresh.rest)
        return allowed

    def tried(self, name: str) -> None:
        breaker = self._breakers.get(name)
        if breaker is not None:
            self._breakers[name] = breaker.tried(self._clock())

    def succeeded(self, name: str) -> None:
        self._breakers.pop(name, None)

    def failed(self, name: str) -> None:
        self._breakers[name] = self._breakers.get(name, self._fresh).failed(self._clock())


class Chooser:
    def __init__(self, catalogue: CatalogueSource, wallet: Wallet, circuits: Circuits) -> None:
        self._catalogue = catalogue
        self._wallet = wallet
        self._circuits = circuits

    def candidates(self, ask: Ask) -> tuple[Deployment, ...]:
        """Raises ModelNotFound, NothingFits, NoneAvailable."""
        return self._circuits.closed(fitting(ask, self._catalogue.current().candidates(ask.model)))

    async def afford(
        self, ask: Ask, caller: Caller, candidates: Sequence[Deployment], attempt_id: UUID
    ) -> Chosen:
        """The first rung the budgets allow, with its hold. Raises Refused, BudgetUnavailable."""
        steps: list[RefusedStep] = []
        unavailable: BudgetUnavailable | None = None
        for rung in ladder(ask, candidates):
            if unavailable is not None and not rung.deployment.price.free:
                continue
            try:
                chosen = await self._fit(ask, caller, rung, attempt_id, steps)
            except BudgetUnavailable as error:
                unavailable = error
                continue
            if chosen is not None:
                return chosen
        raise unavailable or Refused(tuple(steps))

    async def _fit(
        self, ask: Ask, caller: Caller, rung: Rung, attempt_id: UUID, steps: list[RefusedStep]
    ) -> Chosen | None:
        """The rung in full, or clamped to what remains, or None with the reasons in `steps`."""
        wanted: Rung | None = rung
        for _ in range(2):
            if wanted is None:
                break
            amount = hold_on(ask, wanted.deployment, wanted.max_tokens)
            # The first look needs no coroutine: on a warm lease it is the only one.
            hold = self._wallet.try_hold(caller, amount, attempt_id)
            try:
                return Chosen(wanted, hold or await self._wallet.hold(caller, amount, attempt_id))
            except BudgetExceeded as error:
                refusal = error.refusal
                steps.append(
                    RefusedStep(
                        deployment=wanted.deployment.name,
                        max_tokens=wanted.max_tokens,
                        hold_nano_usd=amount,
                        remaining_nano_usd=refusal.remaining,
                        limit_nano_usd=refusal.limit,
                        scope=refusal.scope,
                        budget_id=refusal.budget_id,
                        budget_decision_id=refusal.decision_id,
                    )
                )
                wanted = clamped(ask, rung, refusal.remaining)
        return None


def without(candidates: Sequence[Deployment], tried: Deployment) -> tuple[Deployment, ...]:
    return tuple(candidate for candidate in candidates if candidate.name != tried.name)
