"""A rival that is there and can't be run is listed with its reason, and costs only itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as suite
from benchmarks.rivals import RIVALS
from benchmarks.running import machine, race, work
from benchmarks.running.machine import Conditions, Failed
from benchmarks.running.options import Options
from benchmarks.running.work import Command
from benchmarks.scenarios import SCENARIOS

NO_PROGRAM = "#!/no/such/interpreter"


def _in_place_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: str, *, version_max_s: float = 20.0
) -> str:
    """A program that everybody finds under this name."""
    (path := tmp_path / name).write_text(content)
    path.chmod(0o755)
    find = work.find_program
    monkeypatch.setattr(work, "find_program", lambda asked: str(path) if asked == name else find(asked))
    monkeypatch.setattr(work, "VERSION_MAX_S", version_max_s)
    return str(path)


@pytest.mark.parametrize(
    ("content", "patience_s", "reason"),
    [
        (f"{NO_PROGRAM}\n", 20.0, "No such file or directory"),
        ("\x7fELF of another machine", 20.0, "Exec format error"),
        ("#!/bin/sh\necho 'curl: command not found' >&2; exit 127\n", 20.0, "ended with 127: curl: command not found"),
        ("#!/bin/sh\nexec sleep 50\n", 0.2, "it does not say its version within 0.2 s"),
    ],
)
def test_a_rival_that_is_here_and_can_not_be_run_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, patience_s: float, reason: str
) -> None:
    path = _in_place_of(monkeypatch, tmp_path, "curl", content, version_max_s=patience_s)
    expected = f"{path} can't be run: {reason}"
    other = work.Rival("other", {"file": lambda work: Command(("true",))}, lambda: "1")
    monkeypatch.setitem(RIVALS, "other", other)
    rows = list(race.in_turns({}, 1, ("curl", "other"), lambda name, round_number: {}))
    assert [(row["rival"], row.get("missing")) for row in rows] == [("curl", expected), ("other", None)]
    monkeypatch.setattr(suite, "RIVALS", {"curl": RIVALS["curl"]})
    monkeypatch.setattr(suite, "ORIGINS", {})
    assert f"{'curl':42} {expected}; verifies" in suite._listing()
    (row,) = SCENARIOS["kill"].run(Options(rounds=1, kill_bytes=1 << 20, disk=tmp_path, rivals=("curl",)))
    assert row["missing"] == expected


def test_a_module_without_its_metadata_is_missing() -> None:
    rival = work.Rival("new", {}, work.module_version("benchmarks-have-no-such-package"), needs=("python:benchmarks",))
    assert rival.missing == "No package metadata was found for benchmarks-have-no-such-package"


def test_a_command_that_can_not_be_run_is_its_rivals_failure() -> None:
    with pytest.raises(Failed, match=r"^/no/such/program can't be run: No such file or directory$"):
        machine.run(Command(("/no/such/program",)), Conditions())
