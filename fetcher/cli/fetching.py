"""What ``get`` and ``job`` share: running on an event loop, showing a plan, telling failures apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fetcher.cli.context import Context
from fetcher.cli.output import table
from fetcher.cli.progress import Reporter
from fetcher.errors import FetcherError, InterruptedByUser
from fetcher.model.quantities import format_size
from fetcher.model.resource import Resource

if TYPE_CHECKING:
    from fetcher.client import Fetcher
    from fetcher.engine.asks import Outcome
    from fetcher.model.asker import Role
    from fetcher.plan.fetch_plan import FetchPlan

R = TypeVar("R")


def run_on_loop(context: Context, main: Callable[[Fetcher], Coroutine[Any, Any, R]]) -> R:
    """Run ``main`` with an entered Fetcher and a display. Ctrl-C ends it with a sentence about what is kept."""
    from fetcher import client

    reporter = Reporter(context.output)

    async def entered() -> R:
        async with context.fetcher(on_event=reporter) as fetcher:
            return await main(fetcher)

    try:
        with reporter:
            return client.run(entered)
    except InterruptedByUser as error:
        raise InterruptedByUser(f"stopped; {reporter.kept()}", hint=error.hint) from None


async def fetch_each(fetcher: Fetcher, resources: Sequence[Resource], role: Role) -> list[Outcome | FetcherError]:
    """Every resource in one run; when one fails, the others in another run, which goes on where the first ended."""
    results: dict[int, Outcome | FetcherError] = {}
    pending = list(range(len(resources)))
    while pending:
        try:
            outcomes = await fetcher.fetch_all([(resources[index], role) for index in pending])
        except InterruptedByUser:
            raise
        except FetcherError as first:
            for error in (first, *first.also):
                blamed = [index for index in pending if resources[index].uri() == error.resource]
                for index in blamed or (pending if error is first else ()):
                    failure = copy.copy(error)
                    failure.resource, failure.also = resources[index].uri(), ()
                    results[index] = failure
                pending = [index for index in pending if index not in results]
        else:
            results.update(zip(pending, outcomes, strict=True))
            break
    return [results[index] for index in range(len(resources))]


def tell_plan(context: Context, plan: FetchPlan) -> None:
    """What ``--dry-run`` prints."""
    value = plan.as_json()
    if context.output.json_lines:
        context.output.event(value)
        return
    rows = [
        [
            item["resource"],
            (item["revision"] or "-")[:12],
            str(item["files"]),
            format_size(item["bytes"]),
            "hit" if item["hit"] else f"{format_size(item['bytes_to_fetch'])} in {item['files_to_fetch']} files",
        ]
        for item in value["resources"]
    ]
    for line in table(["RESOURCE", "REVISION", "FILES", "SIZE", "TO FETCH"], rows, right=(2, 3)):
        context.output.data(line)
    for item in value["evictions"]:
        context.output.data(f"would remove {item['resource']} ({format_size(item['bytes'])}) to make room")
    fits = "fits" if value["fits"] else "does not fit"
    to_fetch, free = format_size(value["bytes_to_fetch"]), format_size(value["bytes_free"])
    context.output.data(f"{to_fetch} to fetch, {free} free: {fits}")
