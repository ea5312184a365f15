"""``fetcher verify``: reads what is in the cache, and takes what is no longer what was verified out of service."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from fetcher.cli.context import Context
from fetcher.cli.progress import Reporter
from fetcher.errors import FetcherError, IntegrityError
from fetcher.model.quantities import format_duration, format_size
from fetcher.model.text import printable

if TYPE_CHECKING:
    from fetcher.cache.damage import Damage, VerifyReport

BLOCKS_TOLD_MAX = 100
"""Of one file, in JSON: a disk that lost half of a model would make a line of a megabyte."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", metavar="URI", nargs="?", help="only this resource (default: all that is in the cache)")
    parser.epilog = (
        "What is damaged is taken out of the cache, so that the next fetch gets just that anew; with --dry-run it is "
        "only told. Exit code 40 if anything is damaged. --limit-rate is how fast to read."
    )


def run(context: Context) -> int:
    output = context.output
    told: list[Damage] = []

    def tell(damage: Damage) -> None:
        told.append(damage)
        if output.json_lines:
            output.event(damage_json(damage))

    with _stops() as stops, Reporter(output) as reporter:
        fetcher = context.fetcher(on_event=reporter)
        try:
            report = fetcher.verify(
                context.options.uri,
                dry_run=context.dry_run,
                rate_bytes_per_s=getattr(context.options, "limit_rate", None),
                on_damage=tell,
                stopped=lambda: bool(stops) or reporter.reader_gone,
            )
        except FetcherError as error:
            if reporter.reader_gone:
                raise BrokenPipeError from None
            if not output.json_lines:
                _tell_people(context, told)  # what was found until then is taken care of
            raise error
        finally:
            fetcher.close()
    if output.json_lines:
        output.event(report_json(report))
    else:
        _tell_people(context, told)
        output.say(_sum(report))
    return 0 if report.sound else IntegrityError.exit_code


@contextmanager
def _stops() -> Iterator[list[int]]:
    """The signals that asked us to stop: one stops cleanly, a second leaves at once, as everywhere."""
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        if came:
            os._exit(128 + number)
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield came  # signals are the main thread's business
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def damage_json(damage: Damage) -> dict[str, Any]:
    """The ``damage`` object of the machine interface."""
    blocks = None if damage.blocks is None else list(damage.blocks[:BLOCKS_TOLD_MAX])
    return {
        "event": "damage",
        "reason": damage.reason,
        "message": damage.message,
        "path": str(damage.path),
        "root": damage.root,
        "size": damage.size,
        "blocks": blocks,
        "blocks_more": 0 if damage.blocks is None else len(damage.blocks) - len(blocks or ()),
        "files": [
            {
                "resource": file.resource,
                "id": file.snapshot_id,
                "path": file.path or None,
                "lease": file.lease,
                "leases": list(file.leases),
            }
            for file in damage.files
        ],
        "action": damage.action,
    }


def report_json(report: VerifyReport) -> dict[str, Any]:
    """The ``verified`` object of the machine interface."""
    return {
        "event": "verified",
        "dry_run": report.dry_run,
        "snapshots": report.snapshots,
        "files": report.files,
        "blobs": report.blobs,
        "bytes": report.bytes,
        "damaged": len(report.damage),
        "in_use": sum(damage.action == "in_use" for damage in report.damage),
        "hidden": report.hidden,
        "elapsed_s": round(report.elapsed_s, 3),
    }


def _tell_people(context: Context, told: list[Damage]) -> None:
    for damage in told:
        names = [f"{file.resource}  {file.path}".rstrip() for file in damage.files] or ["in no entry"]
        for name in names[:-1]:
            context.output.data(printable(name))
        context.output.data(printable(f"{names[-1]}: {damage.message}"))
        context.output.data(printable(f"  {damage.path}"))
        context.output.data(f"  {_cure(damage)}")


def _cure(damage: Damage) -> str:
    if damage.action == "none":
        return "nothing was changed; without --dry-run it is taken care of"
    if damage.action == "repaired":
        return "made anew from the file; nothing has to be fetched"
    if damage.action == "removed":
        if not damage.files:
            return "taken out of the cache"
        return "taken out of the cache; the next fetch gets what was damaged anew"
    leases = damage.leases
    release = "; ".join(f"fetcher release {lease}" for lease in leases)
    return (
        f"in use by {'lease' if len(leases) == 1 else 'leases'} {', '.join(leases)}: it stays for its job, and nobody "
        f"else gets it; end that job, then `{release}`"
    )


def _sum(report: VerifyReport) -> str:
    entries = f"{report.snapshots} {'entry' if report.snapshots == 1 else 'entries'}"
    files = f"{report.files} {'file' if report.files == 1 else 'files'}"
    words = f"{entries}, {files}: read {format_size(report.bytes)} in {format_duration(report.elapsed_s)}"
    words = f"{words}, {'all sound' if report.sound else f'{len(report.damage)} damaged'}"
    before = report.hidden - sum(damage.reason == "known" for damage in report.damage)
    if before:
        words += f"; {before} more {'was' if before == 1 else 'were'} taken out before (`fetcher ls`)"
    return words
