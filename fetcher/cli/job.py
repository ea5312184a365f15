"""``fetcher job``: everything that a Job Definition needs, and its mounts; all or nothing.

Whatever is read out of a Job Definition is asked for as a *job*: with its own credentials only, behind the guard.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fetcher.cache.records import ReplacedError
from fetcher.cli.context import Context, lease_s, value_of
from fetcher.cli.inspect import when
from fetcher.cli.output import table
from fetcher.errors import FetcherError, LeaseError, UsageError
from fetcher.model.job import parse_job
from fetcher.model.json_text import TEXT_BYTES_MAX
from fetcher.model.quantities import format_size
from fetcher.model.resource import HF
from fetcher.model.setting_values import market
from fetcher.model.text import shown

if TYPE_CHECKING:
    from fetcher.client import Fetcher
    from fetcher.client.mounts import MountSet
    from fetcher.model.mount import JobResources

LEASE_DEFAULT_S = 86_400.0

_PLAIN_WORD = re.compile(r"[\w./@%+=:~-]+")
"""What a shell and the ``--mount`` syntax leave as it is. A target comes from a stranger: a blank in it would become an
argument of its own (``/x --privileged``)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE|-", help="a Job Definition in JSON or YAML; - reads stdin")
    parser.add_argument(
        "--lease", metavar="DURATION", type=lease_s, help="how long the mounts are kept at least (default: 24h)"
    )
    parser.add_argument(
        "--market",
        metavar="ADDRESS",
        type=value_of(market),
        help="the market that the job comes from: what its pin shares is the job's too (default: FETCHER_MARKET)",
    )
    parser.add_argument("--owner-pid", metavar="PID", type=_pid, help="the lease also ends when this process is gone")
    parser.add_argument(
        "--hold",
        action="store_true",
        help="print the mounts, then hold them until stdin closes or a signal comes; without --lease "
        "the lease is bound to this very process",
    )
    parser.add_argument(
        "--format", choices=["table", "docker", "json"], default="table", help="docker: one --mount argument per line"
    )
    parser.epilog = "Resources that need the result of an earlier op are listed as deferred."


def _pid(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"not a process id: {shown(text)}")
    return int(text)


def run(context: Context) -> int:
    options = context.options
    parent_pid = os.getppid() if options.file == "-" else None  # as early as can be: it may be gone when a hold begins
    job = parse_job(_document(options.file))
    if options.format == "docker" and not context.output.json_lines:
        if job.mounts:
            _plain(str(context.settings.engine_cache_dir or context.settings.cache_dir), "the cache")
        places: dict[str, str] = {}
        for request in job.mounts:
            _plain(request.target, f"the target at {request.at}")
            other = places.setdefault(request.target, request.op)
            if other != request.op:
                raise UsageError(
                    f"ops {shown(other)} and {shown(request.op)} both mount {shown(request.target)}",
                    hint="--format docker prints the mounts of one container; use --json, and choose by op",
                )
    if options.owner_pid is not None and not os.path.exists(f"/proc/{options.owner_pid}"):
        # Said again when the lease is taken; here it saves a download.
        raise LeaseError(
            f"there is no process {options.owner_pid} that a lease could end with",
            hint="--owner-pid takes the pid of a running process, as this program sees it",
        )
    _mention_token(context, job)
    if not options.hold and not context.dry_run and _answer_from_cache(context, job):
        return 0
    from fetcher.cli.fetching import run_on_loop, tell_plan  # not for hits

    if context.dry_run:
        tell_plan(context, run_on_loop(context, lambda fetcher: fetcher.plan_job(job)))
        return 0
    return run_on_loop(context, lambda fetcher: _mount(context, fetcher, job, parent_pid))


def _document(place: str) -> bytes:
    try:
        if place == "-":
            return b"" if sys.stdin is None else sys.stdin.buffer.read(TEXT_BYTES_MAX + 1)
        with open(place, "rb") as file:
            return file.read(TEXT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"can't read {shown(place)}: {reason}", hint="name a file with a Job Definition, or -"
        ) from None


def _mention_token(context: Context, job: JobResources) -> None:
    from fetcher import credentials

    if credentials.job_ignores_token(os.environ) and any(
        isinstance(each.resource, HF) and each.resource.token is None for each in job.mounts
    ):
        context.output.say("note: HF_TOKEN is set, but a job gets it never: only its own accessToken is used")


