"""The live display of a terminal: one bar and one line, redrawn in place. The only module that knows ``rich``."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import IO, cast

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fetcher.cli.output import Output
from fetcher.cli.progress import numbers
from fetcher.cli.terminal import Terminal
from fetcher.model.events import Progress
from fetcher.model.quantities import format_size
from fetcher.model.text import printable


class LiveProgress:
    """Draws on stderr whenever numbers come; starts no thread of its own, and waits for nobody who looks at it."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._terminal: Terminal | None = None
        with suppress(OSError, ValueError):  # else as everybody writes to stderr; that may wait where nobody reads
            self._terminal = Terminal(sys.stderr)
        file = None if self._terminal is None else cast(IO[str], self._terminal)
        self._console = Console(file=file, stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        output.above, output.end_display = self._print_above, self.close

    def show(self, progress: Progress) -> None:
        if self._live.is_started:
            self._live.update(drawing(progress), refresh=True)

    def ready(self) -> bool:
        try:
            return self._terminal is None or self._terminal.is_clear()
        except OSError:
            return True  # it has gone: the drawing says so

    def close(self) -> None:
        self._output.above = self._output.end_display = None
        terminal, self._terminal = self._terminal, None
        with suppress(OSError):  # the terminal has gone; the data still counts
            self._live.stop()
        if terminal is not None:
            with suppress(OSError):
                # Data on a terminal waits for its reader in any case. Other data must not wait for one of drawings.
                terminal.close(wait=sys.stdout is not None and sys.stdout.isatty())

    def _print_above(self, line: str) -> None:
        with suppress(OSError):
            self._console.print(Text(line), soft_wrap=True)


def drawing(progress: Progress) -> Table:
    """Three lines: what and how much, a bar, and the numbers."""
    top = Table.grid(padding=(0, 1), expand=True)
    top.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    top.add_column(justify="right", no_wrap=True)
    done = format_size(progress.bytes_done)
    total = "…" if progress.bytes_total is None else format_size(progress.bytes_total)
    top.add_row(Text(printable(progress.resource), style="bold"), Text(f"{done} / {total}"))
    # Without a total the bar pulses: something happens, nobody knows how long.
    bar = ProgressBar(total=progress.bytes_total or None, completed=progress.bytes_done, pulse=not progress.bytes_total)
    drawing = Table.grid(expand=True)
    drawing.add_column(no_wrap=True, overflow="ellipsis")
    for row in (top, bar, Text(", ".join([progress.phase, *numbers(progress)]), style="dim")):
        drawing.add_row(row)
    return drawing
