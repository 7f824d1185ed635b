"""What people read of a refusal, and what programs do."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from kairos_router.application.choose_deployment import NoneAvailable
from kairos_router.application.explain_failure import explain
from kairos_router.application.ports import Fault, ProviderFailed
from kairos_router.application.record_decision import QUOTAS_REMEMBERED, Sparingly
from kairos_router.domain.ask import Caller
from kairos_router.domain.decision import (
    NO_PRICE,
    Decision,
    RefusedStep,
    in_words,
    step_in_words,
    usd,
    what_to_do,
)
from kairos_router.domain.lease import Scope
from kairos_router.domain.selection import TOO_SMALL, NothingFits

BUDGET = UUID(int=5)


def decided(code: str, *steps: RefusedStep) -> Decision:
    caller = Caller(Scope(UUID(int=1)))
    return Decision(UUID(int=2), UUID(int=3), caller, "fast", code, datetime.now(UTC), steps)


@pytest.mark.parametrize(
    ("nano", "words"),
    [
        (0, "0.00 USD"),
        (1, "0.000000001 USD"),
        (1_500_000_000, "1.50 USD"),
        (-20_000_000, "-0.02 USD"),
        (1_234_567_000_000_000, "1,234,567.00 USD"),
    ],
)
def test_amounts_are_dollars_with_as_many_decimals_as_they_have(nano: int, words: str) -> None:
    assert usd(nano) == words


def test_a_step_says_what_it_would_have_cost_and_which_budget_has_how_much_left() -> None:
    over = RefusedStep("dear", 1_000, 2_000_000_000, -7, 10**10, "api_key", BUDGET)
    assert step_in_words(over) == (
        "dear with at most 1,000 tokens of answer: costs up to 2.00 USD;"
        " the budget of the api key has 0.00 USD of 10.00 USD left."
    )
    assert "the budget of the organisation has" in step_in_words(RefusedStep("dear", 1, 1))
    assert step_in_words(RefusedStep("new", 1, 0, reason=NO_PRICE)).startswith("new: nobody knows its price")
    assert step_in_words(RefusedStep("blind", 0, 0, reason="lacks vision")) == "blind: lacks vision."


def test_advice_fits_the_reasons() -> None:
    over = RefusedStep("dear", 1, 1, budget_id=BUDGET)
    unpriced = RefusedStep("new", 1, 0, reason=NO_PRICE)
    raised, shorter, free = what_to_do(decided("budget_exceeded", over))
    assert str(BUDGET) in raised
    assert "max_tokens" in shorter
    assert "costs nothing" in free
    priced, free = what_to_do(decided("budget_exceeded", unpriced))
    assert "PUT /prices" in priced
    assert len(what_to_do(decided("budget_exceeded", over, over, unpriced))) == 4
    assert "'fast'" in in_words(decided("budget_exceeded"))
    assert in_words(decided("new_code")) == "The request for 'fast' was refused (new_code)."


@pytest.mark.parametrize(
    ("error", "status", "code", "later", "after"),
    [
        (NothingFits({"a": TOO_SMALL, "b": TOO_SMALL}), 400, "context_length_exceeded", False, None),
        (NothingFits({"a": TOO_SMALL, "b": "lacks tools"}), 400, "unsupported_by_model", False, None),
        (NoneAvailable(0.2), 503, "provider_unavailable", True, "1"),
        (NoneAvailable(20.0), 503, "provider_unavailable", True, "20"),
        (ProviderFailed(Fault.INVALID_REQUEST, status=422), 422, "invalid_request", False, None),
        (ProviderFailed(Fault.INVALID_REQUEST), 400, "invalid_request", False, None),
        (ProviderFailed(Fault.MISCONFIGURED, status=401), 502, "provider_misconfigured", True, None),
        (ProviderFailed(Fault.RATE_LIMITED, status=429), 429, "provider_rate_limited", True, "1"),
        (
            ProviderFailed(Fault.RATE_LIMITED, status=429, retry_after="7"),
            429,
            "provider_rate_limited",
            True,
            "7",
        ),
        (ProviderFailed(Fault.UNREACHABLE), 503, "provider_unreachable", True, "1"),
        (ProviderFailed(Fault.TIMEOUT), 504, "provider_timeout", True, None),
    ],
)
def test_programs_are_told_whether_and_when_to_come_back(
    error: Exception, status: int, code: str, later: bool, after: Any
) -> None:
    told = explain(error)
    assert told is not None
    assert (told.status, told.code, told.later, told.retry_after) == (status, code, later, after)
    assert explain(KeyError("nobody foresaw this")) is None


def test_the_same_refusal_is_kept_once_a_second_and_few_are_remembered() -> None:
    sparingly = Sparingly(1.0)
    assert [sparingly.allows("a", now) for now in (0.0, 0.9, 1.0, 1.5)] == [True, False, True, False]
    for number in range(QUOTAS_REMEMBERED):
        assert sparingly.allows(number, 1.6)
    assert sparingly.allows("a", 1.7), "it was forgotten for newer ones"
    assert not sparingly.allows(QUOTAS_REMEMBERED - 1, 1.7)
