import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from kairos_contracts.auth.v1 import AuditActor, AuditEntryRecordedV1
from kairos_contracts.budget.v1 import BudgetChangedV1
from kairos_contracts.conversation.v1 import MessageReceivedV1
from kairos_contracts.llm.v1 import UsageBatchRecordedV1, UsageRecordedV1
from kairos_contracts.message import Envelope, Message
from kairos_ops.application.make_feed_event import make_feed_event
from kairos_ops.domain.event import FeedEvent
from kairos_ops.domain.masking import MASK, mask_compound, mask_payload
from kairos_telemetry import redact

BOT = UUID(int=7)


def feed_event(message: Message) -> FeedEvent:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    envelope = Envelope.of(message, source="bot-worker", organisation_id=UUID(int=1), traceparent=trace)
    return make_feed_event(envelope, message, redact)


def received(**changes: object) -> MessageReceivedV1:
    values = {
        "bot_id": BOT,
        "channel": "telegram",
        "external_update_id": "u-1",
        "external_chat_id": "4412345",
        "external_message_id": "m-9",
        "order": 9,
        "contact_external_id": "4412345",
        "contact_display_name": "Ayşe Demir",
        "text": "my card is 4111 1111 1111 1111",
        "sent_at": datetime(2026, 11, 22, tzinfo=UTC),
    }
    return MessageReceivedV1.model_validate(values | changes)


def test_a_message_of_a_contact_keeps_its_facts_and_loses_its_words() -> None:
    event = feed_event(received())
    assert event.data["bot_id"] == str(BOT)
    assert event.data["channel"] == "telegram"
    assert event.data["order"] == 9
    assert event.data["sent_at"] == "2026-11-22T00:00:00Z"
    for field in ("text", "contact_display_name", "contact_external_id", "external_chat_id"):
        assert event.data[field] == MASK


def test_the_subject_of_a_personal_event_does_not_name_the_chat() -> None:
    assert feed_event(received()).subject == f"{BOT}:telegram:{MASK}"


def test_the_trace_of_the_message_stays_with_the_event() -> None:
    assert feed_event(received()).trace_id == "0af7651916cd43dd8448eb211c80319c"


def test_an_audit_entry_shows_what_was_done_and_not_who_or_from_where() -> None:
    entry = AuditEntryRecordedV1(
        entry_id=uuid4(),
        occurred_at=datetime.now(UTC),
        actor=AuditActor(kind="member", id=str(uuid4()), display="ada@example.org"),
        via="rest",
        action="member.role_changed",
        target=f"member:{BOT}",
        outcome="allowed",
        ip="10.1.2.3",
        after={"email": "ada@example.org", "role": "admin"},
    )
    data = feed_event(entry).data
    assert data["action"] == "member.role_changed"
    assert data["target"] == f"member:{BOT}"
    assert data["after"] == {"email": MASK, "role": "admin"}
    assert data["actor"]["display"] == MASK
    assert data["ip"] == MASK


def test_an_event_without_personal_data_stays_whole_except_for_secrets() -> None:
    changed = BudgetChangedV1(
        budget_id=uuid4(), scope="bot", scope_id=BOT, limit_nano_usd=5_000_000_000, active=True
    )
    assert feed_event(changed).data["limit_nano_usd"] == 5_000_000_000
    assert mask_payload({"note": "words"}, personal=False) == {"note": "words"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dead_letter:" + str(BOT), "dead_letter:" + str(BOT)),
        ("web:ayse", f"web:{MASK}"),
        ("ayse", MASK),
        (str(BOT), str(BOT)),
        ("2026-11-22T10:00 Ayse", f"{MASK}:{MASK}"),
    ],
)
def test_only_ids_and_fixed_words_of_a_compound_text_are_shown(text: str, shown: str) -> None:
    assert mask_compound(text) == shown


def test_lists_and_nested_objects_are_masked_too() -> None:
    masked = mask_payload({"parts": ["Ayşe", 3], "who": {"name": "Ayşe", "kind": "member"}}, personal=True)
    assert masked == {"parts": [MASK, 3], "who": {"name": MASK, "kind": "member"}}


@pytest.mark.parametrize("text", ["2026-99-22T10:00", "2026-11-22T10:00:00", "Tuesday 22"])
def test_a_text_that_only_resembles_a_time_is_masked(text: str) -> None:
    assert mask_payload({"note": text}, personal=True) == {"note": MASK}


def test_a_batch_of_usage_is_shown_as_its_sums_however_large_it_is() -> None:
    def record(number: int) -> UsageRecordedV1:
        return UsageRecordedV1.model_validate(
            {
                "attempt_id": uuid4(),
                "completion_id": uuid4(),
                "lease_id": None,
                "model": f"model-{number % 40}",
                "deployment": "simulator",
                "provider": "simulator",
                "input_tokens": 3,
                "output_tokens": 2,
                "hold_nano_usd": 9,
                "cost_nano_usd": 7,
                "outcome": "settled" if number else "unknown",
                "price_version": "test",
                "status": 200,
                "streaming": False,
                "started_at": datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=number),
                "latency_ms": number,
            }
        )

    batch = UsageBatchRecordedV1(batch_id=uuid4(), records=tuple(record(n) for n in range(500)))
    shown = feed_event(batch).data
    assert (shown["attempts"], shown["cost_nano_usd"], shown["input_tokens"]) == (500, 3_500, 1_500)
    assert shown["outcomes"] == {"settled": 499, "unknown": 1}
    assert (len(shown["models"]), shown["more"], shown["slowest_ms"]) == (20, 20, 499)
    assert len(json.dumps(shown)) < 2_000
    assert "records" not in shown
