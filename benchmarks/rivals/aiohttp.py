"""aiohttp on uvloop as one would write it: 8 tasks, ranges of 16 MiB, each piece written where it belongs."""

from __future__ import annotations

from benchmarks.running.work import Command, Rival, Work, module_version, python, trusting


def file(work: Work) -> Command:
    return Command(python("aiohttp_get", work.url, str(work.path)), trusting(work))


RIVALS = (
    Rival("aiohttp", {"file": file}, module_version("aiohttp", "uvloop"), needs=("python:aiohttp", "python:uvloop")),
)
