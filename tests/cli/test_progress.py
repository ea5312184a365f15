"""Displays: how often, what, and where; without a network, from events made by hand."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from itertools import pairwise

import pytest
from rich.console import Console

from fetcher import hashing
from fetcher.cli.live import LiveProgress, drawing
from fetcher.cli.output import Output, table
from fetcher.cli.progress import JSONProgress, LineProgress, Reporter, progress_json, progress_line
from fetcher.model.events import Notice, Progress
from tests.cli.support import check

NUMBERS = Progress(
    resource="hf://acme/tiny@main",
    phase="fetch",
    bytes_done=1_500_000,
    bytes_total=3_000_000,
    files_done=1,
    files_total=3,
    bytes_downloaded=1_600_000,
    rate_bytes_per_s=12_345_678.9,
    eta_s=12.34,
    connections=4,
    parts_moved=2,
)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_json_objects_at_most_ten_a_second() -> None:
    clock, emitted = Clock(), []
    display = JSONProgress(lambda value: emitted.append(clock.now_s), clock)
    for _ in range(500):
        display.show(NUMBERS)
        clock.now_s += 0.007
    assert len(emitted) > 25
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(emitted))


def test_a_json_object_is_right_even_while_little_is_known() -> None:
    check(progress_json(NUMBERS))
    check(progress_json(replace(NUMBERS, bytes_total=None, files_total=None, eta_s=None)))


def test_plain_lines_every_few_seconds() -> None:
    clock = Clock()
    said: list[str] = []
    display = LineProgress(said.append, clock)
    for _ in range(240):
        display.show(NUMBERS)
        clock.now_s += 0.1
    assert 3 <= len(said) <= 5
    expected = "fetch, 50%, 1.5 MB of 3.0 MB, 12.3 MB/s, 12s left, 1/3 files, 4 connections, 2 parts moved"
    assert said[0] == expected == progress_line(NUMBERS)


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        (
            replace(
                NUMBERS,
                phase="resolve",
                bytes_total=None,
                files_total=None,
                eta_s=None,
                rate_bytes_per_s=0,
                connections=0,
                parts_moved=0,
            ),
            "resolve",
        ),
        (
            replace(
                NUMBERS,
                bytes_done=0,
                bytes_total=0,
                files_total=None,
                eta_s=None,
                rate_bytes_per_s=0,
                connections=0,
                parts_moved=0,
            ),
            "fetch, 100%, 0 B of 0 B",
        ),
    ],
    ids=["unknown", "empty"],
)
def test_lines_while_little_is_known(numbers: Progress, line: str) -> None:
    assert progress_line(numbers) == line


def test_a_notice_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(Output())
    for _ in range(3):
        reporter(Notice(None, "the origin is \x1b[31mslow"))
    assert capsys.readouterr().err == "note: the origin is \\x1b[31mslow\n"


@pytest.mark.parametrize(
    ("numbers", "has_tree", "words"),
    [
        (None, True, "nothing was fetched yet"),
        (replace(NUMBERS, bytes_done=0), True, "nothing was fetched yet"),
        (NUMBERS, True, "1.5 MB of 3.0 MB are kept"),
        (replace(NUMBERS, bytes_total=None), True, "1.5 MB are kept"),
        (NUMBERS, False, "1.5 MB of 3.0 MB had come, whole files are kept"),
    ],
)
def test_what_is_kept(numbers: Progress | None, has_tree: bool, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "HAS_TREE", has_tree)
    reporter = Reporter(Output(quiet=True))
    if numbers is not None:
        reporter(numbers)
    assert reporter.kept() == words


def test_details_are_for_the_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    Output().detail("a")
    Output(verbose=True).detail("b")
    Output(verbose=True, quiet=True).detail("c")
    assert capsys.readouterr().err == "b\n"


def test_tables_are_aligned_and_harmless() -> None:
    assert table(["NAME", "SIZE"], [["a\x1b[2J", "1"], ["b", "100"]], right=(1,)) == [
        "NAME      SIZE",
        "a\\x1b[2J     1",
        "b          100",
    ]


def test_talk_stands_above_a_live_display_and_data_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    display = LiveProgress(output)
    try:
        display.show(NUMBERS)
        output.say("a note")
        assert "a note" in capsys.readouterr().err
        output.data("/path")
        display.show(replace(NUMBERS, phase="publish"))  # too late to be drawn
        output.say("after")
    finally:
        display.close()
    out, err = capsys.readouterr()
    assert out == "/path\n"
    assert err.endswith("after\n")
    assert "publish" not in err


@pytest.mark.parametrize(
    "rows", [NUMBERS, replace(NUMBERS, bytes_total=None), replace(NUMBERS, bytes_done=0, bytes_total=0)]
)
def test_a_drawing_has_three_lines_of_any_width(rows: Progress) -> None:
    text = ""
    for width in (20, 80, 200):
        console = Console(width=width, file=StringIO(), force_terminal=False)
        console.print(drawing(rows))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert len(text.splitlines()) == 3
        assert all(len(line) <= width for line in text.splitlines())
    assert "hf://acme/tiny@main" in text
    assert "12.3 MB/s" in text
    assert "2 parts moved" in text
