"""Which deployments may answer, and in which order a budget is asked for them."""

from collections.abc import Iterator, Sequence
from typing import Literal

from kairos_router.domain.ask import BYTES_PER_TOKEN_AT_MOST, Ask, bounds_on, hold_on, max_tokens_on
from kairos_router.domain.catalogue import Capability, Deployment
from kairos_router.domain.pricing import affordable_output
from kairos_router.domain.records import record

Degraded = Literal["budget.clamped", "budget.cheaper", "budget.local"]

# An answer shorter than this helps nobody; a cheaper model is tried instead.
LEAST_USEFUL_TOKENS = 16


class NothingFits(Exception):  # noqa: N818 - reads as the fact it states
    """No deployment of the route has what the request needs; the request is refused."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        self.reasons = reasons


@record
class Rung:
    """One way to answer. `degraded` tells the caller what the budget made of the request."""

    deployment: Deployment
    max_tokens: int
    degraded: Degraded | None


TOO_SMALL = "context window too small"


def unfit(ask: Ask, deployment: Deployment) -> str | None:
    """Why the deployment can't answer, or None when it can or may."""
    capabilities = deployment.capabilities
    if (
        ask.operation != "embeddings"
        and Capability.EMBEDDINGS in capabilities
        and Capability.CHAT not in capabilities
    ):
        return "makes embeddings only"
    if not ask.needs <= capabilities:
        return "lacks " + ", ".join(sorted(ask.needs - capabilities))
    return TOO_SMALL if fewest_tokens(ask, deployment) > deployment.context_window else None


def fewest_tokens(ask: Ask, deployment: Deployment) -> int:
    """How many tokens of the context window the request takes: counted, or guessed from below."""
    output = max_tokens_on(ask, deployment)
    if ask.tokens is not None:
        return ask.tokens + ask.images * deployment.image_tokens + output
    size = ask.size if ask.longest is None else ask.longest
    return size // BYTES_PER_TOKEN_AT_MOST + output


def unsure(ask: Ask, deployment: Deployment) -> bool:
    """Whether the request may be too long for the deployment: its bytes are, and nobody has counted."""
    size = ask.size if ask.longest is None else ask.longest
    return ask.tokens is None and size + max_tokens_on(ask, deployment) > deployment.context_window


def fitting(ask: Ask, deployments: Sequence[Deployment]) -> tuple[Deployment, ...]:
    """The deployments that can answer, in their order. Raises NothingFits."""
    reasons = [unfit(ask, deployment) for deployment in deployments]
    if not any(reasons):
        return tuple(deployments)
    named = list(zip(deployments, reasons, strict=True))
    fit = tuple(deployment for deployment, reason in named if reason is None)
    if not fit:
        raise NothingFits({deployment.name: reason for deployment, reason in named if reason})
    return fit


def ladder(ask: Ask, deployments: Sequence[Deployment]) -> Iterator[Rung]:
    """The preferred deployment first; below it what costs less, in the route's order; what is free last.

    Nobody can say what costs less than a model without a price: everything with one stands below it.
    """
    first, *others = deployments
    preferred = Rung(first, max_tokens_on(ask, first), None)
    yield preferred
    price = hold_on(ask, first, preferred.max_tokens)
    free: list[Rung] = []
    for deployment in others:
        max_tokens = max_tokens_on(ask, deployment)
        if deployment.price.free:
            free.append(Rung(deployment, max_tokens, "budget.local"))
        elif not first.price.known or hold_on(ask, deployment, max_tokens) < price:
            yield Rung(deployment, max_tokens, "budget.cheaper")
    yield from free


def clamped(ask: Ask, rung: Rung, remaining: int) -> Rung | None:
    """The rung with the output tokens `remaining` nano-USD allow, or None when too few to be useful."""
    bounds = bounds_on(ask, rung.deployment, rung.max_tokens)
    output = affordable_output(rung.deployment.price, bounds, remaining) // ask.choices
    if output >= rung.max_tokens or output < LEAST_USEFUL_TOKENS:
        return None
    return Rung(rung.deployment, output, rung.degraded or "budget.clamped")
