"""hf_transfer: huggingface_hub's downloader in Rust. Verifies nothing; ``sha256sum`` afterwards does."""

from __future__ import annotations

from benchmarks.running.work import Command, Rival, Work, module_version, python, trusting

OPEN_FILES = 8


def file(work: Work) -> Command:
    return Command(python("hf_transfer_get", str(OPEN_FILES), work.url, str(work.path)), trusting(work))


def repo(work: Work) -> Command:
    """The files one after another, as huggingface_hub called it; it splits each."""
    return Command(python("hf_transfer_get", str(OPEN_FILES), *_pairs(work)), trusting(work))


def repo_then_summed(work: Work) -> Command:
    fetch = python("hf_transfer_get", str(OPEN_FILES), *_pairs(work))
    summed = " ".join(str(work.directory / name) for name in work.names)
    script = '"$@" && exec sha256sum $SUMMED >/dev/null'
    return Command(("sh", "-c", script, "sh", *fetch), trusting(work) | {"SUMMED": summed})


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
)
