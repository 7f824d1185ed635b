"""Logs: one JSON object per line on standard output, with trace ids and without secrets.

`event` is a constant name such as `turn_answered`; everything that varies is a field. Records of
third-party libraries (uvicorn, aio-pika, sqlalchemy) leave through the same processors.
"""

import json
import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, BinaryIO, cast

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from kairos_telemetry.redaction import redact

log_context = structlog.contextvars.bound_contextvars
"""`with log_context(turn_id=...)`: fields that every record of this task carries inside the block."""

# Some of them write every address they call.
_QUIET = (
    "aio_pika",
    "aiormq",
    "opentelemetry",
    "urllib3",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "asyncio",
    "sqlalchemy",
    "LiteLLM",
)

# A dataclass goes through its repr, because its fields would pass unmasked otherwise.
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger that may be made at import; it follows the latest `configure`."""
    return cast("FilteringBoundLogger", structlog.get_logger(name))


def _trace_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def _masked(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return cast("EventDict", redact(event))


def _constants(**fields: str) -> Processor:
    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        for key, value in fields.items():
            event.setdefault(key, value)
        return event

    return add


def _line(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(event, default=_shown, option=_OPTIONS)
    except TypeError:
        # Integers beyond 64 bits and broken surrogates: slower, but the line is not lost.
        return json.dumps(event, default=_shown, skipkeys=True).encode()


def _shown(value: object) -> object:
    # What JSON does not know is shown by its repr, which no earlier step has masked.
    return redact(sorted(map(str, value)) if isinstance(value, set | frozenset) else repr(value))


class _Lines(logging.Handler):
    """Writes the rendered bytes of a standard library record to the same stream as structlog's."""

    def __init__(
        self, write: Callable[[bytes], object], formatter: structlog.stdlib.ProcessorFormatter
    ) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record).encode() + b"\n")
        except Exception:  # noqa: BLE001 - logging must never take the program down; its own hook reports.
            self.handleError(record)


def configure_logs(
    *, service: str, environment: str, version: str, log_level: str, stream: BinaryIO | None = None
) -> None:
    """Install the processors; calling it again replaces them."""
    level = logging.getLevelNamesMapping()[log_level.upper()]
    target = stream or sys.stdout.buffer
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        _constants(service=service, environment=environment, version=version),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace_ids,
        structlog.processors.StackInfoRenderer(),
        # Locals of a stack frame hold payloads and keys, so they are never rendered.
        structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)
        ),
        _masked,
    ]
    structlog.configure(
        processors=[*shared, _line],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _text_line],
    )
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Lines)]:
        root.removeHandler(old)
    root.addHandler(_Lines(structlog.BytesLogger(target)._write, formatter))  # noqa: SLF001 - the raw stream write
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _text_line(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> str:
    return _line(_, __, event).decode()
