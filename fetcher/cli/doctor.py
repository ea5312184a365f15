"""``fetcher doctor``: looks at what will decide between a good and a bad day, and says the cure. Asks no network.

With ``--engine`` the container engine is asked, too, over its socket.
"""

from __future__ import annotations

import argparse
import errno
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from fetcher import config, hashing
from fetcher.cli.context import Context
from fetcher.cli.lax import NETWORK, Remark, Seen, credentials_of, lax
from fetcher.config import GIB, Settings
from fetcher.errors import CacheError, FetcherError
from fetcher.model.quantities import format_size
from fetcher.model.text import nearest, printable

OPEN_FILES_SPARE = 256
"""Descriptors for everything that is not a connection: the index, partials, worker pipes."""
CLOCK_EARLIEST_UNIX_S = 1_700_000_000
"""November 2023, before the first release; a host without a battery wakes up in 1970."""

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    status: Status
    message: str
    hint: str | None = None
    lax: bool = False
    """It works, and promises less than it could: see ``cli.lax``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit code 0 unless a line says fail."
    parser.add_argument(
        "--engine",
        action="store_true",
        help="also have the container engine read a file of the cache, at the path that `fetcher job` tells it",
    )


def run(context: Context) -> int:
    checks = list(_checks(context.settings, os.environ, dry_run=context.dry_run))
    if context.flag("engine"):
        checks.append(_engine(context, checks))
    failed = any(check.status == "fail" for check in checks)
    if context.output.json_lines:
        context.output.event({"event": "doctor", "ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            context.output.data(f"{check.status:<4}  {check.name + ':':<17} {printable(check.message)}")
            if check.hint:
                context.output.data(f"      hint: {printable(check.hint)}")
    return CacheError.exit_code if failed else 0


def _checks(settings: Settings, environ: os._Environ[str], *, dry_run: bool) -> Iterator[Check]:
    yield Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    yield _core()
    yield _loop()
    yield _configuration(environ)
    opened = list(_cache(settings, dry_run=dry_run))
    yield from opened
    if opened[0].status == "ok" and all(check.status != "fail" for check in opened):
        yield _modes(settings)
        if not dry_run:
            yield _links(settings.cache_dir)
        yield _space(settings)
    yield Check("endpoint", "ok", settings.hf_endpoint)
    yield _token(environ)
    yield from _keys(environ)
    yield _proxies(settings, environ)
    yield _open_files(settings)
    yield _umask()
    yield _clock()
    yield from _lax(settings, environ)


def _engine(context: Context, checks: list[Check]) -> Check:
    """Whether paths that we print mean the same to the container engine."""
    if context.flag("dry_run"):
        return Check("engine", "warn", "not looked at: with --dry-run nothing is written", "leave --dry-run out")
    if any(check.name == "cache" and check.status == "fail" for check in checks):
        return Check("engine", "warn", "not looked at: there is no cache that it could see", "mend that first")
    from fetcher.client.blocking import run
    from fetcher.engine.sight import engine_sight

    seen = run(lambda: engine_sight(context.settings, os.environ))
    return Check("engine", seen.status, seen.message, seen.hint)


def _core() -> Check:
    if hashing.HAS_TREE:
        return Check("core", "ok", hashing.describe())
    hint = "install gcc and the Python headers (Debian: gcc python3-dev), then install fetcher again"
    return Check("core", "warn", f"{hashing.describe()}: downloads do not resume", hint)


def _loop() -> Check:
    if find_spec("uvloop"):
        return Check("event loop", "ok", "uvloop")
    return Check("event loop", "warn", "asyncio: more CPU per byte", "install uvloop")


# Variables that set no field of Settings.
_OTHER_VARIABLES = {"FETCHER_CONFIG", "FETCHER_DEBUG", "FETCHER_MARKET_URL", "FETCHER_OLLAMA_URL"}
_OTHER_VARIABLES |= {"FETCHER_SHA256", "FETCHER_SIMD"}
_OTHER_PREFIXES = ("FETCHER_TEST_", "FETCHER_BUILD_", "FETCHER_NATIVE")


def _configuration(environ: os._Environ[str]) -> Check:
    ours = {config.variable(name) for name in Settings.__dataclass_fields__} | _OTHER_VARIABLES
    ambient = [name for name in environ if name.startswith("FETCHER_") and not name.startswith(_OTHER_PREFIXES)]
    unknown = sorted(set(ambient) - ours)
    if unknown:
        near = nearest(unknown[0], ours)
        lists = "docs/MACHINE.md lists the variables, docs/BUILDING.md those of the core"
        hint = f"did you mean {near}?" if near else lists
        return Check("configuration", "warn", f"nothing reads the variable {', '.join(unknown)}", hint)
    path, _ = config.config_file(environ)
    return Check("configuration", "ok", str(path) if path.exists() else f"no file at {path}")


def _cache(settings: Settings, *, dry_run: bool) -> Iterator[Check]:
    """Opening does the hard looks: kind of file system, locks seen by a second process, format, rights."""
    from fetcher.cache.store import Cache

    try:
        with Cache.open(settings, read_only=dry_run) as cache:
            if dry_run and not cache.layout.index.exists():
                message = "not looked at: there is none yet, and with --dry-run none is made"
                yield Check("cache", "warn", message, "leave --dry-run out")
                return
            apart = "" if settings.state_dir == settings.cache_dir else f", index in {settings.state_dir}"
            yield Check("cache", "ok", f"{settings.cache_dir}{apart}")
            if remark := str(cache.recovery):
                yield Check("index", "warn", remark, "look at the disk, and at who else writes to the directory")
            elif not cache.index_is_sound():
                yield Check("index", "fail", "damaged", "run any command that writes: it is made anew from the cache")
            if cache.locks_trusted:
                yield Check("locks", "ok", "seen by other processes")
            else:
                lost_after = f"{settings.owner_lost_after_s:g} s"
                yield Check(
                    *("locks", "warn"),
                    f"prove nothing in the cache directory: that a command was killed is noticed after {lost_after} of"
                    " silence, and what it had is copied",
                    "put the cache on a local disk",
                )
    except FetcherError as error:
        yield Check("cache", "fail", error.message, error.hint)


def _modes(settings: Settings) -> Check:
    """A directory that was there before may be open: then those in it that hold files have to be closed."""
    from fetcher.cache.layout import Layout

    layout = Layout(settings)
    found = stat.S_IMODE(layout.cache_dir.stat().st_mode)
    if not found & 0o007:
        return Check("cache mode", "ok", f"{found:04o}")
    walls = (layout.snapshots, layout.blobs, layout.partials, layout.writable)
    open_walls = [str(wall) for wall in walls if wall.stat().st_mode & 0o007]
    if open_walls:
        message = f"{found:04o}, and {', '.join(open_walls)} open too: other users of this host can read private files"
        return Check("cache mode", "warn", message, f"chmod o= {' '.join(open_walls)}", lax=True)
    return Check("cache mode", "ok", f"{found:04o}; the directories in it are closed to other users")


def _links(cache_dir: Path) -> Check:
    """Snapshots are made of hard links; without them every one is a copy."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=cache_dir) as directory:
            first = Path(directory, "first")
            first.touch(0o600, exist_ok=False)
            Path(directory, "second").hardlink_to(first)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.ENOSPC):
            return Check(
                "writing", "fail", f"the cache can't be written: {error.strerror}", "mend that, or use another"
            )
        hint = "use a file system with hard links (ext4, xfs, btrfs) for the cache"
        return Check("hard links", "warn", f"not possible ({error.strerror}): every directory is a copy", hint)
    return Check("hard links", "ok", "possible")


