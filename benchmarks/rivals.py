"""Everyone who can do the same work, each as the command line that a user would type, and nothing tuned.

A rival gets a repository on a hub and an empty directory. It runs as a process of its own; its CPU and memory are what
the kernel counted for it. Adding one costs a function of a few lines and a row in ``RIVALS``.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    sha256: str = ""
    """Of a lone file, for who takes it as an argument; the others ask the hub, or do without."""


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

# --- those that go on where they were ended --------------------------------------------------------------------------

CONNECTIONS = 4
"""For everybody who can have more than one: what the default of rclone is."""
DOWNLOADED = "model.safetensors"
"""The one file, where a rival is told the name."""


@dataclass(frozen=True, slots=True)
class Resumer:
    """A rival that is killed and started again with the same command, as its documentation says that it goes on."""

    command: Callable[[Work], Command]
    final: str
    """Glob, in its directory, of the name that says: here it is."""
    program: str | None = None
    module: str | None = None

    @property
    def missing(self) -> str | None:
        """What this machine lacks for it."""
        if self.program is not None and _program(self.program) is None:
            return f"{self.program} is not installed"
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed"
        return None


def fetcher_few(work: Work) -> Command:
    command = fetcher(work)
    limits = {f"FETCHER_{name}": str(CONNECTIONS) for name in ("CONNECTIONS_MAX", "CONNECTIONS_PER_HOST_MAX")}
    return replace(command, environment=command.environment | limits)


def aria2c(work: Work, *options: str) -> Command:
    """``--continue`` with its control file, which it saves each minute."""
    (path,) = work.files
    split = (f"--split={CONNECTIONS}", f"--max-connection-per-server={CONNECTIONS}")
    where = (f"--dir={work.directory}", f"--out={DOWNLOADED}", f"{work.endpoint}/{work.repo}/resolve/main/{path}")
    return Command((_program("aria2c") or "", "--no-conf", "--quiet", "--continue", *split, *options, *where), {})


def aria2c_saving(work: Work) -> Command:
    return aria2c(work, "--auto-save-interval=1")


def aria2c_told(work: Work) -> Command:
    """It is also told what the digest is, and to look at it."""
    return aria2c(work, "--auto-save-interval=1", "--check-integrity", f"--checksum=sha-256={work.sha256}")


def curl_continuing(work: Work) -> Command:
    """``--continue-at -``: from the length of what is there."""
    (path,) = work.files
    arguments = ("curl", "-q", "--silent", "--show-error", "--fail", "--location", "--continue-at", "-")
    target = str(work.directory / DOWNLOADED)
    return Command((*arguments, "--output", target, f"{work.endpoint}/{work.repo}/resolve/main/{path}"), {})


def rclone(work: Work) -> Command:
    """Over plain HTTP. It writes beside the name, with the suffix ``.partial``, over four streams."""
    (path,) = work.files
    source = (f"--http-url={work.endpoint}", f":http:{work.repo}/resolve/main/{path}")
    target = str(work.directory / DOWNLOADED)
    return Command((_program("rclone") or "", "copyto", *source, target), {"RCLONE_CONFIG": ""})


RESUMERS: dict[str, Resumer] = {
    "fetcher": Resumer(fetcher_few, "cache/snapshots-v1/*/model.safetensors"),
    "huggingface_hub": Resumer(
        huggingface_hub, "hf/hub/models--*/snapshots/*/model.safetensors", module="huggingface_hub"
    ),
    "aria2c": Resumer(aria2c, DOWNLOADED, program="aria2c"),
    "aria2c, saving each second": Resumer(aria2c_saving, DOWNLOADED, program="aria2c"),
    "aria2c, saving, told the sha256": Resumer(aria2c_told, DOWNLOADED, program="aria2c"),
    "rclone": Resumer(rclone, DOWNLOADED, program="rclone"),
    "curl": Resumer(curl_continuing, DOWNLOADED, program="curl"),
}


_PROGRAMS = {"curl": "curl", "curl --parallel": "curl"}


def available(name: str) -> bool:
    """Whether this machine can run the rival."""
    program = _PROGRAMS.get(name)
    return program is None or shutil.which(program) is not None


def _program(name: str) -> str | None:
    """Path of a program, also of one that came with a Python package."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
