from hypothesis import given
from hypothesis import strategies as st

from kairos_contracts.credentials import (
    API_KEY_PREFIX,
    csrf_token,
    is_well_formed_api_key,
    new_api_key,
    new_session_token,
)

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@given(st.binary(min_size=32, max_size=32))
def test_every_key_is_well_formed(entropy: bytes) -> None:
    key = new_api_key(entropy)
    assert key.startswith(API_KEY_PREFIX)
    assert is_well_formed_api_key(key)


@given(st.binary(min_size=32, max_size=32), st.integers(12, 60), st.sampled_from(ALPHABET))
def test_one_wrong_character_anywhere_is_noticed(entropy: bytes, at: int, character: str) -> None:
    key = new_api_key(entropy)
    typo = key[:at] + character + key[at + 1 :]
    assert is_well_formed_api_key(typo) is (typo == key)


@given(st.text())
def test_other_text_is_no_key(text: str) -> None:
    assert not is_well_formed_api_key(text)
    assert not is_well_formed_api_key(API_KEY_PREFIX + text)


def test_keys_and_tokens_differ_each_time() -> None:
    assert len({new_api_key() for _ in range(100)}) == 100
    assert len({new_session_token() for _ in range(100)}) == 100


def test_the_csrf_token_belongs_to_its_session() -> None:
    token = new_session_token()
    assert csrf_token(token) == csrf_token(token)
    assert csrf_token(token) != csrf_token(new_session_token())
    assert token not in csrf_token(token)