def _space(settings: Settings) -> Check:
    found = os.statvfs(settings.cache_dir)
    free_bytes = found.f_bavail * found.f_frsize
    message = f"{format_size(free_bytes)} free on the file system of the cache"
    if free_bytes < settings.space_floor_bytes:
        hint = "fetcher prune --max-size SIZE, or a larger disk"
        return Check("space", "fail", f"{message}, less than the floor that stays free", hint)
    if free_bytes < settings.space_floor_bytes + 20 * GIB:
        return Check("space", "warn", message, "models are 5 to 200 GB: fetcher prune, or a larger disk")
    return Check("space", "ok", message)


def _token(environ: os._Environ[str]) -> Check:
    from fetcher import credentials

    try:
        found = credentials.operator_token(environ)
    except FetcherError as error:
        return Check("token", "warn", error.message, error.hint)
    return Check("token", "ok", "a Hub token is there, for get; jobs use their own" if found else "no Hub token")


def _keys(environ: os._Environ[str]) -> Iterator[Check]:
    """Said once, so that nobody wonders why a job is refused what a `get` is given."""
    held = [name for name in credentials_of(environ) if name.startswith("AWS_")]
    if held:
        yield Check("keys", "ok", f"{', '.join(held)}: for get; jobs use their own IAM")


def _allow_net(settings: Settings, remarks: list[Remark]) -> Check | None:
    """A line of its own where there is nothing to remark."""
    if not settings.allow_net:
        return Check(NETWORK, "ok", "public addresses only")
    if any(remark.about == NETWORK for remark in remarks):
        return None
    return Check(NETWORK, "ok", f"public addresses, and {', '.join(settings.allow_net)}")


def _lax(settings: Settings, environ: os._Environ[str]) -> Iterator[Check]:
    """What promises less than it could; nothing of it is a failure."""
    remarks = lax(settings, environ, Seen.now(settings, environ))
    if (network := _allow_net(settings, remarks)) is not None:
        yield network
    for remark in remarks:
        yield Check(remark.about, "warn", remark.message, remark.hint, lax=True)


def _proxies(settings: Settings, environ: os._Environ[str]) -> Check:
    """Which proxies requests are handed to, and what that means for jobs. Never their logins."""
    from fetcher.net.proxies import proxies_of

    stated = proxies_of(settings.proxy, environ).stated()
    if not stated:
        word = "none" if settings.proxy is None else "none, whatever the environment says"
        return Check("proxy", "ok", word)
    listed = "; ".join(stated)
    if settings.proxy_filters:
        return Check("proxy", "ok", f"{listed}; said to keep jobs away from the host's own network")
    hint = "FETCHER_PROXY=none goes directly; FETCHER_PROXY_FILTERS=true if the proxy itself judges addresses"
    return Check("proxy", "warn", f"{listed}; jobs, and redirects of anybody, are refused there", hint)


def _open_files(settings: Settings) -> Check:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.connections_max * 2 + OPEN_FILES_SPARE
    if soft != resource.RLIM_INFINITY and soft < needed:
        cure = f"ulimit -n {needed}"
        return Check("open files", "warn", f"the limit is {soft}, {needed} may be needed", cure)
    return Check("open files", "ok", f"the limit is {soft}")


def _umask() -> Check:
    mask = os.umask(0o077)
    os.umask(mask)
    return Check("umask", "ok", f"{mask:04o}; the cache sets its modes itself")


def _clock() -> Check:
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < CLOCK_EARLIEST_UNIX_S:
        return Check("clock", "warn", f"{text}: leases, freshness and TLS will be wrong", "set the clock (NTP)")
    return Check("clock", "ok", text)
