"""What ``get``, ``job`` and ``prefetch`` share: running on an event loop, showing a plan, telling failures apart."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fetcher.cli.context import Context
from fetcher.cli.output import table
from fetcher.cli.progress import Reporter
from fetcher.errors import InterruptedByUser
from fetcher.model.quantities import format_size

if TYPE_CHECKING:
    from fetcher.client import Fetcher
    from fetcher.plan.fetch_plan import FetchPlan

R = TypeVar("R")

LINE_CHARACTERS = 100
"""Of a table, where no terminal says how wide it is."""


def run_on_loop(context: Context, main: Callable[[Fetcher], Coroutine[Any, Any, R]]) -> R:
    """Run ``main`` with an entered Fetcher and a display. Ctrl-C ends it with a sentence about what is kept; a reader
    that closes stdout ends it, too."""
    import asyncio

    from fetcher import client

    reporter = Reporter(context.output)

    async def entered() -> R:
        task = asyncio.current_task()
        assert task is not None
        reporter.on_reader_gone = task.cancel
        async with context.fetcher(on_event=reporter) as fetcher:
            return await main(fetcher)

    try:
        with reporter:
            return client.run(entered)
    except InterruptedByUser as error:
        raise InterruptedByUser(f"stopped; {reporter.kept()}", hint=error.hint) from None
    except asyncio.CancelledError:
        if not reporter.reader_gone:
            raise
        raise BrokenPipeError from None


def tell_plan(context: Context, plan: FetchPlan) -> None:
    """What ``--dry-run`` prints."""
    if context.output.json_lines:
        context.output.event(plan.as_json())
        return
    for line in plan_lines(plan):
        context.output.data(line)


def plan_lines(plan: FetchPlan) -> list[str]:
    """A plan for people: a line for each resource and image, and the sum."""
    value = plan.as_json()
    rows = [
        [
            item["resource"],
            (item["revision"] or "-")[:12],
            str(item["files"]),
            format_size(item["bytes"]),
            _words(item),
        ]
        for item in value["resources"]
    ]
    lines = table(["RESOURCE", "REVISION", "FILES", "SIZE", "TO FETCH"], rows, right=(2, 3)) if rows else []
    if plan.images:
        lines += [""] if lines else []
        lines += table(
            ["IMAGE", "SIZE", "TO PULL"],
            [[image.name, _size(image.bytes), _image_words(image.action)] for image in plan.images],
            right=(1,),
        )
        lines += ["", *reasons_of((image.name, image.reason) for image in plan.images if image.action == "skip")]
        lines += [""] if lines[-1] else []
    for item in value["evictions"]:
        lines.append(f"would remove {item['resource']} ({format_size(item['bytes'])}) to make room")
    if plan.bytes_to_copy:
        lines.append(f"{format_size(plan.bytes_to_copy)} more for copies that jobs may write to")
    fits = "fits" if value["fits"] else "does not fit"
    to_fetch, free = format_size(value["bytes_to_fetch"]), format_size(value["bytes_free"])
    return [*lines, f"{to_fetch} to fetch, {free} free: {fits}"]


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_size(size_bytes)


def _words(item: dict[str, Any]) -> str:
    if item["hit"]:
        return "hit"
    if item["bytes_to_fetch"] == item["bytes"]:
        return "all"
    return f"{format_size(item['bytes_to_fetch'])} in {item['files_to_fetch']} files"


def _image_words(action: str) -> str:
    return {"present": "present", "pull": "all", "skip": "skipped"}[action]


def reasons_of(skipped: Iterable[tuple[str, str | None]]) -> list[str]:
    """Why images are skipped, each reason once: it is most often the same for all, and long."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped:
        names.setdefault(reason or "nobody knows why", []).append(name)
    if len(names) == 1:
        return [f"images are skipped: {reason}" for reason in names]
    return [f"{', '.join(those)}: skipped: {reason}" for reason, those in names.items()]


def short_reason(reason: str | None) -> str:
    """The gist of a reason, for a table; whoever uses it tells the whole elsewhere."""
    gist = "" if reason is None else reason.splitlines()[0].partition(" (")[0]
    return gist.removesuffix(" answers")  # "no container engine": names of images leave little room


def table_in_width(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """A table that a terminal does not break: the last column gives way, its texts end with an ellipsis then."""
    whole = table(header, rows, right=right)
    width = _width()
    if max(len(line) for line in whole) <= width:
        return whole
    before = max(len(line) for line in table(header[:-1], [row[:-1] for row in rows], right=right)) + 2
    room = max(len(header[-1]) + 4, width - before)
    cut = [[*row[:-1], row[-1] if len(row[-1]) <= room else f"{row[-1][: room - 1].rstrip()}…"] for row in rows]
    return table(header, cut, right=right)


def _width() -> int:
    try:
        return int(os.environ.get("COLUMNS", "")) or os.get_terminal_size(sys.stdout.fileno()).columns
    except (ValueError, OSError, AttributeError):
        return LINE_CHARACTERS
