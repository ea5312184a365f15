"""Ourselves: the command line, whole, with everything on; and the transfer layer alone, which hashes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.running.lines import revision
from benchmarks.running.options import Base
from benchmarks.running.work import CHECKOUT, FEW_CONNECTIONS, Command, Rival, Way, Work

CONNECTIONS = 8
"""Of the transfer layer alone; the whole of fetcher is told nothing."""
CONNECTIONS_SMALL = 16
ENGINE = CHECKOUT / "benchmarks" / "programs" / "engine.py"


@dataclass(frozen=True, slots=True)
class Ours:
    """fetcher as it is in one checkout."""

    checkout: Path

    def program(self) -> tuple[str, ...]:
        """Of this checkout, whatever directory we are in."""
        return (sys.executable, "-P", "-m", "fetcher")

    def environment(self, work: Work) -> dict[str, str]:
        found = {
            "PYTHONPATH": str(self.checkout),
            "FETCHER_ALLOW_NET": work.allow_net,
            "FETCHER_CACHE_DIR": str(work.directory / "cache"),
        }
        if work.certificate is not None:
            found["SSL_CERT_FILE"] = str(work.certificate)
        return found

    def _get(self, work: Work, uri: str, *more: str, **environment: str) -> Command:
        arguments = (*self.program(), "get", uri, "--json", *more)
        return Command(arguments, self.environment(work) | environment, "cache/snapshots-v1/*/{name}")

    def get_file(self, work: Work) -> Command:
        """By its URL, as an operator types it."""
        return self._get(work, work.url)

    def get_without_hedges(self, work: Work) -> Command:
        return self._get(work, work.url, FETCHER_HEDGES_MAX="0")

    def get_repo(self, work: Work, *more: str) -> Command:
        return self._get(work, f"hf://{work.repo}", *more, HF_ENDPOINT=work.hub)

    def ask_repo(self, work: Work) -> Command:
        """Whether it has changed, too, which a hit does not ask for a day."""
        return self.get_repo(work, "--refresh")

    def get_s3(self, work: Work, *more: str) -> Command:
        where = f"s3://{work.bucket}/{work.prefix or work.names[0]}"
        return replace(self._get(work, where, *more, AWS_ENDPOINT_URL_S3=work.s3), output="cache/snapshots-v1/*/{base}")

    def ask_s3(self, work: Work) -> Command:
        return self.get_s3(work, "--refresh")

    def resume(self, work: Work) -> Command:
        """With as many connections as the others have."""
        limits = dict.fromkeys(("FETCHER_CONNECTIONS_MAX", "FETCHER_CONNECTIONS_PER_HOST_MAX"), str(FEW_CONNECTIONS))
        return self._get(work, f"hf://{work.repo}", HF_ENDPOINT=work.hub, **limits)

    def engine(self, work: Work) -> Command:
        return self._engine(work, CONNECTIONS, work.url, str(work.path))

    def engine_many(self, work: Work) -> Command:
        work.paths()
        # Names go by way of a file: five thousand of them are too long for a command line.
        names = work.directory.parent / f"{work.directory.name}.names"
        names.write_text("\n".join(work.names))
        where = ("--base", work.base, "--directory", str(work.directory), "--names", str(names))
        return self._engine(work, CONNECTIONS_SMALL, *where)

    def _engine(self, work: Work, connections: int, *arguments: str) -> Command:
        program = (sys.executable, "-P", str(ENGINE), "--connections", str(connections), *arguments)
        return Command(program, self.environment(work))


def rivals_of(base: Base | None = None) -> tuple[Rival, ...]:
    """Both of us, as we are here or at another revision."""
    checkout = base.checkout if base else CHECKOUT
    ours = Ours(checkout)
    ways: dict[Way, Callable[[Work], Command]] = {
        "file": ours.get_file,
        "repo": ours.get_repo,
        "s3": ours.get_s3,
        "resume": ours.resume,
    }
    verifies = "every byte: BLAKE3 per block, what the origin states of the whole; durable"

    def version() -> str:
        return f"fetcher {revision(checkout)}"

    def named(name: str) -> str:
        return base.twin_of(name) if base else name

    return (
        Rival(named("fetcher"), ways, version, verifies, shares=True),
        Rival(named("fetcher, no hedges"), {"file": ours.get_without_hedges}, version, verifies),
        Rival(named("fetcher --refresh"), {"repo": ours.ask_repo, "s3": ours.ask_s3}, version, verifies, shares=True),
        Rival(named("fetcher engine"), {"file": ours.engine, "files": ours.engine_many}, version),
    )


RIVALS = rivals_of()
