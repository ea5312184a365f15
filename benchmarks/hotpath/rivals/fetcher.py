"""Ourselves: the command line, whole, with everything on; and the transfer layer alone, which hashes nothing."""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.hotpath.work import CHECKOUT, Command, Rival, Work, module_version, python

CONNECTIONS = 8
"""Of the transfer layer alone; the whole of fetcher is told nothing."""
CONNECTIONS_SMALL = 16


def _environment(work: Work) -> dict[str, str]:
    found = {
        "PYTHONPATH": str(CHECKOUT),
        "FETCHER_ALLOW_NET": work.allow_net,
        "FETCHER_CACHE_DIR": str(work.directory / "cache"),
    }
    if work.certificate is not None:
        found["SSL_CERT_FILE"] = str(work.certificate)
    return found


def _get(work: Work, uri: str, **environment: str) -> Command:
    arguments = (sys.executable, "-m", "fetcher", "get", uri, "--json")
    return Command(arguments, _environment(work) | environment, "cache/snapshots-v1/*/{name}")


def get_file(work: Work) -> Command:
    """By its URL, as an operator types it."""
    return _get(work, work.url)


def get_repo(work: Work) -> Command:
    return _get(work, f"hf://{work.repo}", HF_ENDPOINT=work.hub)


def get_s3(work: Work) -> Command:
    where = f"s3://{work.bucket}/{work.prefix or work.names[0]}"
    command = _get(work, where, AWS_ENDPOINT_URL_S3=work.s3)
    return replace(command, output="cache/snapshots-v1/*/{base}")


def engine(work: Work) -> Command:
    arguments = ("--connections", str(CONNECTIONS), work.url, str(work.path))
    return Command(python("engine", *arguments), _environment(work))


def engine_many(work: Work) -> Command:
    work.paths()
    arguments = ("--connections", str(CONNECTIONS_SMALL), "--base", work.base, "--directory", str(work.directory))
    # Names go by way of a file: five thousand of them are too long for a command line.
    names = work.directory.parent / f"{work.directory.name}.names"
    names.write_text("\n".join(work.names))
    return Command(python("engine", *arguments, "--names", str(names)), _environment(work))


def get_without_hedges(work: Work) -> Command:
    return _get(work, work.url, FETCHER_HEDGES_MAX="0")


RIVALS = (
    Rival(
        "fetcher",
        {"file": get_file, "repo": get_repo, "s3": get_s3},
        module_version("fetcher"),
        verifies="every byte: BLAKE3 per block, what the origin states of the whole; durable",
    ),
    Rival("fetcher, no hedges", {"file": get_without_hedges}, module_version("fetcher")),
    Rival("fetcher engine", {"file": engine, "files": engine_many}, module_version("fetcher")),
)
