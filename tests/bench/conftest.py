"""An nginx as the races have it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.origins.nginx import Nginx, nginx


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def server(tmp_path: Path, root: Path) -> Iterator[Nginx]:
    with nginx(tmp_path / "nginx", root) as running:
        yield running
