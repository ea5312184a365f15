"""Every test of this room that asks for ``core`` runs on the readable twin and on each kernel of the compiled core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.native.cores import Core, all_cores


@pytest.fixture(params=all_cores())
def core(request: pytest.FixtureRequest) -> Iterator[Core]:
    chosen: Any = request.param
    before = chosen.simd()
    chosen.set_simd(chosen.kernel)
    yield chosen
    chosen.set_simd(before)
