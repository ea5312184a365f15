"""Progress as somebody wants to see it: JSON objects, plain lines now and then, a live display, or nothing.

Takes the facts that the engine emits; decides nothing. ``rich`` is imported only for the live display. All of it is
written from within the run, which must never wait for a reader: what has no room is left out, or told later.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import termios
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TextIO

from fetcher.cli.output import Output
from fetcher.model.events import Event, Progress
from fetcher.model.quantities import format_duration, format_size
from fetcher.model.text import printable

JSON_INTERVAL_S = 0.1
LINE_INTERVAL_S = 5.0
NUMBERS_BYTES_MAX = 512
"""Of a ``progress`` object without the resource's name."""


class Display(Protocol):
    """Shows the numbers of a run."""

    def show(self, progress: Progress) -> None: ...

    def ready(self) -> bool:
        """Whether all that was shown until now has gone to the terminal."""
        ...

    def close(self) -> None: ...


class Reporter:
    """Receives the events of a run, remembers the last numbers, hands them to a display. A context manager."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._display: Display | None = None
        self._said: set[str] = set()
        self._notes: deque[str] = deque()
        """Those that stderr had no room for."""
        self.last: Progress | None = None
        self.reader_gone = False
        """Whoever read stdout has closed it."""
        self.on_reader_gone: Callable[[], object] | None = None
        """Ends the run then: nobody waits for it any more."""

    def __enter__(self) -> Reporter:
        self._display = _display_for(self._output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        display, self._display = self._display, None
        if display is not None:
            display.close()
        self._say_notes(wait=True)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.last = event
            if self._display is not None and not self.reader_gone:
                self._show(self._display, event)
        elif event.message not in self._said:
            self._said.add(event.message)
            self._notes.append(f"note: {printable(event.message)}")
        self._say_notes()

    def _show(self, display: Display, progress: Progress) -> None:
        import json  # only who shows numbers has to know

        length_bytes = NUMBERS_BYTES_MAX + len(json.dumps(progress.resource))
        if not display.ready() or not takes(sys.stdout if self._output.json_lines else sys.stderr, length_bytes):
            return
        try:
            display.show(progress)
        except BrokenPipeError:
            self.reader_gone = True
            if self.on_reader_gone is not None:
                self.on_reader_gone()

    def _say_notes(self, *, wait: bool = False) -> None:
        while self._notes and (wait or self._takes_note(self._notes[0])):
            self._output.say(self._notes.popleft())

    def _takes_note(self, note: str) -> bool:
        is_ready = self._display is None or self._display.ready()
        return is_ready and takes(sys.stderr, len(note.encode(errors="replace")) + 1)

    def kept(self) -> str:
        """What a stopped run leaves for the next one, in words."""
        from fetcher import hashing  # only who was stopped has to know

        if self.last is None or not self.last.bytes_done:
            return "nothing was fetched yet"
        total = "" if self.last.bytes_total is None else f" of {format_size(self.last.bytes_total)}"
        kept = "are kept" if hashing.HAS_TREE else "had come, whole files are kept"
        return f"{format_size(self.last.bytes_done)}{total} {kept}"


def takes(stream: TextIO | None, length_bytes: int) -> bool:
    """Whether so much can be written without waiting for who reads it. Half of a pipe stays free for what has to be
    told: a run then ends even if nobody has read a line of it, where that is enough."""
    try:
        descriptor = -1 if stream is None else stream.fileno()
    except (OSError, ValueError):
        descriptor = -1
    if descriptor < 0:
        return True  # closed, or in memory: nobody can hold it up
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    found = poll.poll(0)
    if not found:
        return False
    if found[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
        return True  # the writing fails at once, and says that the reader has gone
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        # A file takes everything; of a socket "writable" means far more than a line, of a terminal any room at all,
        # so that whoever draws on one looks for himself.
        return True
    return _held_bytes(descriptor) + length_bytes <= fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) // 2


def _held_bytes(pipe: int) -> int:
    """What was written to a pipe and is not read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def _display_for(output: Output) -> Display | None:
    if output.quiet:
        return None
    if output.json_lines:
        return JSONProgress(output.event, time.monotonic)
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from fetcher.cli.live import LiveProgress

        return LiveProgress(output)
    return LineProgress(output.say, time.monotonic)


class JSONProgress:
    """``progress`` objects, at most ten a second."""

    def __init__(self, emit: Callable[[dict[str, object]], None], clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._emitted_at = float("-inf")

    def show(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._emitted_at < JSON_INTERVAL_S:
            return
        self._emitted_at = now
        self._emit(progress_json(progress))

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        pass


class LineProgress:
    """A plain line every few seconds, for logs. A run that is over sooner prints none."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._say = say
        self._clock = clock
        self._said_at = clock()

    def show(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._said_at < LINE_INTERVAL_S:
            return
        self._said_at = now
        self._say(progress_line(progress))

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        pass


def progress_json(progress: Progress) -> dict[str, object]:
    """The ``progress`` object of the machine interface."""
    return {
        "event": "progress",
        "resource": progress.resource,
        "phase": progress.phase,
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "files_done": progress.files_done,
        "files_total": progress.files_total,
        "bytes_downloaded": progress.bytes_downloaded,
        "rate_bytes_per_s": round(progress.rate_bytes_per_s),
        "eta_s": None if progress.eta_s is None else round(progress.eta_s, 1),
        "connections": progress.connections,
        "parts_moved": progress.parts_moved,
    }


def progress_line(progress: Progress) -> str:
    """All numbers in one line, the most telling first."""
    words: list[str] = [progress.phase]
    if progress.bytes_total is not None:
        share = 100 * progress.bytes_done // progress.bytes_total if progress.bytes_total else 100
        words.append(f"{share}%")
        words.append(f"{format_size(progress.bytes_done)} of {format_size(progress.bytes_total)}")
    words += numbers(progress)
    return ", ".join(words)


def numbers(progress: Progress) -> list[str]:
    """Rate, time left, files, connections, moved parts: what applies now."""
    words = []
    if progress.rate_bytes_per_s >= 1:
        words.append(f"{format_size(progress.rate_bytes_per_s)}/s")
    if progress.eta_s is not None:
        words.append(f"{format_duration(progress.eta_s)} left")
    if progress.files_total is not None:
        words.append(f"{progress.files_done}/{progress.files_total} files")
    if progress.connections:
        words.append(f"{progress.connections} connections")
    if progress.parts_moved:
        words.append(f"{progress.parts_moved} parts moved")
    return words
