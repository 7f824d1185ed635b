from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_web import PageQuery, Problem, decode_cursor, encode_cursor

_VALUES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.dictionaries(st.text(max_size=10), _VALUES, max_size=5))
def test_a_cursor_reads_back_as_it_was_written(position: dict[str, Any]) -> None:
    cursor = encode_cursor(position)
    assert decode_cursor(cursor) == position
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_a_foreign_cursor_is_refused_or_is_one(text: str) -> None:
    try:
        assert isinstance(decode_cursor(text), dict)
    except Problem as problem:
        assert (problem.status, problem.code) == (400, "invalid_cursor")  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("cursor", ["", "é", "!!!!", "W10", "bnVsbA", "MQ", "ey"])
def test_what_is_no_position_is_refused(cursor: str) -> None:
    with pytest.raises(Problem):
        decode_cursor(cursor)


def test_a_query_without_a_cursor_starts_at_the_beginning() -> None:
    assert PageQuery().position() is None
    assert PageQuery(cursor=encode_cursor({"id": 1})).position() == {"id": 1}
    with pytest.raises(ValueError, match="limit"):
        PageQuery(limit=201)
