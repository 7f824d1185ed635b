"""What real router processes let through together, also when Redis forgets the counts (decision 0019)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import redis
from tests.chaos.quota_crowd import TOO_MANY, Admitted, Callers
from tests.e2e.people import signed_in

from kairos_testkit.stack import Stack

FREE = "free"
# A steady stream gets 30 of 32 buckets; a crowd that comes at once gets all but what is rounded off.
LEAST_USED = 0.95
FOLLOWED_S = 2.0


@dataclass
class Found:
    """Requests let in by each router, by what happened meanwhile."""

    admitted: dict[str, list[int]] = field(default_factory=dict)
    seconds_until_followed: float = 0.0
    breaches: list[str] = field(default_factory=list)


def quotas_over(stack: Stack, gateways: Sequence[str], limit: int) -> Found:
    """Each with a key and a quota of its own, within one window."""
    found = Found()
    auth, router = signed_in(stack, "quotas@kairos.example"), stack.client("llm-router")
    store = redis.Redis.from_url(stack.servers.redis_url)

    def used_up(name: str, least: int, most: int, halfway: object = None) -> None:
        key = auth.post("/api-keys", {"name": name})
        scope = {"scope": "api_key", "scope_id": key["id"], "metric": "requests", "window": "minute"}
        quota = router.post("/quotas", {**scope, "limit": 1})
        first, *others = range(len(gateways))
        callers = Callers(gateways, key["key"], FREE)
        # The first request of a key reads it; the second one is the quota's to refuse.
        followed = max(callers.seconds_until(TOO_MANY, number) for number in (first, *others))
        found.seconds_until_followed = max(found.seconds_until_followed, round(followed, 2))
        router.call("PATCH", f"/quotas/{quota['quota_id']}", {"limit": limit})
        let_in = callers.use_up(limit, least, store.flushall if halfway else None)
        found.admitted[name] = list(let_in.by_router)
        found.breaches += breaches_of(name, let_in, least, most)

    used_up("undisturbed", round(limit * LEAST_USED), limit)
    # Until all have told what they used, all together get what one would have alone. What a router has told
    # in a call that failed it tells again, and it may be counted twice: then less is let in.
    used_up("counts lost halfway", limit // 2, limit + limit // len(gateways), halfway=True)
    store.close()
    if found.seconds_until_followed > FOLLOWED_S:
        found.breaches.append(f"a quota was followed after {found.seconds_until_followed} s only")
    return found


def breaches_of(name: str, admitted: Admitted, least: int, most: int) -> list[str]:
    breaches = [f"quota {name}: {other}" for other in admitted.others]
    if admitted.seconds > 55:
        return [*breaches, f"quota {name}: {admitted.seconds:.0f} s are more than its window"]
    if not least <= admitted.total <= most:
        breaches.append(f"quota {name}: {admitted.total} were let in, and not {least} to {most}")
    return breaches
