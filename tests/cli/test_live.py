"""The live display on a terminal that goes away."""

from __future__ import annotations

import errno
import os
import pty
import select
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from typing import TextIO

import pytest
from rich.console import Console

from fetcher.cli import live
from fetcher.cli.output import Output
from fetcher.cli.progress import Reporter
from fetcher.cli.terminal import Terminal as OwnTerminal
from fetcher.model.events import Notice
from tests.cli.test_progress import NUMBERS


class Terminal(StringIO):
    """One that may go away."""

    gone = False

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(text)


def test_a_terminal_that_has_gone_costs_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    monkeypatch.setattr(live, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=80))
    output = Output()
    display = live.LiveProgress(output)
    display.show(NUMBERS)
    terminal.gone = True
    output.say("nobody sees this")
    output.data("/path")
    display.close()
    assert capsys.readouterr().out == "/path\n"
    assert "12.3 MB/s" in terminal.getvalue()


LINES = "".join(f"{number:08}-ö\n" for number in range(20_000))
"""More than a terminal that nobody reads keeps."""


@pytest.fixture
def screen() -> Iterator[tuple[int, TextIO]]:
    """Where one reads what a terminal is given, and what a program has of the terminal."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with os.fdopen(ours, "rb", buffering=0) as reader, os.fdopen(theirs, "w", encoding="utf-8") as stream:
        yield reader.fileno(), stream


def read_all(reader: int, size: int) -> bytes:
    read = b""
    while len(read) < size:
        read += os.read(reader, 1 << 16)
    return read


def test_what_a_terminal_has_no_room_for_is_kept_and_goes_first(screen: tuple[int, TextIO]) -> None:
    reader, stream = screen
    terminal = OwnTerminal(stream)
    terminal.write("first\n")
    assert terminal.is_clear()
    terminal.write(LINES)
    terminal.flush()
    assert not terminal.is_clear()
    assert os.get_blocking(stream.fileno()), "whoever shares the stream does not notice"
    whole, read = b"first\n" + LINES.encode(), b""
    while not terminal.is_clear():
        read += os.read(reader, 1 << 16)
    terminal.write("last")
    terminal.close(wait=False)
    assert read + read_all(reader, len(whole) + 4 - len(read)) == whole + b"last"


def test_at_the_end_what_is_left_waits_for_a_reader_where_the_data_does(screen: tuple[int, TextIO]) -> None:
    reader, stream = screen
    terminal = OwnTerminal(stream)
    terminal.write(LINES)
    closing = threading.Thread(target=lambda: terminal.close(wait=True), daemon=True)
    closing.start()
    closing.join(1.5)
    assert closing.is_alive(), "nobody has read"
    assert read_all(reader, len(LINES.encode())) == LINES.encode()
    closing.join(20)
    assert not closing.is_alive()


def test_at_the_end_what_is_left_is_given_up_where_the_data_goes_elsewhere(
    screen: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stream = screen
    monkeypatch.setattr("fetcher.cli.terminal.PATIENCE_S", 0.1)
    terminal = OwnTerminal(stream)
    terminal.write(LINES)
    terminal.close(wait=False)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(terminal.fileno())


def test_what_is_no_terminal_of_ours_is_written_to_as_everybody_does(
    monkeypatch: pytest.MonkeyPatch, screen: tuple[int, TextIO]
) -> None:
    """A terminal may belong to another user."""
    reader, stream = screen

    def refuse(stream: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(live, "Terminal", refuse)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    display = live.LiveProgress(Output())
    assert display.ready()
    display.show(NUMBERS)
    display.close()
    read = b""
    while b"12.3 MB/s" not in read:
        assert select.select([reader], [], [], 20)[0]
        read += os.read(reader, 1 << 16)


class LateReader:
    """Reads all that comes to a terminal, from when it is told to; in any case after a while, or a test never ended."""

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self._told = threading.Event()
        self.read = bytearray()
        self.was_told = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        self._told.set()

    def _read(self) -> None:
        self.was_told = self._told.wait(20)
        with suppress(OSError):  # of a terminal that has gone
            while piece := os.read(self._reader, 1 << 16):
                self.read += piece

    def join(self) -> None:
        self._thread.join(20)


def test_while_the_last_drawing_has_not_gone_nothing_is_drawn_and_notes_wait(
    monkeypatch: pytest.MonkeyPatch, screen: tuple[int, TextIO]
) -> None:
    reader, stream = screen
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "4000")
    late = LateReader(reader)
    with Reporter(Output()) as reporter:
        for _ in range(200):  # far more than there is room for
            reporter(NUMBERS)
        reporter(Notice("", "one"))
        late.begin()
        deadline = time.monotonic() + 20
        while b"note: one" not in late.read:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            reporter(NUMBERS)
    stream.close()
    late.join()
    assert late.was_told, "drawing did not wait for it"
    assert 0 < late.read.partition(b"note: one")[0].count(b"12.3 MB/s") < 200
    assert late.read.endswith(b"\x1b[2K"), "the display is gone"
