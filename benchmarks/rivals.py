"""Everyone who can do the same work, each as the command line that a user would type, and nothing tuned.

A rival gets a repository on a hub and an empty directory. It runs as a process of its own; its CPU and memory are what
the kernel counted for it. Adding one costs a function of a few lines and a row in ``RIVALS``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be fetched, and where to."""

    endpoint: str
    repo: str
    files: tuple[str, ...]
    """Paths in the repository: curl has to be told them, the others ask for the list."""
    directory: Path
    """Empty; the rival may write nowhere else."""


@dataclass(frozen=True, slots=True)
class Command:
    """A process to run."""

    arguments: tuple[str, ...]
    environment: dict[str, str]


def fetcher_environment(endpoint: str, directory: Path) -> dict[str, str]:
    """Settings for a cold cache in ``directory``, allowed to ask the loopback origin."""
    return {
        "PYTHONPATH": str(CHECKOUT),
        "HF_ENDPOINT": endpoint,
        "FETCHER_ALLOW_NET": "127.0.0.0/8",
        "FETCHER_CACHE_DIR": str(directory / "cache"),
    }


def fetcher(work: Work) -> Command:
    arguments = (sys.executable, "-m", "fetcher", "get", f"hf://{work.repo}", "--json")
    return Command(arguments, fetcher_environment(work.endpoint, work.directory))


def curl(work: Work) -> Command:
    """One connection, file after file. Verifies nothing, and leaves it to the kernel when bytes reach the disk."""
    return _curl(work)


def curl_parallel(work: Work) -> Command:
    """The same with up to 16 transfers at once, as many as fetcher's default."""
    return _curl(work, "--parallel", "--parallel-max", "16")


def _curl(work: Work, *options: str) -> Command:
    lines = []
    for path in work.files:
        target = work.directory / "curl" / path
        lines += [f'url = "{work.endpoint}/{work.repo}/resolve/main/{path}"', f'output = "{target}"']
    config = work.directory / "curl.config"
    config.write_text("\n".join(lines) + "\n")
    arguments = ("curl", "-q", "--silent", "--show-error", "--fail", "--location", "--create-dirs", *options)
    return Command((*arguments, "--config", str(config)), {})


def huggingface_hub(work: Work) -> Command:
    """The official client over plain HTTP: the embedded hub speaks no Xet."""
    script = f"from huggingface_hub import snapshot_download; snapshot_download({work.repo!r})"
    environment = {
        "HF_ENDPOINT": work.endpoint,
        "HF_HOME": str(work.directory / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return Command((sys.executable, "-c", script), environment)


RIVALS: dict[str, Callable[[Work], Command]] = {
    "fetcher": fetcher,
    "curl": curl,
    "curl --parallel": curl_parallel,
    "huggingface_hub": huggingface_hub,
}

_PROGRAMS = {"curl": "curl", "curl --parallel": "curl"}


def available(name: str) -> bool:
    """Whether this machine can run the rival."""
    program = _PROGRAMS.get(name)
    return program is None or shutil.which(program) is not None
