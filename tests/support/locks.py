"""A file system whose flock proves nothing: it always succeeds, in this process and in others that ask for it.

As on network file systems that take locks for this machine only, or not at all. Record locks stay honest.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "FETCHER_TEST_VOID_FLOCK_BELOW"
"""Tells a child process below which directory."""

_REAL: Callable[..., Any] = fcntl.flock


def void_flock(directory: Path | str) -> Callable[[Any, int], None]:
    """A flock that does nothing to files below ``directory``."""
    top = os.path.realpath(directory) + "/"

    def flock(file: Any, operation: int) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith(top):
            _REAL(file, operation)

    return flock


def obey() -> None:
    """In a child process: do as the environment says."""
    if directory := os.environ.get(VARIABLE):
        fcntl.flock = void_flock(directory)
