"""``fetcher prefetch``: what a market requires is made present, resources and images, each item for itself."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fetcher.cli.context import Context, value_of
from fetcher.errors import FetcherError, PartialError, UsageError
from fetcher.model.json_text import TEXT_BYTES_MAX
from fetcher.model.market import MarketList, market_fault, parse_market
from fetcher.model.pins import market_pin, pin_name
from fetcher.model.quantities import format_duration, format_size
from fetcher.model.text import shown

if TYPE_CHECKING:
    from fetcher.client import Fetcher
    from fetcher.engine.market_lists import MarketSource
    from fetcher.engine.prefetch import PrefetchItem, PrefetchReport
    from fetcher.plan.fetch_plan import FetchPlan

_LIST_URL = re.compile(r"/markets/([A-Za-z0-9-]+)/required-resources/?$")
"""How the published addresses end: the market is told from them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "list", metavar="MARKET|URL|FILE|-", help="a market's address, or where its list is; - reads stdin"
    )
    parser.add_argument(
        "--pin",
        metavar="NAME",
        type=value_of(pin_name),
        help="keep the items under this name (default: market:<address>)",
    )
    parser.add_argument("--no-images", action="store_true", help="leave the container images to the node")
    parser.epilog = (
        "Items are independent: what can't be had is told, and the exit code is 11. Items that the market "
        "has dropped are no longer pinned. A list from a file or stdin is pinned only with --pin."
    )


def run(context: Context) -> int:
    place: str = context.options.list
    listed: list[MarketList] = []
    try:
        document = None if _names_a_market(place) else _document(place)
        report = _run(context, place, document, listed)
    except FetcherError as error:
        if not context.output.json_lines:
            raise
        # The summary is the last line, whatever happens: nothing of the list is known to be here.
        for each in (error, *error.also):
            context.output.error(each)
        _summarize(context, [item for market in listed for item in _undone(market, error)])
        return error.exit_code
    _tell(context, report)
    return exit_code_of(report)


def _run(context: Context, place: str, document: bytes | None, listed: list[MarketList]) -> PrefetchReport:
    from fetcher.cli.fetching import run_on_loop

    return run_on_loop(context, lambda fetcher: _prefetch(context, fetcher, place, document, listed))


def _names_a_market(place: str) -> bool:
    """Whether ``place`` is a market or a URL; else a file. Raises UsageError for what is neither."""
    if place == "-" or re.match(r"https?://", place, re.IGNORECASE):
        return place != "-"
    if "://" in place:
        raise UsageError(
            f"{shown(place)} is a resource, not a list",
            hint="fetcher get takes resources; prefetch a market or its list",
        )
    if "/" in place or "." in place or os.path.exists(place):
        return False
    fault = market_fault(place)
    if fault:
        raise UsageError(fault, hint="give a market's address, the URL of its list, a file, or - for stdin")
    return True


def _document(place: str) -> bytes:
    try:
        if place == "-":
            return b"" if sys.stdin is None else sys.stdin.buffer.read(TEXT_BYTES_MAX + 1)
        with open(place, "rb") as file:
            return file.read(TEXT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"can't read {shown(place)}: {reason}", hint="name a file with a market's list") from None


def _pin_of(context: Context, place: str, *, document: bool) -> str | None:
    """The pin's name: given, or of the market, or none."""
    given: str | None = context.options.pin
    if given is not None or document:
        return given
    if "://" not in place:
        return market_pin(place)
    match = _LIST_URL.search(place.partition("?")[0])
    return market_pin(match[1]) if match else None


