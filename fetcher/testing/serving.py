"""What the commands that serve an embedded origin have in common: their options, their JSON lines, and when they end.

The module knows no protocol: each command makes its own origin and says what that serves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from fetcher.testing.contents import Synthetic
from fetcher.testing.faultplan import FaultPlan
from fetcher.testing.faults import Delay, Trickle
from fetcher.testing.origin import OriginT

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# Running


def run(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    make: Callable[[argparse.Namespace], OriginT],
    facts: Callable[[OriginT], dict[str, object]],
) -> int:
    """Serve the origin that ``make`` makes of the options until it is told to stop; return the exit code.

    ``facts``: what the line that says that it listens tells, asked of the origin once it does.
    """
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(make(options), facts, until_stdin_closes=options.until_stdin_closes))
    except (OSError, ValueError) as error:  # an address that is taken, a name that the protocol has not
        parser.error(str(error))
    return 0


async def _serve(origin: OriginT, facts: Callable[[OriginT], dict[str, object]], *, until_stdin_closes: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
    async with origin:
        _say({"event": "listening", **facts(origin)})
        await stop.wait()
    _say({"event": "stopped", "requests": len(origin.requests), "body_bytes": origin.body_bytes_sent()})


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while sys.stdin.buffer.read(1 << 16):
        pass
    loop.call_soon_threadsafe(stop.set)


def _say(fact: dict[str, object]) -> None:
    print(json.dumps(fact), flush=True)


# Options


def add_address(parser: argparse.ArgumentParser, port_help: str) -> argparse._ArgumentGroup:
    """Add the options for the address; return their group, ``manners``, for the command's own."""
    manners = parser.add_argument_group("manners")
    manners.add_argument("--host", default="127.0.0.1")
    manners.add_argument("--port", type=_port, default=0, help=port_help)
    return manners


def add_pace_and_end(parser: argparse.ArgumentParser, manners: argparse._ArgumentGroup) -> None:
    """Add the options that every command has last: how slow, and how long."""
    manners.add_argument("--connection-rate", type=size, metavar="SIZE", help="bytes a second of each body")
    manners.add_argument("--delay", type=float, metavar="SECONDS", help="before every answer")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when standard input ends")


def pace(options: argparse.Namespace) -> FaultPlan:
    """Return the faults that make an origin as slow as the options say."""
    faults = FaultPlan()
    if options.delay is not None:
        faults.add(Delay(options.delay))
    if options.connection_rate is not None:
        faults.add(Trickle(options.connection_rate))
    return faults


def small_contents(number_and_size: tuple[int, int] | None) -> dict[str, Synthetic]:
    """Return many generated contents by name, all of one size: what an option read by ``many`` asks for."""
    number_of, size_bytes = number_and_size or (0, 0)
    return {f"small/{n // 1000:03}/{n:06}.txt": Synthetic(size_bytes, 1_000_000 + n) for n in range(number_of)}


# Values of options


def size(text: str) -> int:
    """Read a size in bytes, or with K, M or G."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (bytes, or with K, M or G)")
    return int(match[1]) * _UNITS[match[2]]


def named_size(form: str) -> Callable[[str], tuple[str, int]]:
    """Return a reader of a name and a size, such as ``a/b=5M``; ``form`` is how the help calls that."""

    def read(text: str) -> tuple[str, int]:
        name, _, size_text = text.rpartition("=")
        if not name:
            raise argparse.ArgumentTypeError(f"not {form}: {text!r}")
        return name, size(size_text)

    return read


def many(text: str) -> tuple[int, int]:
    """Read a number and a size, such as ``1000x4K``."""
    number_of, _, size_text = text.partition("x")
    if not number_of.isdecimal():
        raise argparse.ArgumentTypeError(f"not COUNTxSIZE: {text!r}")
    return int(number_of), size(size_text)


def directory(text: str) -> Path:
    """Read the path of a directory that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"not a directory: {text!r}")
    return path


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"not a port: {text!r}")
    return int(text)
