import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from kairos_messaging import DeadLetter, RawDelivery
from kairos_messaging.failures import attempt_of, describe, failure_headers, without_history

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.text())
)
NAMES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["kairos-attempt", "kairos-queue", "kairos-error-class", "x-death", "x-first-death-reason"]
    ),
)


class Answer(BaseModel):
    number: int


@pytest.mark.parametrize(
    ("value", "attempt"), [(1, 1), (4, 4), (0, 1), (-3, 1), ("2", 1), (True, 1), (None, 1), (2.0, 1)]
)
def test_a_senseless_attempt_counts_as_the_first(value: object, attempt: int) -> None:
    assert attempt_of({"kairos-attempt": value}) == attempt


def test_a_validation_error_is_told_without_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Answer.model_validate({"number": "my private words"})
    assert (
        describe(caught.value)
        == "number: Input should be a valid integer, unable to parse string as an integer"
    )


def test_error_texts_are_masked_and_short() -> None:
    text = describe(RuntimeError("amqp://kairos:hunter2@broker/ " + "x" * 10_000))
    assert "hunter2" not in text
    assert len(text) == 2_000


def test_history_is_added_and_taken_off_again() -> None:
    original = {"cloudEvents_id": "1", "traceparent": "00-a-b-01", "x-own": "kept"}
    failed = failure_headers(original, queue="q", attempt=2, error=ValueError("no"), body=b"{}")
    assert (failed["kairos-attempt"], failed["kairos-queue"], failed["kairos-error-class"]) == (
        2,
        "q",
        "ValueError",
    )
    assert (
        failed["kairos-payload-sha256"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )
    by_broker = {"x-death": [{}], "x-first-death-reason": "expired", "x-delivery-count": 3}
    assert without_history({**failed, **by_broker}) == original


def test_a_letter_the_broker_gave_up_names_the_brokers_reason() -> None:
    raw = RawDelivery(
        queue="observability.dead-letters",
        exchange="kairos.dead",
        routing_key="bot-worker.messages",
        headers={"x-first-death-reason": "delivery_limit", "cloudEvents_id": "7", "x-death": [{}]},
        body=b"{}",
        message_id=None,
        redelivered=False,
    )
    letter = DeadLetter.of(raw)
    assert (letter.queue, letter.error_class, letter.message_id) == (
        "bot-worker.messages",
        "delivery_limit",
        "7",
    )
    assert letter.headers == {"cloudEvents_id": "7"}


@given(headers=st.dictionaries(NAMES, VALUES), body=st.binary())
def test_any_dead_letter_can_be_read(headers: dict[str, object], body: bytes) -> None:
    raw = RawDelivery("dead", "x", "key", headers, body, None, redelivered=False, attempt=1)
    letter = DeadLetter.of(raw)
    assert letter.queue
    assert letter.attempts >= 1
    assert not any(name.startswith(("x-death", "kairos-attempt")) for name in letter.headers)
