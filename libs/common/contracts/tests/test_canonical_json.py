import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_contracts.canonical_json import MAX_INTEGER, NotCanonicalError, canonical, plain

# Appendix B of RFC 8785.
NUMBERS = {
    0x0000000000000000: "0",
    0x8000000000000000: "0",
    0x0000000000000001: "5e-324",
    0x8000000000000001: "-5e-324",
    0x7FEFFFFFFFFFFFFF: "1.7976931348623157e+308",
    0xFFEFFFFFFFFFFFFF: "-1.7976931348623157e+308",
    0x4340000000000000: "9007199254740992",
    0xC340000000000000: "-9007199254740992",
    0x4430000000000000: "295147905179352830000",
    0x44B52D02C7E14AF5: "9.999999999999997e+22",
    0x44B52D02C7E14AF6: "1e+23",
    0x44B52D02C7E14AF7: "1.0000000000000001e+23",
    0x444B1AE4D6E2EF4E: "999999999999999700000",
    0x444B1AE4D6E2EF4F: "999999999999999900000",
    0x444B1AE4D6E2EF50: "1e+21",
    0x3EB0C6F7A0B5ED8C: "9.999999999999997e-7",
    0x3EB0C6F7A0B5ED8D: "0.000001",
    0x41B3DE4355555553: "333333333.3333332",
    0x41B3DE4355555554: "333333333.33333325",
    0xBECBF647612F3696: "-0.0000033333333333333333",
    0x43143FF3C1CB0959: "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_are_written_as_the_standard_says(bits: int, text: str) -> None:
    (number,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    assert canonical(number) == text.encode()


def test_keys_are_sorted_by_utf_16_units() -> None:
    # Section 3.2.3 of RFC 8785.
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "ö": 7}
    assert list(json.loads(canonical(value))) == ["\r", "1", "\x80", "ö", "\u20ac", "\U0001f600", "\ufb33"]


def test_strings_are_escaped_as_little_as_possible() -> None:
    assert canonical('€$\x0f\nA\'B"\\\\"/') == b'"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'


def test_literals_and_empty_values() -> None:
    assert canonical([None, True, False, [], {}, ""]) == b'[null,true,false,[],{},""]'


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), MAX_INTEGER + 2, 10**400, "\ud800", object(), b"x"]
)
def test_what_json_can_not_say_is_refused(value: object) -> None:
    with pytest.raises(NotCanonicalError):
        canonical(value)


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()))
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(_VALUES)
def test_a_plain_value_is_always_canonical_and_reads_back_the_same(value: object) -> None:
    once = canonical(plain(value))
    assert canonical(json.loads(once)) == once
    assert b"\\u0000" not in once
    assert canonical(plain(plain(value))) == once
