"""Why a request was refused: what was tried, and which budget said no."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kairos_router.domain.ask import Caller

OVER_BUDGET = "over_budget"
NO_PRICE = "no_price"


@dataclass(frozen=True, slots=True)
class RefusedStep:
    """One way to answer that was not possible. Amounts in nano-USD.

    `reason` is over_budget, no_price, or in words what the deployment lacks.
    """

    deployment: str
    max_tokens: int
    hold_nano_usd: int
    remaining_nano_usd: int = 0
    limit_nano_usd: int = 0
    scope: str = ""
    budget_id: UUID | None = None
    budget_decision_id: UUID | None = None
    reason: str = OVER_BUDGET


@dataclass(frozen=True, slots=True)
class Decision:
    """A refusal, kept so that its id in the answer leads to the reasons."""

    decision_id: UUID
    completion_id: UUID
    caller: Caller
    model: str
    code: str
    decided_at: datetime
    steps: tuple[RefusedStep, ...]


def usd(nano: int) -> str:
    """An amount for people: dollars with as many decimals as it has, at least two."""
    sign, nano = ("-" if nano < 0 else ""), abs(nano)
    whole, rest = divmod(nano, 1_000_000_000)
    return f"{sign}{whole:,}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')} USD"


def step_in_words(step: RefusedStep) -> str:
    if step.reason == NO_PRICE:
        return f"{step.deployment}: nobody knows its price, and a budget applies, so it may not run."
    if step.reason != OVER_BUDGET:
        return f"{step.deployment}: {step.reason}."
    scope = step.scope.replace("_", " ") or "organisation"
    return (
        f"{step.deployment} with at most {step.max_tokens:,} tokens of answer: costs up to"
        f" {usd(step.hold_nano_usd)}; the budget of the {scope} has {usd(max(0, step.remaining_nano_usd))}"
        f" of {usd(step.limit_nano_usd)} left."
    )


_HEADLINES = {
    "budget_exceeded": "No way to answer as '{model}' fits the budgets, not even a shorter or cheaper one.",
    "unsupported_by_model": "No deployment behind '{model}' can do what the request needs.",
    "context_length_exceeded": "The request is longer than every context window behind '{model}'.",
    "provider_unavailable": "Every deployment behind '{model}' has failed lately, or is full.",
    "rate_limit_exceeded": "A quota is used up.",
}


def in_words(decision: Decision) -> str:
    headline = _HEADLINES.get(decision.code, "The request for '{model}' was refused ({code}).")
    return headline.format(model=decision.model, code=decision.code)


def what_to_do(decision: Decision) -> tuple[str, ...]:
    """What helps, the nearest first."""
    reasons = {step.reason for step in decision.steps}
    if decision.code == "budget_exceeded":
        budgets = sorted({str(step.budget_id) for step in decision.steps if step.budget_id})
        advice = [f"Raise the budget {budget}, or wait for its next period." for budget in budgets]
        if NO_PRICE in reasons:
            advice.append("Give the model a price: PUT /prices/{name}, or a price in its deployment.")
        if OVER_BUDGET in reasons:
            advice.append("Ask for fewer tokens (max_tokens) or send less text.")
        return (
            *advice,
            "Add a deployment that costs nothing to the route; it answers when money is used up.",
        )
    if decision.code == "unsupported_by_model":
        return ("Ask for a route with such a deployment, or list the capability where it is there.",)
    if decision.code == "context_length_exceeded":
        return ("Send less text, or add a deployment with a larger context window to the route.",)
    if decision.code == "rate_limit_exceeded":
        return ("Wait for the time in Retry-After, or raise the quota.",)
    return ("Try again in a moment.",)


@dataclass(frozen=True, slots=True)
class DecisionFilter:
    """None means any."""

    code: str | None = None
    model: str | None = None
    bot_id: UUID | None = None
    api_key_id: UUID | None = None
    project_id: UUID | None = None
