"""Displays: how often, what, and where; without a network, from events made by hand."""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

from fetcher import hashing
from fetcher.cli import progress
from fetcher.cli.live import LiveProgress, drawing
from fetcher.cli.output import Output, table
from fetcher.cli.progress import JSONProgress, LineProgress, Reporter, progress_json, progress_line, takes
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


# --- readers that pause, or have gone


@contextmanager
def a_pipe() -> Iterator[tuple[int, TextIO]]:
    """The end to read from, and a stream that writes."""
    with ExitStack() as stack:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 65_536)
        stack.enter_context(os.fdopen(reader, "rb", buffering=0))
        yield reader, stack.enter_context(os.fdopen(writer, "w"))


def test_a_pipe_is_filled_by_half() -> None:
    with a_pipe() as (reader, stream):
        descriptor = stream.fileno()
        assert takes(stream, 300)
        os.write(descriptor, bytes(32_000))
        assert takes(stream, 700) and not takes(stream, 800), "half of 64 KiB are 32,768"
        os.write(descriptor, bytes(33_000))
        assert not takes(stream, 1), "there is no page left"
        assert len(os.read(reader, 40_000)) == 40_000
        assert takes(stream, 300), "he reads again"


def test_a_line_of_any_length_finds_no_room_or_enough() -> None:
    with a_pipe() as (_, stream):
        assert takes(stream, 32_768)
        assert not takes(stream, 32_769)
        written = 0
        while takes(stream, 1_500):
            written += os.write(stream.fileno(), bytes(1_500))
        assert 30_000 < written <= 32_768


def test_whoever_has_left_is_written_to_and_so_noticed() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        os.write(writer, bytes(40_000))
        assert not takes(stream, 300)
        os.close(reader)
        assert takes(stream, 300)


def test_what_nobody_reads_takes_everything(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file, open(os.devnull, "w") as null:
        assert takes(file, 1 << 20)
        assert takes(null, 300)
        assert takes(StringIO(), 1 << 20)
        assert takes(None, 1 << 20)
    assert takes(file, 300), "closed: the writing says so"


def test_a_socket_takes_lines_of_any_length_until_nobody_reads() -> None:
    """Node gives its children sockets for pipes."""
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("w") as stream:
        assert takes(stream, 8_000)
        theirs.setblocking(False)
        written = 0
        while takes(stream, 8_000):
            written += theirs.send(bytes(8_000))
        assert written >= 8_000
        ours.recv(written)
        assert takes(stream, 8_000), "he reads again"


def test_the_longest_name_leaves_room_for_numbers_in_a_pipe() -> None:
    uri = "https://host.example/" + "%E3%81%82" * 1_000
    with a_pipe() as (reader, stream), redirect_stdout(stream), Reporter(Output(json_lines=True)) as reporter:
        os.set_blocking(reader, False)
        reporter(replace(NUMBERS, resource=uri))
        assert uri in os.read(reader, 65_536).decode()


def test_a_terminal_that_was_told_to_stop_takes_nothing() -> None:
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w") as stream:
            assert takes(stream, 300)
            termios.tcflow(theirs, termios.TCOOFF)  # as Ctrl-S does
            assert not takes(stream, 300)
            termios.tcflow(theirs, termios.TCOON)
            assert takes(stream, 300)
    finally:
        os.close(ours)


@pytest.mark.parametrize("json_lines", [False, True])
def test_numbers_without_room_are_left_out_and_notes_are_said_later(
    json_lines: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room = True
    monkeypatch.setattr(progress, "takes", lambda stream, length_bytes: room)
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    monkeypatch.setattr(progress, "JSON_INTERVAL_S", 0.0)
    with Reporter(Output(json_lines=json_lines)) as reporter:
        room = False
        reporter(NUMBERS)
        reporter(Notice(None, "one"))
        reporter(Notice(None, "two"))
        assert capsys.readouterr() == ("", "")
        room = True
        reporter(NUMBERS)
        out, err = capsys.readouterr()
        assert [line for line in err.splitlines() if line.startswith("note")] == ["note: one", "note: two"]
        assert len((out if json_lines else err).splitlines()) == (1 if json_lines else 3)
        room = False
        reporter(Notice(None, "three"))
        assert capsys.readouterr() == ("", "")
    assert capsys.readouterr().err == "note: three\n", "the run is over, and may wait"
    assert reporter.last == NUMBERS
