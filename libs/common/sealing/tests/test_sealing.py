"""Secrets at rest: what opens them, what does not, and what an error may say."""

import base64
from dataclasses import dataclass, replace
from traceback import format_exception
from typing import Any

import pytest

from kairos_sealing import Sealer, UnusableKey, derived_key

OLD = base64.b64encode(bytes(range(32))).decode()
NEW = base64.b64encode(b"n" * 32).decode()
OTHER = base64.b64encode(b"other".ljust(32)).decode()


@dataclass(frozen=True)
class Kept:
    key_id: str
    ciphertext: bytes


class UnreadableError(Exception):
    pass


# Sealed under OLD by services that had this code to themselves; databases are full of them.
KEY_ID = "24ac9a5ffb2b"
FROM_BOTS = Kept(KEY_ID, base64.b64decode("1dQ/3JrWJZ7lVBx2EyQuyS/I8wF1BHUME437nImS5Ke2sjgpepFqlWskXb8="))
FROM_ROUTER = Kept(KEY_ID, base64.b64decode("4osYnbjnQ2l6v3LRKb5T3hCoKBytlRoakGlaXNt+hPnEra8CLpCWUyF6Ow=="))


def sealer(current: str, *previous: str) -> Sealer[Kept]:
    return Sealer(current, previous, kept_as=Kept, unreadable=UnreadableError)


def test_a_sealed_secret_opens_for_its_place_and_looks_different_every_time() -> None:
    sealed = sealer(NEW).seal("s3cret ✓", bound_to="bot:token")
    assert sealer(NEW).open(sealed, bound_to="bot:token") == "s3cret ✓"
    assert b"s3cret" not in sealed.ciphertext
    assert sealer(NEW).seal("s3cret ✓", bound_to="bot:token") != sealed


@pytest.mark.parametrize("keys", [(OLD,), (NEW, OLD), (NEW, OTHER, OLD)])
def test_what_was_sealed_long_ago_still_opens(keys: tuple[str, ...]) -> None:
    assert sealer(*keys).open(FROM_BOTS, bound_to="bot:telegram_token") == "5:telegram-token"
    assert sealer(*keys).open(FROM_ROUTER, bound_to="organisation/deployment/mine") == "sk-provider-key"


def test_after_a_rotation_new_secrets_need_the_new_key_alone() -> None:
    sealed = sealer(NEW, OLD).seal("s3cret", bound_to="x")
    assert sealed.key_id != FROM_BOTS.key_id
    assert sealer(NEW).open(sealed, bound_to="x") == "s3cret"
    with pytest.raises(UnreadableError, match=sealed.key_id):
        sealer(OLD).open(sealed, bound_to="x")


def test_a_secret_is_renewed_under_the_new_key_once() -> None:
    both = sealer(NEW, OLD)
    renewed = both.renewed(FROM_BOTS, bound_to="bot:telegram_token")
    assert sealer(NEW).open(renewed, bound_to="bot:telegram_token") == "5:telegram-token"
    assert both.renewed(renewed, bound_to="bot:telegram_token") is renewed
    with pytest.raises(UnreadableError):
        both.renewed(FROM_BOTS, bound_to="elsewhere")


def test_a_key_that_was_forgotten_is_named_and_not_shown() -> None:
    with pytest.raises(UnreadableError, match=KEY_ID) as caught:
        sealer(NEW, OTHER).open(FROM_BOTS, bound_to="bot:telegram_token")
    assert OLD not in str(caught.value)
    assert OLD not in repr(sealer(OLD).__dict__)


@pytest.mark.parametrize(
    "changed",
    [
        {"bound_to": "another:telegram_token"},
        {"ciphertext": bytes([FROM_BOTS.ciphertext[0] ^ 1]) + FROM_BOTS.ciphertext[1:]},
        {"ciphertext": FROM_BOTS.ciphertext[:-1]},
        {"ciphertext": FROM_BOTS.ciphertext[:5]},
        {"ciphertext": b""},
    ],
    ids=["moved", "flipped", "cut", "shorter than a nonce", "empty"],
)
def test_what_was_moved_or_tampered_with_does_not_open(changed: dict[str, Any]) -> None:
    bound_to = changed.pop("bound_to", "bot:telegram_token")
    with pytest.raises(UnreadableError, match=KEY_ID) as caught:
        sealer(OLD).open(replace(FROM_BOTS, **changed), bound_to=bound_to)
    assert "5:telegram-token" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "not base64!", "schlüssel", base64.b64encode(b"short").decode()])
def test_an_unusable_key_stops_the_start_and_is_not_shown(key: str) -> None:
    for call, which in (
        (lambda: sealer(key), "the data key is not"),
        (lambda: sealer(NEW, OLD, key), "previous data key 2 is not"),
        (lambda: derived_key(key, "sessions"), "the data key is not"),
    ):
        with pytest.raises(UnusableKey, match=which) as caught:
            call()
        assert not key or key not in "".join(format_exception(caught.value))


def test_a_derived_key_stays_the_same_and_differs_by_purpose_and_key() -> None:
    # Sessions that were signed under it must stay good.
    known = "1205fcca49d161588f9657f6ffce5607e40cf5dd910ace5789fe069996f95b55"
    assert derived_key(OLD, "web chat sessions").hex() == known
    assert len({derived_key(OLD, "a"), derived_key(OLD, "b"), derived_key(NEW, "a")}) == 3
