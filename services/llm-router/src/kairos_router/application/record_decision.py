"""Which refusals are kept, so that their ids lead to the reasons."""

from collections import OrderedDict
from datetime import datetime
from uuid import UUID, uuid4

from kairos_router.application.choose_deployment import NoneAvailable, Refused
from kairos_router.application.quota_ports import QuotaExceeded
from kairos_router.domain.ask import Caller
from kairos_router.domain.decision import Decision, RefusedStep
from kairos_router.domain.selection import NothingFits

# Whoever runs into a quota does so many times a second; one of these refusals tells as much as all.
QUOTA_TOLD_EVERY_S = 1.0
QUOTAS_REMEMBERED = 1_000


class Sparingly:
    """Lets a repeated reason through once in a while."""

    def __init__(self, every: float = QUOTA_TOLD_EVERY_S) -> None:
        self._every = every
        self._told: OrderedDict[object, float] = OrderedDict()

    def allows(self, reason: object, now: float) -> bool:
        told = self._told.get(reason)
        if told is not None and now - told < self._every:
            return False
        self._told[reason] = now
        self._told.move_to_end(reason)
        if len(self._told) > QUOTAS_REMEMBERED:
            self._told.popitem(last=False)
        return True


def decision_of(
    error: Exception, code: str, caller: Caller, completion_id: UUID, model: str, at: datetime
) -> Decision | None:
    """The decision behind a refusal with this error code, None for a failure that decided nothing."""
    match error:
        case Refused():
            steps = error.steps
        case NothingFits():
            steps = tuple(RefusedStep(name, 0, 0, reason=reason) for name, reason in error.reasons.items())
        case NoneAvailable():
            steps = ()
        case QuotaExceeded():
            steps = (RefusedStep("quota", 0, 0, reason=str(error)),)
        case _:
            return None
    return Decision(uuid4(), completion_id, caller, model, code, at, steps)
