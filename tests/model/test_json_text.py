"""JSON of strangers: bounded, unambiguous, and told where it is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.model.json_text import DEPTH_MAX, FAULTS_MAX, TEXT_BYTES_MAX, JSONFaults, NotJSON, member, parse_json

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_JSON)
def test_what_the_standard_parser_reads_is_read_alike(value: object) -> None:
    text = json.dumps(value)
    assert parse_json(text) == value == parse_json(text.encode())


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse_json("\ufeff{}") == {}
    assert parse_json(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (b" \n", "empty"),
        ("{", "line 1, column 2"),
        ('{"a": 1,\n}', "line 2, column 1"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("1" * 5000, "not JSON"),
        ("[" * 100_000, "inside each other"),
        ('{"a":' * 100_000, "inside each other"),
        ("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1), "inside each other"),
        ('{"a":' * (DEPTH_MAX + 1) + "1" + "}" * (DEPTH_MAX + 1), "inside each other"),
        (" " * (TEXT_BYTES_MAX + 1), "larger than 16 MiB"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_document(text: str | bytes, message: str) -> None:
    with pytest.raises(JSONFaults) as caught:
        parse_json(text)
    (fault,) = caught.value.faults
    assert message in fault.message


def test_the_deepest_that_is_allowed() -> None:
    assert parse_json("[" * DEPTH_MAX + "1" + "]" * DEPTH_MAX)


@pytest.mark.parametrize(
    ("text", "other_form"),
    [("ops:\n  - id: a\n", True), ("{", True), ('{"a": 1,}', True), ('{"a": 1, "a": 1}', False), (b"\xff", False)],
)
def test_what_may_be_another_form_is_told_apart(text: str | bytes, other_form: bool) -> None:
    with pytest.raises(JSONFaults) as caught:
        parse_json(text)
    assert isinstance(caught.value, NotJSON) is other_form


def test_doubled_names_are_faults_with_their_places() -> None:
    with pytest.raises(JSONFaults) as caught:
        parse_json('{"a": 1, "b": [{"x y": 1, "x y": 2, "x y": 3}, {"c": {"d": 1, "d": 1}}], "a": 1}')
    assert [fault.at for fault in caught.value.faults] == ["$.a", '$.b[0]["x y"]', "$.b[1].c.d"]


def test_a_flood_of_faults_is_bounded() -> None:
    with pytest.raises(JSONFaults) as caught:
        parse_json("[" + ",".join(['{"a":1,"a":1}'] * (FAULTS_MAX + 5)) + "]")
    assert len(caught.value.faults) == FAULTS_MAX


@pytest.mark.parametrize(
    ("name", "path"),
    [("a", "$.a"), ("a-b", "$.a-b"), ("", '$[""]'), ('a"b', '$["a\\"b"]'), ("\x1b[2J", '$["\\\\x1b[2J"]')],
)
def test_json_paths(name: str, path: str) -> None:
    assert member("$", name) == path
