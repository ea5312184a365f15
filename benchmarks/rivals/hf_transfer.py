"""hf_transfer: huggingface_hub's downloader in Rust. Verifies nothing; ``sha256sum`` or ``openssl`` afterwards do.

``sha256sum`` is what is at hand. That of Debian 12 uses none of the CPU's instructions for SHA; OpenSSL does, and is
asked for as many files at once as there are cores: the least that verifying afterwards costs.
"""

from __future__ import annotations

import os

from benchmarks.running.work import Command, Rival, Work, module_version, python, trusting

OPEN_FILES = 8
"""Better than the 100 that huggingface_hub gave it: 2.6 and 3.1 s for 4 GiB from loopback, medians of six."""


def file(work: Work) -> Command:
    return Command(python("hf_transfer_get", str(OPEN_FILES), work.url, str(work.path)), trusting(work))


def repo(work: Work) -> Command:
    """The files one after another, as huggingface_hub called it; it splits each."""
    return Command(python("hf_transfer_get", str(OPEN_FILES), *_pairs(work)), trusting(work))


def repo_then_summed(work: Work) -> Command:
    return _repo_then(work, "exec sha256sum $SUMMED >/dev/null")


def repo_then_openssl(work: Work) -> Command:
    together = len(os.sched_getaffinity(0))
    return _repo_then(work, f"printf '%s\\n' $SUMMED | xargs -n 1 -P {together} openssl dgst -sha256 >/dev/null")


def _repo_then(work: Work, script: str) -> Command:
    fetch = python("hf_transfer_get", str(OPEN_FILES), *_pairs(work))
    summed = " ".join(str(work.directory / name) for name in work.names)
    return Command(("sh", "-c", f'"$@" && {script}', "sh", *fetch), trusting(work) | {"SUMMED": summed})


def _pairs(work: Work) -> list[str]:
    return [text for name, path in work.paths().items() for text in (f"{work.base}/{name}", str(path))]


RIVALS = (
    Rival(
        "hf_transfer",
        {"file": file, "repo": repo},
        module_version("hf_transfer"),
        needs=("python:hf_transfer",),
    ),
    Rival(
        "hf_transfer, then sha256sum",
        {"repo": repo_then_summed},
        module_version("hf_transfer"),
        verifies="SHA-256 afterwards",
        needs=("python:hf_transfer", "sha256sum"),
    ),
    Rival(
        "hf_transfer, then openssl",
        {"repo": repo_then_openssl},
        module_version("hf_transfer"),
        verifies="SHA-256 afterwards, a file per core",
        needs=("python:hf_transfer", "openssl", "xargs"),
    ),
)