def _lease_s(context: Context) -> float | None:
    """Seconds of a timed lease; None for one that ends with this process."""
    if context.options.lease is not None:
        return float(context.options.lease)
    return None if context.options.hold else LEASE_DEFAULT_S


def _answer_from_cache(context: Context, job: JobResources) -> bool:
    """Tell the mounts, if all are hits; without network and without an event loop."""
    fetcher = context.fetcher()
    try:
        mounts = fetcher.mount_hits(job, lease_s=_lease_s(context), owner_pid=context.options.owner_pid)
        if mounts is None:
            return False
        try:
            _tell(context, mounts)
        except BaseException:
            with suppress(FetcherError):  # what kept us from telling counts for more
                _release(fetcher, mounts)
            raise
        context.tidy(fetcher)
        return True
    finally:
        fetcher.close()


async def _mount(context: Context, fetcher: Fetcher, job: JobResources, parent_pid: int | None) -> int:
    mounts = await fetcher.mount_all(job, lease_s=_lease_s(context), owner_pid=context.options.owner_pid)
    try:
        _tell(context, mounts)
        if context.options.hold:
            from fetcher.cli.hold import hold

            await hold(parent_pid=parent_pid, owner_pid=context.options.owner_pid)
    except BaseException:
        with suppress(FetcherError):  # nobody was told, or nobody listens any more; why counts for more
            _release(fetcher, mounts)
        raise
    if context.options.hold:
        _release(fetcher, mounts)
    return 0


def _release(fetcher: Fetcher, mounts: MountSet) -> None:
    if mounts.lease is not None:
        # Its time was over, or somebody ended it by hand; or the index is of a later version, and ends it by itself.
        with suppress(LeaseError, ReplacedError):
            fetcher.cache.lease_release(mounts.lease.id)


# --- telling


def _tell(context: Context, mounts: MountSet) -> None:
    output = context.output
    for mount in mounts.mounts:
        output.detail(
            f"{mount.at}: {mount.resource} at commit {mount.snapshot.revision} from {mount.snapshot.endpoint}"
        )
    if output.json_lines or context.options.format == "json":
        output.event(mounts_json(mounts))
        return
    lease = mounts.lease
    end = "none" if lease is None else f"{lease.id} until {when(lease.expires_at) if lease.expires_at else 'released'}"
    if context.options.format == "docker":
        for line in [docker_argument(str(mount.source), mount.target, mount.read_only) for mount in mounts.mounts]:
            output.data(line)
    else:
        rows = [
            [
                mount.op,
                mount.resource,
                mount.target,
                str(mount.source),
                format_size(mount.snapshot.bytes),
                mount.snapshot.verified_by,
            ]
            for mount in mounts.mounts
        ]
        if rows:
            for line in table(["OP", "RESOURCE", "TARGET", "SOURCE", "SIZE", "VERIFIED BY"], rows, right=(4,)):
                output.data(line)
    for deferred in mounts.deferred:
        output.say(f"deferred: {deferred.at}: {deferred.reason}")
    output.say(f"lease: {end}")


def mounts_json(mounts: MountSet) -> dict[str, Any]:
    """The ``mounts`` object of the machine interface."""
    lease = mounts.lease
    return {
        "event": "mounts",
        "lease": None if lease is None else {"id": lease.id, "expires_at": lease.expires_at},
        "mounts": [
            {
                "op": mount.op,
                "at": mount.at,
                "resource": mount.resource,
                "source": str(mount.source),
                "target": mount.target,
                "read_only": mount.read_only,
                "revision": mount.snapshot.revision,
                "bytes": mount.snapshot.bytes,
                "verified_by": mount.snapshot.verified_by,
            }
            for mount in mounts.mounts
        ],
        "deferred": [{"op": each.op, "at": each.at, "reason": each.reason} for each in mounts.deferred],
    }


def docker_argument(source: str, target: str, read_only: bool) -> str:
    """One ``--mount``, as Docker and Podman read it; never ``-v``, which would create a missing source.

    Raises UsageError for paths that a shell or the syntax would take apart.
    """
    fields = ["type=bind", f"source={_plain(source, 'the cache')}", f"target={_plain(target, 'the target')}"]
    return f"--mount {','.join([*fields, 'readonly'] if read_only else fields)}"


def _plain(path: str, what: str) -> str:
    if not _PLAIN_WORD.fullmatch(path):
        hint = "use --json, and hand the mounts over without a shell"
        raise UsageError(f"{what} can't be written as a plain word for a command line: {shown(path)}", hint=hint)
    return path
