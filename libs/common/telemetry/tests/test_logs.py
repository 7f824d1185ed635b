import io
import json
import logging
from dataclasses import dataclass
from typing import Any

import pytest

from kairos_telemetry import configure, get_logger, log_context, span

CANARY = "c4n4rYc4n4rYc4n4rY"
module_logger = get_logger("made.at.import")


class Lines:
    def __init__(self, level: str = "INFO") -> None:
        self.stream = io.BytesIO()
        self.telemetry = configure(
            "bot-worker",
            version="1.2.3",
            environment="test",
            otlp_endpoint=None,
            log_level=level,
            log_stream=self.stream,
        )

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_a_line_says_what_who_when_and_in_which_trace() -> None:
    lines = Lines()
    with span("turn") as current, log_context(turn_id="t-1"):
        module_logger.info("turn_answered", epoch=3)
    (line,) = lines.read()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "turn_answered",
        "level": "info",
        "logger": "made.at.import",
        "service": "bot-worker",
        "environment": "test",
        "version": "1.2.3",
        "turn_id": "t-1",
        "epoch": 3,
        "trace_id": f"{current.get_span_context().trace_id:032x}",
        "span_id": f"{current.get_span_context().span_id:016x}",
    }


def test_third_party_records_leave_as_the_same_json_once() -> None:
    lines = Lines()
    Lines()  # a second configuration takes over
    lines = Lines()
    logging.getLogger("uvicorn.error").warning("started with %s", f"password={CANARY}")
    (line,) = lines.read()
    assert (line["logger"], line["level"], line["service"]) == ("uvicorn.error", "warning", "bot-worker")
    # A library imported by another test of the process may have masked it before us, in words of its own.
    assert line["event"] in {"started with password=[redacted]", "started with REDACTED"}


def test_levels_are_kept() -> None:
    lines = Lines("WARNING")
    module_logger.info("quiet")
    logging.getLogger("some.library").info("quiet")
    logging.getLogger("aiormq").info("quiet")
    module_logger.warning("loud")
    assert [line["event"] for line in lines.read()] == ["loud"]


def test_what_libraries_call_is_not_written_down() -> None:
    lines = Lines()
    for library in ("httpx", "httpcore", "LiteLLM", "aiormq"):
        logging.getLogger(library).info("HTTP Request: POST http://inside/?x=1")
    module_logger.info("ours")
    assert [line["event"] for line in lines.read()] == ["ours"]


class Holder:
    def __repr__(self) -> str:
        return f"Holder(password='{CANARY}')"


@dataclass(frozen=True)
class Login:
    password: str


def fail() -> None:
    hidden = f"a local of this frame: {CANARY}"
    cause = ValueError(f"Bearer {CANARY}")
    raise ConnectionError(f"amqp://kairos:{hidden and CANARY}@broker refused") from cause


@pytest.mark.parametrize("foreign", [False, True])
def test_an_exception_is_shown_with_frames_and_without_secrets_or_locals(*, foreign: bool) -> None:
    lines = Lines()
    try:
        fail()
    except ConnectionError:
        if foreign:
            logging.getLogger("library").exception("failed")
        else:
            module_logger.exception("failed", holder=Holder(), many=[Login(CANARY)], token=CANARY)
    (line,) = lines.read()
    assert line["exception"][0]["exc_type"] == "ConnectionError"
    assert [frame["name"] for frame in line["exception"][0]["frames"]][-1] == "fail"
    assert CANARY not in json.dumps(line)


def test_a_value_json_does_not_know_does_not_lose_the_line() -> None:
    lines = Lines()
    module_logger.info("odd", value={1: object(), "s": {"b", "a"}}, raw=b"bytes", big=2**80, broken="\ud800")
    (line,) = lines.read()
    assert line["value"]["s"] == ["a", "b"]
    assert line["event"] == "odd"
