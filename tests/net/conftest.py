"""The tests of the contract run against both transports."""

from __future__ import annotations

import pytest

from tests.net import wiring


@pytest.fixture(params=list(wiring.BOTH))
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test twice: ``wiring.transport`` makes the one, then the other. For ``pytestmark``."""
    monkeypatch.setattr(wiring, "under_test", wiring.BOTH[request.param])
    name: str = request.param
    return name