async def _prefetch(
    context: Context, fetcher: Fetcher, place: str, document: bytes | None, listed: list[MarketList]
) -> PrefetchReport:
    """``listed`` gets the list as soon as it is known, for whoever has to tell of an end in between."""
    source: MarketSource | MarketList
    if document is not None:
        source = parse_market(document)
        listed.append(source)
    else:
        source = await fetcher.market_list(place, keep=not context.dry_run)
        listed.append(source.list)
        _mention_age(context, source)
    images = not context.options.no_images
    if context.dry_run:
        report = await fetcher.plan_prefetch(source, images=images)
        _tell_plan(context, report.plan)
        return report
    pin = _pin_of(context, place, document=document is not None)
    report = await fetcher.prefetch(source, pin=pin, images=images, on_plan=lambda plan: _tell_plan(context, plan))
    _mention_private(context, pin, sum(item.private for item in report.items))
    if pin is None:
        context.output.say("note: nothing is pinned; --pin NAME keeps the items beyond their time")
    elif report.holds_on is not None:
        context.output.say(f"note: what is no longer on the list stays pinned as {pin}, as {report.holds_on}")
    elif report.unpinned:
        items = "1 item that is" if report.unpinned == 1 else f"{report.unpinned} items that are"
        context.output.say(f"note: {items} no longer on the list: no longer pinned as {pin}")
    return report


def _mention_private(context: Context, pin: str | None, count: int) -> None:
    """Whoever prefetches for jobs wants to know that jobs are not given it."""
    if count and pin is not None and pin.startswith(market_pin("")) and pin not in context.settings.shared_pins:
        items = "1 item is" if count == 1 else f"{count} items are"
        context.output.say(
            f"note: {items} private, and given to jobs that have access themselves; share = true below "
            f'[pins."{pin}"] in the configuration file opens them to all jobs of the market'
        )


def _mention_age(context: Context, source: MarketSource) -> None:
    if source.kept_since is not None:
        age = format_duration(max(0.0, time.time() - source.kept_since))
        context.output.say(f"note: the list of {age} ago is used, as no current one can be had: {source.reason}")
    if source.not_kept is not None:
        context.output.say(f"note: the list could not be kept for a day without its endpoint: {source.not_kept}")


def _tell_plan(context: Context, plan: FetchPlan) -> None:
    """Before the first byte: on stdout only where it is the answer (``--dry-run``), or an event among others."""
    from fetcher.cli.fetching import plan_lines

    if context.output.json_lines:
        context.output.event(plan.as_json())
        return
    for line in plan_lines(plan):
        if context.dry_run:
            context.output.data(line)
        else:
            context.output.say(line)


def _tell(context: Context, report: PrefetchReport) -> None:
    from fetcher.cli.fetching import short_reason, table_in_width

    for item in report.failed:
        if item.error is not None:
            context.output.error(item.error)
    if context.output.json_lines:
        _summarize(context, [item_json(item) for item in report.items])
        return
    if not report.items:
        context.output.say("the market requires nothing")
    if context.dry_run or not report.items:
        return
    rows = [
        [
            item.resource.removeprefix("docker://"),
            item.status,
            "-" if item.bytes is None else format_size(item.bytes),
            short_reason(item.reason) if item.error is None else item.error.kind.replace("_", " "),
        ]
        for item in report.items
    ]
    if report.failed:
        context.output.say("")
    for line in table_in_width(["RESOURCE", "STATUS", "SIZE", "REASON"], rows, right=(2,)):
        context.output.data(line)


def _summarize(context: Context, items: Sequence[dict[str, Any]]) -> None:
    context.output.event({"event": "summary", "items": items})


def _undone(market: MarketList, error: FetcherError) -> list[dict[str, Any]]:
    """All items of a list, of which ``error`` has ended everything."""
    ends = [(item.label, item.kind, item.fault) for item in market.resources]
    ends += [(image.image.uri() if image.image else image.label, "image", image.fault) for image in market.images]
    return [
        {"resource": name, "kind": kind, "status": "failed", "bytes": None, "reason": (fault or error).message}
        for name, kind, fault in ends
    ]


def item_json(item: PrefetchItem) -> dict[str, Any]:
    """One item of the ``summary`` object."""
    return {
        "resource": item.resource,
        "kind": item.kind,
        "status": item.status,
        "bytes": item.bytes,
        "reason": item.reason,
    }


def exit_code_of(report: PrefetchReport) -> int:
    """0 if nothing failed; the kind's own code if everything failed by one kind; else that of "some failed"."""
    failures: list[FetcherError] = [item.error for item in report.failed if item.error is not None]
    if not failures:
        return 0
    codes = {error.exit_code for error in failures}
    if len(failures) == len(report.items) and len(codes) == 1:
        return codes.pop()
    return PartialError.exit_code
