import pytest

from kairos_ops.domain.feed import Resume
from kairos_ops.domain.protocol import Ping, Sub, Unsub
from kairos_ops.entrypoints.socket import frame_schema, origin_allowed, parse_frame


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"t":"sub","topic":"events"}', Sub("events")),
        (
            '{"t":"sub","topic":"events","types":["llm."],"resume":{"epoch":"e","seq":4}}',
            Sub("events", ("llm.",), Resume("e", 4)),
        ),
        ('{"t":"unsub","topic":"services"}', Unsub("services")),
        ('{"t":"ping","at":3}', Ping(3)),
    ],
)
def test_a_clients_frames_are_read(text: str, frame: object) -> None:
    assert parse_frame(text) == frame


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "{}", '{"t":"ev"}', '{"t":"sub"}', '{"t":"sub","topic":"events","resume":{"seq":-1}}',
     '{"t":"ping","at":"' + "9" * 5_000 + '"}', '{"t":"ping","at":{}}', "null", "1" * 4_000],
)  # fmt: skip
def test_anything_else_is_no_frame(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_frame(text)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("https://kairos.example", True),
        ("https://console.example", True),
        ("https://evil.example", False),
        ("null", False),
        ("https://kairos.example.evil.example", False),
    ],
)
def test_a_page_of_another_origin_may_not_open_the_feed(origin: str | None, allowed: bool) -> None:
    assert origin_allowed(origin, "kairos.example", frozenset({"https://console.example"})) is allowed


def test_the_frames_have_a_schema() -> None:
    assert set(frame_schema()["discriminator"]["mapping"]) == {"sub", "unsub", "ping"}
