"""The live display on a terminal that goes away."""

from __future__ import annotations

import errno
import os
from io import StringIO

import pytest
from rich.console import Console

from fetcher.cli import live
from fetcher.cli.output import Output
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
