"""``fetcher``: reads arguments, runs one command, turns whatever happens into lines and an exit code."""

from __future__ import annotations

import argparse
import gc
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, TextIO

from fetcher.cli.context import Context, add_shared_options
from fetcher.cli.output import Output
from fetcher.errors import CacheError, FetcherError, InternalError, InterruptedByUser, UsageError
from fetcher.model.text import nearest, shown

COMMANDS: dict[str, str] = {
    "get": "fetch resources and print where they are",
    "job": "fetch what a Job Definition needs and print its mounts",
    "prefetch": "make this node hold what a market requires",
    "ls": "list what is in the cache",
    "inspect": "show one entry of the cache and its files",
    "df": "show where the space went",
    "verify": "read what is in the cache and take out what is damaged",
    "pin": "keep a resource until it is unpinned",
    "unpin": "let go of what a pin keeps",
    "rm": "remove a resource from the cache",
    "prune": "remove what nobody needs any more",
    "release": "end a lease",
    "renew": "prolong a lease",
    "doctor": "look for what will go wrong, and say the cure",
    "cache": "show where the cache is",
    "completion": "print a script that completes commands in a shell",
}
"""Command → its line in ``--help``. Each has a module of its name in this room, imported when it is called."""

HELP = frozenset({"-h", "--help"})

CLOSED_STDOUT_EXIT_CODE = 128 + signal.SIGPIPE
"""As a shell reports a program that SIGPIPE ended: the reader had enough."""

COLLECTED_EVERY = 50_000
"""New values between two looks for cycles, instead of 700: what a start makes stays, and going through it forty times
took 6 ms. See also ``engine/loop.py``."""


class Formatter(argparse.HelpFormatter):
    """argparse's own, told the width: to find it out it would import shutil and three compressors, at every start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_help_width())


def _help_width() -> int:
    try:
        columns = int(os.environ.get("COLUMNS", "")) or os.get_terminal_size().columns
    except (ValueError, OSError):
        columns = 80
    return min(max(columns, 40), 120) - 2


class Parser(argparse.ArgumentParser):
    """argparse with our errors: a sentence and a hint instead of a usage dump and an exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.replace("\n", " "), hint=f"{self.prog} --help shows how to call it")


def build_parser(arguments: Sequence[str]) -> Parser:
    """The parser for a call with ``arguments``: only a command that is named there gets its own arguments read in, and
    only where help may list them all are the others made at all."""
    parser = Parser(
        prog="fetcher",
        description="Resources of a job on the disk of a GPU host: verified, cached, leased.",
        epilog="Settings, JSON and exit codes: docs/MACHINE.md",
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="store_true", help="show version and native core")
    add_shared_options(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, title="commands")
    named = [name for name in COMMANDS if name in arguments]
    for name, summary in COMMANDS.items():
        if named and name not in named and not HELP.intersection(arguments):
            continue
        sentence = f"{summary[0].upper()}{summary[1:]}."
        command = commands.add_parser(
            name, help=summary, description=sentence, allow_abbrev=False, formatter_class=Formatter
        )
        if name in arguments:
            import_module(f"fetcher.cli.{name}").add_arguments(command)
            add_shared_options(command)
    return parser


def program() -> NoReturn:
    """The program as a process of its own: ``main``, and then its end."""
    gc.set_threshold(COLLECTED_EVERY)
    _leave(main())


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart first, value by value: that takes 15 ms after a download,
    and the kernel does it in one. What ``main`` opened it has closed.

    Not where a thread still runs, which Python would wait for, where somebody wants to be warned of what was left open
    (``-X dev``, PYTHONWARNINGS), or where the last lines can't be written: then the interpreter ends as it always does.
    """
    threading = sys.modules.get("threading")
    alone = threading is None or threading.active_count() == 1
    if not alone or sys.warnoptions:
        raise SystemExit(code)
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        raise SystemExit(code) from None
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code (docs/MACHINE.md)."""
    _occupy_standard_descriptors()
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Errors of the arguments themselves are told in the form that was asked for.
    output = Output(json_lines="--json" in arguments, quiet="--quiet" in arguments, verbose="--verbose" in arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # a path comes out byte for byte
    try:
        try:
            code = _run(arguments, output)
            _flush_stdout()
        except FetcherError as error:
            code = error.exit_code
            for each in (error, *error.also):
                _tell(output, each)
        except KeyboardInterrupt:
            code = InterruptedByUser.exit_code
            _tell(output, InterruptedByUser("stopped"))
        except BrokenPipeError:
            raise
        except Exception as error:
            if os.environ.get("FETCHER_DEBUG"):
                raise
            unexpected = _unexpected(error)
            code = unexpected.exit_code
            _tell(output, unexpected)
    except BrokenPipeError:
        _abandon(sys.stdout)
        code = CLOSED_STDOUT_EXIT_CODE
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    return code


def _occupy_standard_descriptors() -> None:
    """Some supervisors start children with stdin, stdout or stderr closed. The next file opened would get that number:
    an index as stdout, an event loop's epoll as stdin."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _flush_stdout() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _abandon(sys.stdout)
        raise UsageError(f"can't write to stdout: {error.strerror}", hint="look at where stdout goes") from None


def _tell(output: Output, error: FetcherError) -> None:
    """Tell an error; where stdout takes no more, on stderr, in words."""
    try:
        output.error(error)
    except BrokenPipeError:
        raise
    except (FetcherError, OSError):
        output.json_lines = False
        output.error(error)


def _run(arguments: Sequence[str], output: Output) -> int:
    parser = build_parser(arguments)
    try:
        options = parser.parse_args(arguments)
    except UsageError as error:
        raise _explained(error) from None
    except SystemExit as end:  # --help has printed its text
        return int(end.code or 0)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"can't write to stdout: {error.strerror}", hint="look at where stdout goes") from None
    if options.version:
        output.data(_version())
        return 0
    if options.command is None:
        raise UsageError("no command", hint="fetcher --help lists the commands")
    output.json_lines = getattr(options, "json_lines", False)
    return int(import_module(f"fetcher.cli.{options.command}").run(Context(options, output)))


def _explained(error: UsageError) -> UsageError:
    """argparse names every command there is when one is unknown; a person wants the one that was meant."""
    match = re.match(r"argument COMMAND: invalid choice: '([^']*)'", error.message)
    if not match:
        return error
    word = match[1]
    near = nearest(word, COMMANDS)
    hint = f"did you mean {near}?" if near else "fetcher --help lists the commands"
    return UsageError(f"no such command: {shown(word)}", hint=hint)


def _version() -> str:
    from fetcher import __version__, hashing

    python = ".".join(str(part) for part in sys.version_info[:3])
    return f"fetcher {__version__} (Python {python}, core: {hashing.describe()})"


def _unexpected(error: Exception) -> FetcherError:
    if isinstance(error, OSError) and isinstance(error.filename, str):
        # The machine said no where nobody asked how: that is for its owner to mend, not for us.
        hint = "look at the rights and the state of this path; fetcher doctor may know more"
        return CacheError(f"{error.strerror}: {shown(error.filename)}", hint=hint)
    return InternalError(f"something unexpected happened: {type(error).__name__}: {shown(str(error))}")


def _let_go(stream: TextIO | None) -> None:
    """Give up what a stream does not take, if it takes no more: that was told where it matters, and the interpreter's
    own flush would take the exit code's place."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        _abandon(stream)


def _abandon(stream: TextIO | None) -> None:
    """Let the interpreter's own flush at exit succeed: what could not be written has nobody to read it."""
    try:
        if stream is not None:
            descriptor, null = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
    except (OSError, ValueError):
        pass
