"""Where lines go: data to stdout, talk to stderr, errors as a sentence with a hint or as one JSON object each.

A closed stdout is not handled here: ``BrokenPipeError`` passes through to ``app``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fetcher.errors import Fault, FetcherError, ResourceError, UsageError
from fetcher.model.text import printable


class Output:
    """The two streams of one run of the program."""

    def __init__(self, *, json_lines: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json_lines = json_lines
        """stdout carries one JSON object per line and nothing else."""
        self.quiet = quiet
        self.verbose = verbose
        self.above: Callable[[str], None] | None = None
        """Prints a line of talk above a live display, while there is one."""
        self.end_display: Callable[[], None] | None = None
        """Takes a live display off the terminal, while there is one."""
        self._errors_told = False

    def data(self, line: str) -> None:
        """One line of data for stdout, at once: a reader may be waiting for it. It is the end of a live display."""
        if self.end_display is not None:
            self.end_display()
        if sys.stdout is None:
            return
        try:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            hint = "stdout goes to a file or device that takes no more"
            raise UsageError(f"can't write to stdout: {error.strerror}", hint=hint) from None

    def event(self, value: Mapping[str, Any]) -> None:
        """One JSON object for stdout. ASCII only: no character of a name can then look like the end of a line."""
        import json

        self.data(json.dumps(value, separators=(",", ":")))

    def say(self, line: str) -> None:
        """One line of talk for stderr, unless ``--quiet``."""
        if not self.quiet:
            self._talk(line)

    def detail(self, line: str) -> None:
        """One line of talk that only ``--verbose`` asks for."""
        if self.verbose:
            self.say(line)

    def error(self, error: FetcherError) -> None:
        """Tell an error, with every fault of a document; ``--quiet`` does not silence it."""
        faults = faults_of(error)
        if self.json_lines:
            for fault in faults or (Fault(error.at or "", error.message, error.hint),):
                self.event(error_json(error, fault))
        else:
            self._talk(("\n" if self._errors_told else "") + error_text(error, faults))
            self._errors_told = True

    def _talk(self, line: str) -> None:
        if self.above is not None:
            self.above(line)
        elif sys.stderr is not None:
            try:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
            except OSError:  # nobody listens; the data still counts
                pass


HINTS = {
    "internal": "this is a fault of fetcher; please report it with what FETCHER_DEBUG=1 shows",
    "transport": "look at the network and the origin, then run it again: what was fetched is kept",
    "cache": "fetcher doctor looks for the cause",
}
"""For errors that reach a person without advice of their own."""


def hint_of(error: FetcherError) -> str | None:
    return error.hint or HINTS.get(error.kind)


def error_json(error: FetcherError, fault: Fault) -> dict[str, Any]:
    """The ``error`` object of one failed resource, or of one fault of a document."""
    at = fault.at if fault.at.startswith("$") else error.at
    return {
        "event": "error",
        "kind": error.kind,
        "message": fault.message,
        "hint": fault.hint if faults_of(error) else hint_of(error),
        "resource": error.resource,
        "at": at or None,
    }


def faults_of(error: FetcherError) -> Sequence[Fault]:
    return error.faults if isinstance(error, ResourceError) else ()


def error_text(error: FetcherError, faults: Sequence[Fault] = ()) -> str:
    """``error: …``, then where, then after a blank line ``hint: …``."""
    if len(faults) > 1:
        lines = [f"error: {printable(error.message.splitlines()[0])}"]
        for fault in faults:
            lines += ["", f"  {fault.at}: {printable(fault.message)}"]
            if fault.hint:
                lines.append(f"    hint: {printable(fault.hint)}")
        return "\n".join(lines)
    lines = [f"error: {printable(error.message)}"]
    if error.resource and error.resource not in error.message:
        lines.append(f"  resource: {printable(error.resource)}")
    if error.at and error.at.startswith("$"):
        lines.append(f"  at: {printable(error.at)}")
    if hint := hint_of(error):
        lines += ["", f"hint: {printable(hint)}"]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Lines of aligned columns; the columns numbered in ``right`` are aligned right, as numbers are."""
    cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    to_the_right = set(right)
    return [
        "  ".join(
            cell.rjust(width) if column in to_the_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
