from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_auth.domain.errors import LastAdmin, WeakPassword
from kairos_auth.domain.fingerprints import Fingerprints
from kairos_auth.domain.lifetimes import (
    SESSION_ABSOLUTE,
    SESSION_IDLE,
    coarse_use,
    session_alive,
    session_deadline,
)
from kairos_auth.domain.membership import normal_email, refuse_losing_last_admin
from kairos_auth.domain.passwords import COMMON, SHORTEST, one_time_password, refuse_weak
from kairos_auth.domain.throttle import ACCOUNT, ADDRESS, PAIR, Attempts, ThrottleRule

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
RULES = st.sampled_from([PAIR, ACCOUNT, ADDRESS])


@given(RULES, st.integers(0, 10_000))
def test_a_pause_never_shrinks_and_never_exceeds_the_longest(rule: ThrottleRule, failures: int) -> None:
    assert rule.pause(failures) <= rule.pause(failures + 1) <= rule.longest
    assert (rule.pause(failures) == timedelta()) is (failures <= rule.free)


def test_the_first_pauses_double() -> None:
    pauses = [PAIR.pause(PAIR.free + number).total_seconds() for number in range(1, 6)]
    assert pauses == [1, 2, 4, 8, 16]


@given(RULES, st.integers(0, 200))
def test_failures_add_up_and_block_for_the_pause(rule: ThrottleRule, failures: int) -> None:
    attempts = Attempts()
    for _ in range(failures):
        attempts = attempts.failed(rule, NOW)
    assert attempts.failures == failures
    assert attempts.wait(NOW) == rule.pause(failures)
    assert attempts.wait(NOW + rule.longest) == timedelta()


def test_a_stranger_can_not_lock_an_owner_out_for_long() -> None:
    assert ACCOUNT.pause(10**6) <= timedelta(seconds=30)


@pytest.mark.parametrize(
    "password",
    [
        "",
        "short",
        "x" * (SHORTEST - 1),
        "x" * 257,
        "aaaaaaaaaaaaaaaa",
        "abababababababab",
        "PASSWORD1234",
        "ada.lovelace-2026!",
        *sorted(COMMON)[:3],
    ],
)
def test_a_guessable_password_is_refused(password: str) -> None:
    with pytest.raises(WeakPassword):
        refuse_weak(password, email="ada.lovelace@example.test")


def test_a_long_phrase_is_fine_and_needs_no_special_characters() -> None:
    refuse_weak("seven wet umbrellas", email="ada@example.test")
    refuse_weak(one_time_password(), email="a@example.test")
    assert one_time_password() != one_time_password()


def test_every_listed_password_would_pass_the_length_rule() -> None:
    assert all(len(password) >= SHORTEST and password == password.casefold() for password in COMMON)


@given(st.timedeltas(timedelta(), timedelta(days=10)), st.timedeltas(timedelta(), timedelta(days=10)))
def test_a_session_lives_exactly_until_its_deadline(used_after: timedelta, later: timedelta) -> None:
    expires_at, last_seen_at = NOW + SESSION_ABSOLUTE, NOW + used_after
    deadline = session_deadline(last_seen_at=last_seen_at, expires_at=expires_at)
    moment = last_seen_at + later
    alive = session_alive(last_seen_at=last_seen_at, expires_at=expires_at, now=moment)
    assert alive is (moment < deadline)
    assert deadline <= last_seen_at + SESSION_IDLE


def test_use_is_noted_to_the_hour() -> None:
    assert coarse_use(NOW + timedelta(minutes=29, seconds=59)) == NOW.replace(minute=0)


def test_a_fingerprint_depends_on_pepper_purpose_and_secret() -> None:
    prints = {
        Fingerprints(pepper).of(purpose, secret)  # type: ignore[arg-type] # any text will do here
        for pepper in (b"a", b"b")
        for purpose in ("api_key", "session")
        for secret in ("x", "y")
    }
    assert len(prints) == 8
    assert "a pepper" not in repr(Fingerprints(b"a pepper"))


@pytest.mark.parametrize("text", ["", "x", "@x", "x@", "a b@c", "a@b@c", "x" * 70 + "@y"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="e-mail"):
        normal_email(text)


def test_addresses_are_compared_without_case_and_space() -> None:
    assert normal_email("  Ada@Example.TEST ") == "ada@example.test"


def test_the_last_admin_can_not_leave() -> None:
    ada, bob = uuid4(), uuid4()
    with pytest.raises(LastAdmin):
        refuse_losing_last_admin([ada], ada)
    refuse_losing_last_admin([ada, bob], ada)
    refuse_losing_last_admin([ada], bob)
