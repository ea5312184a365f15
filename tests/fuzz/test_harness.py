"""The harness itself: it sees what is slow, hungry, untyped or unfit to be told, and makes cases small."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from fetcher.errors import InternalError, TransportError
from tests.fuzz.harness import Family, Found, check, fuzz
from tests.fuzz.judging import assert_safe_paths
from tests.fuzz.mutating import CASE_BYTES_MAX, Grammar, mutated


def family(parse: Callable[[bytes], Any], grammar: Grammar = "text", **more: Any) -> Family:
    return Family("made-up", grammar, (b'{"a": [1, "x"]}',), parse, (TransportError,), **more)


def told(message: str, error: type[Exception] = TransportError) -> Callable[[bytes], Any]:
    def parse(case: bytes) -> None:
        raise error(message)

    return parse


def spin(case: bytes) -> None:
    while True:
        pass


def backtrack(case: bytes) -> None:
    re.match(r"(a+)+$", "a" * 40 + "b")


@pytest.mark.parametrize("parse", [spin, backtrack])
def test_it_sees_what_never_ends(parse: Callable[[bytes], Any]) -> None:
    with pytest.raises(Found, match="not ended after"):
        check(family(parse), b"x", cpu_s_max=0.2)


def test_waiting_is_no_work() -> None:
    assert check(family(lambda case: time.sleep(0.4)), b"x", cpu_s_max=0.2) == "value"


def test_it_sees_what_takes_memory() -> None:
    with pytest.raises(Found, match="MiB"):
        fuzz(family(lambda case: len(b"x" * (300 << 20))), 1, 1)


@pytest.mark.parametrize(
    ("parse", "why"),
    [
        (told("", KeyError), "KeyError"),
        (told("", InternalError), "InternalError"),
        (told("\x1b[2J"), "not printable"),
        (told("x" * 30_000), "without end"),
        (told("\ud800"), "UnicodeEncodeError"),
    ],
)
def test_it_sees_errors_that_are_not_ours_to_tell(parse: Callable[[bytes], Any], why: str) -> None:
    with pytest.raises(Found, match=why):
        check(family(parse), b"x")


def test_what_it_finds_is_made_small() -> None:
    def parse(case: bytes) -> None:
        if b"[" in case:
            raise KeyError("[")

    with pytest.raises(Found) as caught:
        fuzz(family(parse, "json"), 100, 1)
    assert caught.value.case == b"["


def test_the_same_seed_tries_the_same() -> None:
    seen: list[list[bytes]] = []
    for seed in (1, 1, 2):
        tried: list[bytes] = []
        fuzz(family(tried.append, "json"), 200, seed)
        seen.append(tried)
    assert seen[0] == seen[1] != seen[2]
    assert len(set(seen[0])) > 120


@pytest.mark.parametrize("grammar", ["json", "xml", "lines", "headers", "answer", "text", "bytes"])
def test_cases_stay_small(grammar: Grammar, rng: Any) -> None:
    case = b'200\nA: b\n\n{"a": [[[1]], {"b": "c"}]}'
    for _ in range(2000):
        made = mutated(rng, (case, b"", b"<a><b>c</b></a>"), grammar, (b"w",))
        assert len(made) <= CASE_BYTES_MAX
        case = made if len(made) < 2000 and made else case


@pytest.mark.parametrize(
    "paths",
    [
        ["../x"], ["/x"], ["a//b"], ["a/./b"], ["C:x"], ["a\\b"], ["a\0"], ["a\n"], ["x" * 256], [""], ["a/"],
        ["a", "A"], ["caf\u00e9", "cafe\u0301"], ["a", "a/b"], ["F/a", "f/b"],
        ["\u0390", "\u0399\u0308\u0301"], ["x", "x"],
    ],
    ids=ascii,
)  # fmt: skip
def test_the_judge_of_names(paths: list[str]) -> None:
    with pytest.raises(AssertionError):
        assert_safe_paths(paths)
