"""Secrets at rest and signed sessions."""

import base64
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_bots.adapters.cipher import AesGcmCipher, UnreadableSecretError, UnusableKeyError, derived_key
from kairos_bots.adapters.web_sessions import HmacSessionSigner
from kairos_bots.application.web_chat import WebSession
from kairos_bots.domain.bot import Sealed

OLD = base64.b64encode(b"o" * 32).decode()
NEW = base64.b64encode(b"n" * 32).decode()
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def test_a_sealed_secret_opens_only_for_its_purpose_and_untouched() -> None:
    cipher = AesGcmCipher(NEW)
    sealed = cipher.seal("secret", bound_to="bot:token")
    assert cipher.open(sealed, bound_to="bot:token") == "secret"
    assert b"secret" not in sealed.ciphertext
    assert cipher.seal("secret", bound_to="bot:token") != sealed
    flipped = bytes([sealed.ciphertext[0] ^ 1]) + sealed.ciphertext[1:]
    for wrong, purpose in ((sealed, "other:token"), (Sealed(sealed.key_id, flipped), "bot:token")):
        with pytest.raises(UnreadableSecretError):
            cipher.open(wrong, bound_to=purpose)


def test_keys_rotate_and_a_forgotten_key_is_named() -> None:
    sealed = AesGcmCipher(OLD).seal("secret", bound_to="x")
    rotated = AesGcmCipher(NEW, [OLD])
    assert rotated.open(sealed, bound_to="x") == "secret"
    assert rotated.seal("secret", bound_to="x").key_id != sealed.key_id
    with pytest.raises(UnreadableSecretError, match=sealed.key_id):
        AesGcmCipher(NEW).open(sealed, bound_to="x")


@pytest.mark.parametrize("key", ["", "not base64!", base64.b64encode(b"short").decode()])
def test_an_unusable_key_stops_the_start(key: str) -> None:
    with pytest.raises(UnusableKeyError):
        AesGcmCipher(key)


def test_a_session_is_read_back_until_it_expires() -> None:
    signer = HmacSessionSigner(derived_key(NEW, "sessions"))
    session = WebSession(uuid4(), "chat", NOW + timedelta(hours=1))
    token = signer.sign(session)
    assert signer.read(token, NOW) == session
    assert signer.read(token, NOW + timedelta(hours=1)) is None
    assert HmacSessionSigner(derived_key(OLD, "sessions")).read(token, NOW) is None
    assert HmacSessionSigner(derived_key(NEW, "another purpose")).read(token, NOW) is None


@given(st.text(max_size=600))
def test_nobody_makes_up_a_session(token: str) -> None:
    assert HmacSessionSigner(b"k" * 32).read(token, NOW) is None
