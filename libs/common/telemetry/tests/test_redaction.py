"""A planted secret must not survive, wherever it stands; what is no secret must."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_telemetry import redact
from kairos_telemetry.redaction import DEEPEST, MASK, is_secret_name

BASE62 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
URL_SAFE = BASE62 + "_-"


def token(alphabet: str, shortest: int, longest: int) -> st.SearchStrategy[str]:
    # The prefix keeps a canary from being a word that stands in the text anyway.
    return st.text(alphabet, min_size=shortest - 5, max_size=longest - 5).map(lambda rest: f"C4n4r{rest}")


# The canary is what must not come out; the text is how it stands in a message.
PLANTED: dict[str, st.SearchStrategy[tuple[str, str]]] = {
    "Kairos key": token(BASE62, 24, 48).map(lambda key: (key, f"kairos_live_{key}")),
    "Telegram token": token(URL_SAFE, 35, 35).map(lambda key: (key, f"7012345678:{key}")),
    "Telegram URL": token(URL_SAFE, 35, 35).map(
        lambda key: (key, f"POST http://127.0.0.1:9/bot7012345678:{key}/sendMessage")
    ),
    "bearer": token(URL_SAFE + ".~+/", 12, 60).map(lambda key: (key, f"Bearer {key}")),
    "authorization header": token(URL_SAFE, 12, 60).map(
        lambda key: (key, f"authorization: Digest x, y={key}")
    ),
    "cookie header": token(URL_SAFE, 12, 60).map(
        lambda key: (key, f"cookie: theme=dark; kairos_session={key}")
    ),
    "session cookie": token(URL_SAFE, 12, 60).map(lambda key: (key, f"kairos_session={key}")),
    "URL password": token(URL_SAFE + "/@:%!,;&", 12, 60).map(
        lambda key: (key, f"postgresql://kairos_bots:{key}@db.internal:5432/kairos")
    ),
    "DSN": token(URL_SAFE + ",;!$/)", 12, 60).map(lambda key: (key, f"host=db password={key} dbname=kairos")),
    "query": token(URL_SAFE, 12, 60).map(lambda key: (key, f"GET /web/ws?token={key}&after=3")),
    "JSON": token(URL_SAFE + " ,;'!", 12, 60).map(lambda key: (key, f'{{"telegram_token": "{key}"}}')),
    "JSON with an escape": token(BASE62, 12, 60).map(lambda key: (key, f'{{"password": "a\\"{key}"}}')),
    "repr": token(URL_SAFE + ' ,;"!', 12, 60).map(lambda key: (key, f"{{'client_secret': '{key}'}}")),
    "provider key": token(URL_SAFE, 20, 60).map(lambda key: (key, f"sk-{key}")),
    "JWT": token(URL_SAFE, 20, 60).map(lambda key: (key, f"eyJhbGciOi.eyJzdWIiOi.{key}")),
    "argon2": token(BASE62 + "+/", 20, 60).map(lambda key: (key, f"$argon2id$v=19$m=19456,t=2,p=1${key}")),
    "PEM": token(BASE62 + "+/\n", 20, 60).map(
        lambda key: (key, f"-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----")
    ),
}

AROUND = st.sampled_from(["", " ", "\n", "  then ", " | ", "\t"])
SECRET_NAMES = st.sampled_from(
    [
        "password",
        "telegram_token",
        "apiKey",
        "API_KEY",
        "Authorization",
        "X-CSRF-Token",
        "SERVICE_SECRET",
        "set-cookie",
        "signingKey",
        "key_pepper",
        "DATA_KEY",
        "serviceSecrets",
        "recovery_codes",
    ]
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc xyz", max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "max_tokens"]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", PLANTED)
@given(data=st.data())
def test_a_secret_in_a_text_does_not_survive(kind: str, data: st.DataObject) -> None:
    canary, text = data.draw(PLANTED[kind])
    before, after = data.draw(AROUND), data.draw(AROUND)
    masked = redact(f"{before}{text}{after}")
    assert canary not in masked
    assert MASK in masked


@given(name=SECRET_NAMES, canary=token(BASE62, 20, 40), data=st.data())
def test_a_secret_under_its_name_does_not_survive_at_any_depth(
    name: str, canary: str, data: st.DataObject
) -> None:
    value: Any = {
        name: data.draw(st.sampled_from([canary, canary.encode(), [canary], {"v": canary}, (canary, 1)]))
    }
    for _ in range(data.draw(st.integers(0, DEEPEST + 3))):
        value = data.draw(st.sampled_from([{"inner": value}, [value, 1], (value,), {"a": [value]}]))
    assert canary not in repr(redact(value))


@pytest.mark.parametrize("kind", ["Kairos key", "URL password", "bearer"])
@given(data=st.data())
def test_a_secret_inside_an_exception_or_a_key_or_bytes_does_not_survive(
    kind: str, data: st.DataObject
) -> None:
    canary, text = data.draw(PLANTED[kind])
    for value in (ValueError(text), {text: 1}, text.encode(), [{"note": (text,)}], {text}, frozenset([text])):
        assert canary not in repr(redact(value))


@given(value=PLAIN)
def test_what_is_no_secret_is_unchanged(value: Any) -> None:
    assert redact(value) == value


@given(data=st.data())
def test_the_argument_is_not_changed_and_masking_twice_is_masking_once(data: st.DataObject) -> None:
    _, text = data.draw(st.sampled_from(sorted(PLANTED)).flatmap(PLANTED.__getitem__))
    value = {"event": text, "password": text, "plain": data.draw(PLAIN)}
    kept = copy.deepcopy(value)
    once = redact(value)
    assert value == kept
    assert redact(once) == once


@pytest.mark.parametrize(
    "name",
    [
        "input_tokens",
        "max_tokens",
        "tokenizer",
        "monkey",
        "keyboard",
        "author",
        "secretary",
        "key",
        "organisation_id",
    ],
)
def test_a_name_that_only_looks_like_a_secret_is_left_alone(name: str) -> None:
    assert not is_secret_name(name)
    assert redact({name: "value"}) == {name: "value"}


def test_counts_and_absences_under_a_secret_name_stay_readable() -> None:
    assert redact({"token": 17, "password": None, "secret": False}) == {
        "token": 17,
        "password": None,
        "secret": False,
    }


@pytest.mark.parametrize(
    "text",
    [
        "kairos_outbox_pending 3",
        "turn_answered",
        "http://127.0.0.1:5052/internal/leases",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "2026-11-22T00:40:06.822545Z",
        "connection to kairos_bots@127.0.0.1 lost",
        "max_tokens: 100, input_tokens=4",
    ],
)
def test_ordinary_texts_stay_readable(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "unit", ["a", "eyJ", "://x:", "token", "7012345678:", "password=", "bearer ", "-----BEGIN ", '"\\']
)
@pytest.mark.timeout(20)
def test_a_hostile_text_is_masked_in_time(unit: str) -> None:
    redact(unit * (200_000 // len(unit)))
