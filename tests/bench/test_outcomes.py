"""What a run ends with: exit codes of what got worse and of what could not be measured; and that nobody pays for
compiling our modules in his first round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import __main__ as suite
from benchmarks import compare
from benchmarks.rivals import RIVALS
from benchmarks.running.options import Base, Options
from benchmarks.running.race import Row
from benchmarks.running.work import CHECKOUT, Unusable
from benchmarks.scenarios import SCENARIOS, Scenario

BASE = Base("v1", Path("/nowhere"))
Run = Callable[[Options], Iterator[Row]]


def _rows(who: str, taken_s: float) -> Iterator[Row]:
    for number in range(8):
        yield {"rival": who, "round": number, "wall_s": taken_s, "cpu_s": taken_s, "rss_mib": 50.0}


def _equal(options: Options) -> Iterator[Row]:
    yield from _rows("fetcher", 1.0)
    yield from _rows("fetcher at v1", 1.0)


def _worse(options: Options) -> Iterator[Row]:
    yield from _rows("fetcher", 2.0)
    yield from _rows("fetcher at v1", 1.0)


def _impossible(options: Options) -> Iterator[Row]:
    raise Unusable("there is no nginx")
    yield {}


def _failing(options: Options) -> Iterator[Row]:
    yield from _rows("fetcher at v1", 1.0)
    yield {"rival": "fetcher", "failed": "ended with 1"}


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order; nothing is checked out, compiled, or asked of the process that runs the tests."""
    found: list[str] = []

    @contextmanager
    def checked_out(revision: str, parent: Path) -> Iterator[Base]:
        yield BASE

    monkeypatch.setattr(compare, "checked_out", checked_out)
    monkeypatch.setattr(compare, "RIVALS", dict(RIVALS))
    for module in (suite, compare):
        monkeypatch.setattr(module, "end_when_asked", lambda: None)
        monkeypatch.setattr(module, "compile_all", lambda checkout: found.append(f"compiled {checkout}"))
    return found


def _scenarios(monkeypatch: pytest.MonkeyPatch, events: list[str], **runs: Run) -> None:
    def noted(name: str, run: Run) -> Run:
        def measured(options: Options) -> Iterator[Row]:
            events.append(f"measured {name}")
            yield from run(options)

        return measured

    some = {name: Scenario(noted(name, run)) for name, run in runs.items()}
    for module in (suite, compare):
        monkeypatch.setattr(module, "SCENARIOS", {**SCENARIOS, **some})


def _exit_code(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.parametrize(
    ("run", "code", "said"),
    [
        (_equal, 0, ()),
        (_worse, 1, ()),
        (_impossible, 3, ("http: there is no nginx",)),
        (_failing, 3, ("http: fetcher: ended with 1", "http: has no figures to compare")),
    ],
)
def test_a_comparison_says_by_its_exit_code_what_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    events: list[str],
    run: Run,
    code: int,
    said: tuple[str, ...],
) -> None:
    _scenarios(monkeypatch, events, http=run)
    arguments = ("v1", "--scenario=http", f"--output={tmp_path / 'lines.jsonl'}")
    assert _exit_code(monkeypatch, compare.main, *arguments) == code
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Not measured: ")]
    assert told == [f"Not measured: {reason}" for reason in said]


def test_what_got_worse_counts_more_than_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], events: list[str]
) -> None:
    _scenarios(monkeypatch, events, http=_worse, disk=_impossible)
    arguments = ("v1", "--scenario=http", "--scenario=disk", f"--output={tmp_path / 'lines.jsonl'}")
    assert _exit_code(monkeypatch, compare.main, *arguments) == 1
    assert "Not measured: disk: there is no nginx" in capsys.readouterr().out


def test_both_revisions_are_compiled_before_anybody_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[str]
) -> None:
    _scenarios(monkeypatch, events, http=_equal)
    _exit_code(monkeypatch, compare.main, "v1", "--scenario=http", f"--output={tmp_path / 'lines.jsonl'}")
    assert events == [f"compiled {CHECKOUT}", f"compiled {BASE.checkout}", "measured http"]


def test_a_run_compiles_before_it_measures_and_fails_for_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], events: list[str]
) -> None:
    _scenarios(monkeypatch, events, disk=_impossible)
    assert _exit_code(monkeypatch, suite.main, "--scenario=disk", f"--output={tmp_path / 'lines.jsonl'}") == 1
    assert events == [f"compiled {CHECKOUT}", "measured disk"]
    assert "Not measured: disk: there is no nginx" in capsys.readouterr().out


def test_compiling_is_of_the_product_and_of_the_suite(tmp_path: Path) -> None:
    for package in ("fetcher", "benchmarks"):
        (tmp_path / package / "inner").mkdir(parents=True)
        (tmp_path / package / "inner" / "module.py").write_text("answer = 42\n")
    suite.compile_all(tmp_path)
    for package in ("fetcher", "benchmarks"):
        assert list((tmp_path / package / "inner" / "__pycache__").glob("module.*.pyc"))
