"""In which order the deployments of a route are asked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from kairos_router.domain.ask import Ask, Caller, hold_on, max_tokens_on
from kairos_router.domain.catalogue import Catalogue, Choice, Deployment, Policy, Stage

# Until answers have been scored, a deployment is taken for one of the middle.
UNKNOWN_QUALITY = 0.5
_HASH_BYTES = 8
_HASHES = 1 << (8 * _HASH_BYTES)
# Of a normal distribution, this many standard deviations above the mean lie 95 % (a z-table's figure).
_P95 = 1.645


class Latencies(Protocol):
    def p95(self, deployment: Deployment) -> float | None:
        """Seconds to the first token or the answer; None before the first one."""
        ...


@dataclass(frozen=True, slots=True)
class Latency:
    """Exponentially weighted mean and variance of a deployment's latency, in seconds.

    The recurrences are those of Finch, "Incremental calculation of weighted mean and variance" (2009).
    """

    mean: float
    variance: float = 0.0

    def seen(self, seconds: float, weight: float = 0.1) -> "Latency":
        difference = seconds - self.mean
        step = weight * difference
        return Latency(self.mean + step, (1 - weight) * (self.variance + difference * step))

    @property
    def p95(self) -> float:
        return self.mean + _P95 * math.sqrt(self.variance)


def _draw(*parts: object) -> float:
    """A number in (0, 1) that is the same for the same parts, in every process."""
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=_HASH_BYTES).digest()
    return (int.from_bytes(digest, "big") + 0.5) / _HASHES


@dataclass(frozen=True, slots=True)
class Ranking:
    """Everything an order can depend on. `random` gives numbers in [0, 1)."""

    ask: Ask
    caller: Caller
    catalogue: Catalogue
    latencies: Latencies
    random: Callable[[], float]

    def order(self, choice: Choice) -> tuple[Deployment, ...]:
        """Every deployment of the choice once: those of the route ranked, then those of its fallbacks."""
        if choice.plain:
            return choice.all
        return tuple(each for stage in choice.stages for each in self._stage(stage))

    def _stage(self, stage: Stage) -> Sequence[Deployment]:
        if stage.plain:
            return stage.deployments
        canaries = dict(stage.route.canaries)
        rest = [each for each in stage.deployments if each.name not in canaries]
        ranked = self._ranked(stage, rest)
        first: list[Deployment] = []
        last: list[Deployment] = []
        # One draw for all canaries: 10 % and 20 % are 30 % of the requests, not a chain of chances.
        drawn = self._chance(stage, "canary") * 100
        for each in stage.deployments:
            share = canaries.get(each.name)
            if share is not None:
                (first if 0 <= drawn < share else last).append(each)
                drawn -= share
        return [*first, *ranked, *last]

    def _ranked(self, stage: Stage, deployments: list[Deployment]) -> list[Deployment]:
        policy = stage.route.policy
        if policy == "fixed" and stage.route.sticky:
            # Who has no fixed place gets one by hash; in a fixed order that is an equal share for all.
            return self._weighted(stage, deployments, weighted=False)
        if policy == "weighted":
            return self._weighted(stage, deployments, weighted=True)
        key = self._key(policy, stage, deployments)
        return deployments if key is None else sorted(deployments, key=key)

    def _chance(self, stage: Stage, purpose: str) -> float:
        whose = self._whose(stage)
        return self.random() if whose is None else _draw(purpose, stage.route.name, whose)

    def _whose(self, stage: Stage) -> object | None:
        if not stage.route.sticky:
            return None
        return self.caller.affinity or self.caller.api_key_id

    def _weighted(self, stage: Stage, deployments: list[Deployment], *, weighted: bool) -> list[Deployment]:
        """A draw without replacement, by Efraimidis and Spirakis (2006): sort by u ** (1 / weight).

        With a hash in the place of chance it is weighted rendezvous hashing: when a deployment leaves,
        only its own callers move.
        """
        weights = dict(zip(stage.route.deployments, stage.route.weights, strict=False))
        whose = self._whose(stage)
        if whose is None and not weighted:
            return deployments

        def place(deployment: Deployment) -> float:
            chance = self.random() if whose is None else _draw(deployment.name, whose)
            weight = weights.get(deployment.name, 1) if weighted else 1
            return math.log(max(chance, 1e-12)) / weight

        return sorted(deployments, key=place, reverse=True)

    def _cost(self, deployment: Deployment) -> float:
        return hold_on(self.ask, deployment, max_tokens_on(self.ask, deployment))

    def _latency(self, deployment: Deployment) -> float:
        # Nobody knows yet: ask it, so that somebody does.
        return self.latencies.p95(deployment) or 0.0

    def _badness(self, deployment: Deployment) -> float:
        return 1 - self.catalogue.quality.get(deployment.name, UNKNOWN_QUALITY)

    def _key(
        self, policy: Policy, stage: Stage, deployments: list[Deployment]
    ) -> Callable[[Deployment], float] | None:
        match policy:
            case "cost":
                return self._cost
            case "latency":
                return self._latency
            case "quality":
                return self._badness
            case "balanced":
                return self._balanced(stage, deployments)
        return None

    def _balanced(self, stage: Stage, deployments: list[Deployment]) -> Callable[[Deployment], float]:
        """The weighted sum of cost, latency and badness, each as a part of the worst one here."""
        balance = stage.route.balance
        terms = [
            (balance.cost, self._cost),
            (balance.latency, self._latency),
            (balance.quality, self._badness),
        ]
        tables = []
        for weight, term in terms:
            values = {each.name: term(each) for each in deployments}
            worst = max(values.values(), default=0.0) or 1.0
            tables.append((weight / worst, values))
        return lambda each: sum(share * values[each.name] for share, values in tables)
