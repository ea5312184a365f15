"""C programs of this folder, compiled on the spot into a temporary directory of this process."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.running.work import CHECKOUT, Unusable, program_version

CORE = CHECKOUT / "fetcher" / "_native" / "core"
FLAGS = ("-std=gnu11", "-O3", "-Wall", "-Wextra", "-D_FILE_OFFSET_BITS=64")
"""As the product's own core is compiled (setup.py), so that nobody hashes faster by a flag."""


@dataclass(frozen=True, slots=True)
class Program:
    """One C program."""

    source: str
    core: tuple[str, ...] = ()
    """Globs of what it takes of fetcher's core."""
    libraries: tuple[str, ...] = ()

    def build(self) -> Path:
        """The program; compiled when it is first asked for. Raises Unusable with what the compiler said."""
        return _build(self)

    def version(self) -> str:
        """The compiler's. Raises Unusable."""
        return program_version("gcc")()


@cache
def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="fetcher-bench-built-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@cache
def _build(program: Program) -> Path:
    source = CHECKOUT / "benchmarks" / "native" / program.source
    built = _directory() / source.stem
    core = [str(path) for pattern in program.core for path in sorted(CORE.glob(pattern))]
    libraries = [f"-l{name}" for name in program.libraries]
    arguments = ["gcc", *FLAGS, f"-I{CORE}", str(source), *core, "-o", str(built), *libraries]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unusable(f"{program.source} could not be compiled (libssl-dev is needed for OpenSSL):\n{done.stderr}")
    return built


REFERENCE = Program("reference.c", ("blake3_*.c", "block_*.c", "file_*.c", "sha256_*.c"), ("ssl", "crypto", "pthread"))
EMULATOR = Program("emulator.c", (), ("pthread",))
