"""Names and dates that are made to hurt whoever opens an export or asks for a span."""

import csv
from datetime import UTC, datetime
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from kairos_budget.domain.journal import Entry, csv_line, journal_entry, journal_head
from kairos_budget.domain.ledger import Account
from kairos_budget.entrypoints.moments import span_of
from kairos_web import Problem

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def entry(name: str) -> Entry:
    return Entry(
        1, NOW, "grant", uuid4(), name, NOW, Account.LIMIT, Account.AVAILABLE, 5, None, None, None, None
    )


@pytest.mark.parametrize(
    "name",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        " =1+1",
        "\t=1+1",
        "\r=1+1",
        "\n=1+1",
        "\u00a0=1",
        "\uff1d1",
        'a",=1+1,"b',
    ],
)
def test_a_name_is_one_cell_and_no_formula(name: str) -> None:
    line = csv_line(entry(name), ())
    assert len(line.splitlines()) == 1
    (cells,) = csv.reader([line])
    assert len(cells) == 17
    assert cells[4].lstrip()[:1] not in set("=+-@\uff1d")


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\x1e"])
def test_a_name_begins_no_line_of_a_journal(separator: str) -> None:
    name = f'x"{separator}2026-01-01 open Assets:Mine USD'
    lines = [*journal_head([(uuid4(), name)], NOW.date()), *journal_entry(entry(name))]
    assert all(len(line.splitlines()) <= 1 for line in lines)
    assert not any("Mine" in line and line.startswith("2026-01-01") for line in lines)
    assert next(line for line in lines if '"grant"' in line).count('"') == 4


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("0001-01-01", None),
        (None, "0001-01-01"),
        ("2026-01-01", "9999-12-31"),
        ("0001-01-01T00:00:00+14:00", "2026-01-01"),
        ("2026-01-01", "9999-12-31T23:59:59-14:00"),
        ("1000-01-01", "2026-01-01"),
    ],
)
def test_a_span_beyond_the_calendar_is_the_callers_fault(since: str | None, until: str | None) -> None:
    with pytest.raises(Problem) as refused:
        span_of(since, until, ZoneInfo("Pacific/Kiritimati"), days=31)
    assert (refused.value.status, refused.value.code) == (422, "invalid_moment")
