"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from fetcher.cache.records import Snapshot
from fetcher.model.resource import HF
from tests.cli.support import Program, stock


@pytest.fixture
def program(isolated_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache_dir: Path) -> Program:
    """The program in-process, on a cache of this test's own."""
    isolated_environment.setenv("FETCHER_CACHE_DIR", str(cache_dir))
    # An address that answers nobody: what is not in the cache fails at once, and never leaves the machine.
    isolated_environment.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    isolated_environment.setenv("FETCHER_SPACE_FLOOR_BYTES", "0")
    return Program(capsys)


@pytest.fixture
def tiny(program: Program) -> Snapshot:
    """``hf://acme/tiny``, downloaded a moment ago."""
    return stock(HF("acme/tiny"))
