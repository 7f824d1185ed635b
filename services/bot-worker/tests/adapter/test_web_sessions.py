"""Signed sessions."""

import base64
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from kairos_bots.adapters.web_sessions import HmacSessionSigner
from kairos_bots.application.web_chat import WebSession
from kairos_sealing import derived_key

OLD = base64.b64encode(b"o" * 32).decode()
NEW = base64.b64encode(b"n" * 32).decode()
NOW = datetime(2026, 11, 1, tzinfo=UTC)


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
