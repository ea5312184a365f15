"""A client of the library that starts in a millisecond: everything is imported once, and each order runs in a fork.

Talks JSON lines. The parent reads an order, forks, and waits for the child's end, which it tells as
``{"event": "ended", "status": …}``; meanwhile stdin and stdout are the child's. The child says ``ready``, waits for a
line (so that a tracer can take hold of it, and sees nothing of the start), and then tells each promise as soon as it
holds. Orders:

- ``{"steps": [["fetch", URI], ["remove", URI], ["copy", URI], ["gc"]], "options": {…}}``: the library, step by step
- ``{"command": [ARGUMENT, …], "environ": {…}, "stderr": PATH}``: the command line, as a user calls it

``"plant"`` names a fault of tests/torture/plants.py. The event loop is asyncio's own: uvloop wakes itself with
write(2), and an error injected there is no matter of any disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

sys.modules["uvloop"] = None  # type: ignore[assignment]

import fetcher  # noqa: E402 - after uvloop is hidden
from fetcher.cache.records import GoneError  # noqa: E402
from fetcher.client import Fetcher, run  # noqa: E402
from fetcher.errors import FetcherError  # noqa: E402
from tests.torture import plants  # noqa: E402

_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


def say(**fact: Any) -> None:
    """One write, so that no kill leaves half a line."""
    os.write(1, json.dumps(fact).encode() + b"\n")


def hear() -> str:
    """One line of stdin, and no byte more: what follows is for whoever reads next."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line.decode()


def preload() -> None:
    """Import what is otherwise imported when first needed: the files that are opened from then on are the cache's."""
    for module in pkgutil.walk_packages(fetcher.__path__, "fetcher."):
        if not module.name.endswith("__main__") and not module.name.startswith("fetcher.testing"):
            importlib.import_module(module.name)
    importlib.import_module("encodings.idna")


async def _fetch(client: Fetcher, uri: str) -> None:
    outcome = await client.fetch(uri, "operator")
    say(event="published", uri=uri, id=outcome.snapshot.id, path=str(outcome.snapshot.path))


def _snapshots(client: Fetcher, uri: str) -> list[str]:
    return [snapshot.id for snapshot in client.cache.snapshots() if snapshot.uri.partition("@")[0] == uri]


async def _remove(client: Fetcher, uri: str) -> None:
    found = _snapshots(client, uri)
    say(event="removing", uri=uri)
    client.cache.remove(found, force=True)
    say(event="removed", uri=uri)


async def _copy(client: Fetcher, uri: str) -> None:
    found = _snapshots(client, uri)
    if not found:
        raise GoneError(f"{uri} was removed by another")
    lease = client.cache.lease_timed(found, 3600.0)
    path = client.cache.copy_adopt(client.cache.copy_stage(found[0]), lease.id, 0)
    say(event="copied", uri=uri, lease=lease.id, path=str(path))


async def _gc(client: Fetcher) -> None:
    client.cache.gc()


_STEPS = {"fetch": _fetch, "remove": _remove, "copy": _copy, "gc": _gc}


async def _steps(order: dict[str, Any]) -> None:
    async with Fetcher(environ={}, **order["options"]) as client:
        for verb, *arguments in order["steps"]:
            try:
                await _STEPS[verb](client, *arguments)
            except FetcherError as error:
                if not order.get("go_on"):
                    raise
                say(event="refused", verb=verb, kind=error.kind, message=error.message)
    say(event="done")


def _command(order: dict[str, Any]) -> int:
    from fetcher.cli.app import main

    os.environ.clear()
    os.environ.update(order["environ"])
    stderr = os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(stderr, 2)
    os.close(stderr)
    return main(order["command"])


def carry_out(order: dict[str, Any]) -> int:
    """In the child: ready, wait for the tracer, work."""
    with contextlib.suppress(OSError):  # where only ancestors may trace
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)
    if order.get("plant"):
        getattr(plants, order["plant"])()
    say(event="ready", pid=os.getpid())
    hear()
    if "command" in order:
        return _command(order)
    try:
        run(lambda: _steps(order))
    except FetcherError as error:
        say(event="error", kind=error.kind, message=error.message, hint=error.hint)
        return error.exit_code
    return 0


def main() -> None:
    preload()
    say(event="loaded")
    while text := hear():
        child = os.fork()
        if not child:
            code = 99
            try:
                code = carry_out(json.loads(text))
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        say(event="ended", status=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
