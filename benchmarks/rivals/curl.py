"""curl: one connection per file; with ``--parallel`` up to 16 files at once."""

from __future__ import annotations

from benchmarks.running.work import Command, Rival, Work, program_version, write_lines

QUIET = ("curl", "-q", "--silent", "--show-error", "--fail", "--location")
PARALLEL = 16


def _trust(work: Work) -> tuple[str, ...]:
    return () if work.certificate is None else ("--cacert", str(work.certificate))


def file(work: Work) -> Command:
    return Command((*QUIET, *_trust(work), "--output", str(work.path), work.url))


def files(work: Work) -> Command:
    return _many(work, work.base)


def repo(work: Work) -> Command:
    """It has to be told the names; the others ask for the list."""
    return _many(work, f"{work.hub}/{work.repo}/resolve/main")


def _many(work: Work, base: str) -> Command:
    lines = [line for name, path in work.paths().items() for line in (f'url = "{base}/{name}"', f'output = "{path}"')]
    config = write_lines(work, "curl.config", lines)
    parallel = ("--parallel", "--parallel-max", str(PARALLEL))
    return Command((*QUIET, *_trust(work), *parallel, "--config", config))


def resume(work: Work) -> Command:
    """``--continue-at -``: from the length of what is there."""
    return Command((*QUIET, "--continue-at", "-", "--output", str(work.path), work.url))


RIVALS = (
    Rival("curl", {"file": file, "resume": resume}, program_version("curl"), needs=("curl",)),
    Rival("curl --parallel", {"files": files, "repo": repo}, program_version("curl"), needs=("curl",)),
)
