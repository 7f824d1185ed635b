"""Choose a deployment for a request and take the hold for it."""

import random
from collections.abc import Callable, Sequence
from uuid import UUID

from kairos_router.application.circuits import Circuits, NoneAvailable
from kairos_router.application.hold_money import Wallet
from kairos_router.application.ports import BudgetExceeded, BudgetUnavailable, CatalogueSource, Refusal
from kairos_router.domain.ask import Ask, Caller, max_tokens_on
from kairos_router.domain.attempt import Hold
from kairos_router.domain.catalogue import Choice, Deployment
from kairos_router.domain.decision import NO_PRICE, RefusedStep
from kairos_router.domain.lease import MOST_ATTEMPT
from kairos_router.domain.policy import Ranking
from kairos_router.domain.records import record
from kairos_router.domain.selection import Rung, clamped, fitting, ladder
from kairos_router.domain.stream_hold import opening_hold

__all__ = ["Chooser", "Chosen", "Circuits", "NoneAvailable", "Options", "Refused", "without"]

# What is held for a model nobody has a price of: enough to be told whether a budget applies.
UNPRICED_HOLD = 1
_TOO_MUCH = Refusal(None, None, "organisation", MOST_ATTEMPT, MOST_ATTEMPT)


class Refused(Exception):  # noqa: N818 - reads as the fact it states
    """No rung of the ladder fits the budgets; nothing was reserved."""

    def __init__(self, steps: tuple[RefusedStep, ...]) -> None:
        super().__init__(f"{len(steps)} ways to answer, none within budget")
        self.steps = steps


@record
class Chosen:
    rung: Rung
    hold: Hold


@record
class Options:
    """What may answer, best first."""

    choice: Choice
    candidates: tuple[Deployment, ...]


class Chooser:
    def __init__(
        self,
        catalogue: CatalogueSource,
        wallet: Wallet,
        circuits: Circuits,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._catalogue = catalogue
        self._wallet = wallet
        self._circuits = circuits
        self._chance = chance

    def options(self, ask: Ask, caller: Caller) -> Options:
        """Raises ModelNotFound, NothingFits, NoneAvailable."""
        catalogue = self._catalogue.current(caller.scope.organisation_id)
        choice = catalogue.choice(ask.model)
        ordered = choice.all
        if not choice.plain:
            ordered = Ranking(ask, caller, catalogue, self._circuits, self._chance).order(choice)
        return Options(choice, self._circuits.closed(fitting(ask, ordered)))

    def preferred(
        self, ask: Ask, caller: Caller, candidates: Sequence[Deployment], attempt_id: UUID
    ) -> Chosen | None:
        """The first candidate in full, when the money for it is here; None: `afford` tells."""
        first = candidates[0]
        if not first.price.known:
            return None
        max_tokens = max_tokens_on(ask, first)
        amount = opening_hold(ask, first, max_tokens)
        if amount > MOST_ATTEMPT:
            return None
        hold = self._wallet.try_hold(caller, amount, attempt_id, first.model)
        return None if hold is None else Chosen(Rung(first, max_tokens, None), hold)

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
        if not rung.deployment.price.known:
            return await self._unpriced(caller, rung, attempt_id, steps)
        wanted: Rung | None = rung
        for _ in range(2):
            if wanted is None:
                break
            amount = opening_hold(ask, wanted.deployment, wanted.max_tokens)
            model = wanted.deployment.model
            refusal = _TOO_MUCH
            if amount <= MOST_ATTEMPT:
                try:
                    return Chosen(wanted, await self._wallet.hold(caller, amount, attempt_id, model))
                except BudgetExceeded as error:
                    refusal = error.refusal
            steps.append(_step(wanted, amount, refusal))
            wanted = clamped(ask, rung, refusal.remaining)
        return None

    async def _unpriced(
        self, caller: Caller, rung: Rung, attempt_id: UUID, steps: list[RefusedStep]
    ) -> Chosen | None:
        """Nobody knows what it would cost, so it may run only where no budget applies."""
        try:
            hold = await self._wallet.hold(caller, UNPRICED_HOLD, attempt_id, rung.deployment.model)
        except BudgetExceeded as error:
            steps.append(_step(rung, UNPRICED_HOLD, error.refusal))
            return None
        if self._wallet.unlimited(hold):
            return Chosen(rung, hold)
        self._wallet.finish(hold, "released", 0)
        steps.append(RefusedStep(rung.deployment.name, rung.max_tokens, 0, reason=NO_PRICE))
        return None


def _step(rung: Rung, amount: int, refusal: Refusal) -> RefusedStep:
    return RefusedStep(
        deployment=rung.deployment.name,
        max_tokens=rung.max_tokens,
        hold_nano_usd=amount,
        remaining_nano_usd=refusal.remaining,
        limit_nano_usd=refusal.limit,
        scope=refusal.scope,
        budget_id=refusal.budget_id,
        budget_decision_id=refusal.decision_id,
    )


def without(candidates: Sequence[Deployment], tried: Deployment) -> tuple[Deployment, ...]:
    return tuple(candidate for candidate in candidates if candidate is not tried)
