"""``fetcher get``: resources by URI, for whoever typed them. Prints one path per URI and nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fetcher.cli.context import Context, endpoint_url, lease_s
from fetcher.errors import FetcherError, PartialError, UsageError
from fetcher.model.quantities import format_size
from fetcher.model.resource import Resource
from fetcher.model.uri import GRAMMAR, parse_uri

if TYPE_CHECKING:
    from fetcher.cache.records import Lease, Snapshot
    from fetcher.client import Fetcher
    from fetcher.engine.asks import Outcome
    from fetcher.model.asker import Role


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uris", metavar="URI", nargs="+", help=GRAMMAR.replace("%", "%%"))
    parser.add_argument(
        "--file",
        metavar="NAME-OR-GLOB",
        action="append",
        default=[],
        dest="files",
        help="only this file, or the files that match; may be given several times",
    )
    parser.add_argument("--to", metavar="DIR", type=Path, help="copy the files there; DIR is new or empty")
    parser.add_argument("--merge", action="store_true", help="with --to: put the files among what is in DIR")
    parser.add_argument("--lease", metavar="DURATION", type=lease_s, help="keep it in the cache so long at least: 24h")
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        type=endpoint_url,
        help="instead of HF_ENDPOINT, AWS_ENDPOINT_URL_S3 or FETCHER_OLLAMA_URL",
    )
    parser.epilog = (
        "Prints the directory of each resource. Without --lease or --to it takes no lease: the directory is read-only, "
        "and may be removed when its time is over or when space is needed."
    )


def run(context: Context) -> int:
    options = context.options
    if options.merge and options.to is None:
        raise UsageError("--merge goes with --to", hint="--to DIR --merge puts the files among what is in DIR")
    if options.to is not None:
        if len(options.uris) > 1:
            raise UsageError("--to takes one URI: the files of several would be mixed", hint="call get once per URI")
        if not options.merge and options.to.is_dir() and any(options.to.iterdir()):
            # Said again by the copying itself; here it saves a download.
            hint = "add --merge to put the files among what is there"
            raise UsageError(f"{options.to} is not empty", hint=hint)
    resources: list[Resource] = []
    failures: list[FetcherError] = []
    for uri in options.uris:
        try:
            resources.append(parse_uri(uri, files=options.files))
        except FetcherError as error:
            failures.append(error)
    if failures:  # nothing is fetched for a command with a slip in it
        for failure in failures:
            context.output.error(failure)
        return _exit_code_of(failures)
    if options.to is None and not context.dry_run and _answer_from_cache(context, resources):
        return 0
    from fetcher.cli.fetching import run_on_loop, tell_plan  # not for a hit

    if context.dry_run:
        items: list[tuple[Resource, Role]] = [(resource, "operator") for resource in resources]
        tell_plan(context, run_on_loop(context, lambda fetcher: fetcher.plan_all(items)))
        return 0
    return run_on_loop(context, lambda fetcher: _fetch(context, fetcher, resources))


def _answer_from_cache(context: Context, resources: Sequence[Resource]) -> bool:
    """Tell the hits, if all are; without network and without an event loop."""
    from fetcher.cache.records import GoneError

    fetcher = context.fetcher()
    leases: list[Lease | None] = []
    told = 0
    try:
        if any(fetcher.may_wait(resource, "operator") for resource in resources):
            return False  # the run asks for the keys, once and not for ever; what is a hit is one there, too
        snapshots = [fetcher.hit(resource, "operator") for resource in resources]
        found = [snapshot for snapshot in snapshots if snapshot is not None]
        if len(found) < len(resources):
            return False
        for snapshot in found:
            leases.append(_lease(context, fetcher, snapshot))
        for snapshot, lease in zip(found, leases, strict=True):
            _tell(context, snapshot, snapshot.path, lease, downloaded=0, hit=True)
            told += 1
        context.tidy(fetcher)
    except GoneError:  # evicted between the look and the lease: to be fetched, then
        return False
    finally:
        _drop(fetcher, leases[told:])
        fetcher.close()
    return True


async def _fetch(context: Context, fetcher: Fetcher, resources: Sequence[Resource]) -> int:
    unique = list(dict.fromkeys(resources))
    asked: list[tuple[str | Resource | Mapping[str, Any], Role]] = [(resource, "operator") for resource in unique]
    results = dict(zip(unique, await fetcher.fetch_each(asked), strict=True))
    failures: list[FetcherError] = []
    for resource in resources:
        result = results[resource]
        if not isinstance(result, FetcherError):
            result = await _deliver(context, fetcher, resource, result)
        if isinstance(result, FetcherError):
            context.output.error(result.about(resource=resource.uri()))
            failures.append(result)
    return _exit_code_of(failures)


async def _deliver(context: Context, fetcher: Fetcher, resource: Resource, outcome: Outcome) -> Outcome | FetcherError:
    """Lease, copy, tell. What was evicted since it was fetched is fetched again."""
    from fetcher.cache.records import GoneError
    from fetcher.client import LEASE_TRIES

    lease: Lease | None = None
    told = False
    try:
        try:
            for attempt in range(LEASE_TRIES):
                try:
                    lease = _lease(context, fetcher, outcome.snapshot)
                    break
                except GoneError:
                    if attempt == LEASE_TRIES - 1:
                        raise
                    outcome = await fetcher.fetch(resource, "operator")
            snapshot, path = outcome.snapshot, outcome.snapshot.path
            if context.options.to is not None:
                path = Path(context.options.to).absolute()
                await fetcher.copy_out(snapshot, path, merge=context.options.merge)
        except FetcherError as error:
            return error
        _tell(context, snapshot, path, lease, downloaded=outcome.downloaded, hit=outcome.hit)
        told = True
    finally:
        if not told:
            _drop(fetcher, [lease])
    return outcome


def _drop(fetcher: Fetcher, leases: Iterable[Lease | None]) -> None:
    """End leases that nobody was told of."""
    for lease in leases:
        if lease is not None:
            with suppress(FetcherError):  # what kept us from telling counts for more
                fetcher.cache.lease_release(lease.id)


def _exit_code_of(failures: Sequence[FetcherError]) -> int:
    """0 without failures; their code if they are of one kind; else the code of "some failed"."""
    codes = {failure.exit_code for failure in failures}
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else PartialError.exit_code


def _lease(context: Context, fetcher: Fetcher, snapshot: Snapshot) -> Lease | None:
    if context.options.lease is None:
        return None
    return fetcher.cache.lease_timed([snapshot.id], context.options.lease)


def _tell(context: Context, snapshot: Snapshot, path: Path, lease: Lease | None, *, downloaded: int, hit: bool) -> None:
    came = "a hit" if hit else f"{format_size(downloaded)} fetched"
    context.output.detail(f"{snapshot.uri}: {came}, verified by {snapshot.verified_by}, from {snapshot.endpoint}")
    if not context.output.json_lines:
        context.output.data(str(path))
        if lease is not None:
            context.output.say(f"lease {lease.id}")
        return
    context.output.event(snapshot_json(snapshot, path, lease, downloaded=downloaded, hit=hit))


def snapshot_json(snapshot: Snapshot, path: Path, lease: Lease | None, *, downloaded: int, hit: bool) -> dict[str, Any]:
    """The ``snapshot`` object of the machine interface."""
    return {
        "event": "snapshot",
        "resource": snapshot.uri,
        "path": str(path),
        "revision": snapshot.revision,
        "files": snapshot.files,
        "bytes": snapshot.bytes,
        "downloaded": downloaded,
        "hit": hit,
        "verified_by": snapshot.verified_by,
        "fresh_until": snapshot.fresh_until,
        "lease": None if lease is None else {"id": lease.id, "expires_at": lease.expires_at},
    }
