"""What a comparison says in the end: of a planted regression, of too few rounds, when interrupted, and of nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import __main__ as command_line
from benchmarks import compare
from benchmarks.origins import contents
from benchmarks.origins.nginx import Nginx
from benchmarks.report import moves
from benchmarks.report.cells import Row
from benchmarks.rivals import RIVALS
from benchmarks.rivals.fetcher import rivals_of
from benchmarks.running import lines
from benchmarks.running.machine import Conditions
from benchmarks.running.options import Base, Options
from benchmarks.running.race import Race
from benchmarks.running.work import Command, Rival, Unusable, Work
from benchmarks.scenarios import Scenario

CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
HEAD = Base("HEAD", CHECKOUT)
TWIN = "fetcher at HEAD"
COPYING = """
import mmap
from fetcher.cli.app import program
from fetcher.engine.disk import Disk

write = Disk.write


def copying(self, job, block, slab, length, written):
    copy = mmap.mmap(-1, length)
    copy[:] = slab.view[:length]
    write(self, job, block, slab, length, written)


Disk.write = copying
program()
"""
"""The program, but each block is copied once before it is written, into memory that nobody has touched before."""


@pytest.mark.needs("reference")
def test_a_planted_copy_of_each_block_into_fresh_memory_is_flagged(
    tmp_path: Path, root: Path, server: Nginx, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents.large(root / "file", 256 * MIB)
    (now,) = (rival for rival in rivals_of() if rival.name == "fetcher")
    get_file = now.ways["file"]

    def planted(work: Work) -> Command:
        command = get_file(work)
        after = command.arguments.index("get")
        arguments = (sys.executable, "-P", "-c", COPYING, *command.arguments[after:])
        return Command(arguments, command.environment, command.output)

    def raced(options: Options) -> Iterator[Row]:
        work = Work(server.plain, ("file",), sink)
        yield from Race("planted", options, "file", ("fetcher",), work, root, Conditions(), server).rows()

    monkeypatch.setitem(RIVALS, "fetcher", Rival("fetcher", {"file": planted}, lambda: "1"))
    monkeypatch.setitem(RIVALS, TWIN, Rival(TWIN, {"file": get_file}, lambda: "1"))
    (sink := tmp_path / "sink").mkdir()
    assert _compared(monkeypatch, tmp_path, raced) == 1
    assert re.search(r"\| planted \| fetcher \| CPU \| [^|]+ \| \*\*worse\*\* \|", capsys.readouterr().out)
    # And the other way round: who has lost the copies is better.
    rows = lines.read(tmp_path / "lines.jsonl")
    assert len(rows) == 2 * moves.ROUNDS_MIN and not any("failed" in row for row in rows)
    other = {"fetcher": TWIN, TWIN: "fetcher"}
    better = moves.moves([row | {"rival": other[row["rival"]]} for row in rows], HEAD)
    assert any(move.figure == "CPU" and move.beyond_noise and not move.worse for move in better)


def _rows(scenario: str, rounds: int, **figures: tuple[float, float]) -> list[Row]:
    """Of both, with these figures now and then in each round."""
    return [
        {"scenario": scenario, "rival": who, "round": number} | {name: pair[at] for name, pair in figures.items()}
        for number in range(rounds)
        for at, who in enumerate(("fetcher", TWIN))
    ]


def _all(scenarios: int, rounds: int) -> list[Row]:
    """Two figures of each scenario; of the first the wall clock has doubled."""
    rows = _rows("0", rounds, wall_s=(2.0, 1.0), cpu_s=(1.0, 1.0))
    for number in range(1, scenarios):
        rows += _rows(str(number), rounds, wall_s=(1.0, 1.0), cpu_s=(1.0, 1.0))
    return rows


def test_what_rounds_could_not_tell_even_if_all_agree_is_not_passed_over() -> None:
    found = moves.moves(_all(4, 8), HEAD)
    assert not any(move.significant for move in found)
    assert moves.too_few_rounds(found) == [
        "8 figures in 8 rounds can't be told from chance: more rounds, or fewer scenarios"
    ]
    # With six, the first threshold is met: what was found out needs no more rounds.
    found = moves.moves(_all(3, 8), HEAD)
    assert [move.worse for move in found] == [True] + [False] * 5
    assert moves.too_few_rounds(found) == []
    assert moves.too_few_rounds(moves.moves(_all(25, 12), HEAD)) == []
    # What is flagged when others have been, which had more rounds, is told after all.
    both = {"wall_s": (2.0, 1.0), "cpu_s": (2.0, 1.0)}
    eight = [row for scenario in "abc" for row in _rows(scenario, 8, **both)]
    found = moves.moves([*_rows("start", 30, wall_s=(2.0, 1.0)), *eight], HEAD)
    assert len(found) == 7 and all(move.worse for move in found) and moves.too_few_rounds(found) == []
    (too_few,) = moves.too_few_rounds(moves.moves(_all(1, 7), HEAD))
    assert too_few.startswith("2 figures in 7 rounds")


def test_what_can_not_move_raises_no_bar_for_what_can() -> None:
    rows = [
        row | {"rival": row["rival"].replace("fetcher", who, 1)}
        for who in ("fetcher --help", *moves.LEFT_OUT)
        for row in _rows("start", 8, wall_s=(2.0, 1.0), cpu_s=(1.0, 1.0))
    ]
    assert [(move.who, move.figure) for move in moves.moves(rows, HEAD)] == [
        ("fetcher --help", "wall"),
        ("fetcher --help", "CPU"),
    ]
    floor = {"rss_floor_mib": 34.0}
    at_floor = [row | floor for row in _rows("start", 8, rss_mib=(34.0, 34.3))]
    assert moves.moves(at_floor, HEAD) == []
    above = [row | floor for row in _rows("start", 8, rss_mib=(70.0, 34.0))]
    assert [move.worse for move in moves.moves(above, HEAD)] == [True]


def _compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Callable[[Options], Iterator[Row]], rounds: int = 8
) -> object:
    """Exit code of a comparison with one scenario, which does this; its base is not built."""
    left = []

    @contextmanager
    def checked_out(revision: str, parent: Path) -> Iterator[Base]:
        try:
            yield HEAD
        finally:
            left.append(revision)

    for name in ("end_when_asked", "compile_all"):
        monkeypatch.setattr(compare, name, lambda *arguments: None)
    monkeypatch.setattr(compare, "checked_out", checked_out)
    monkeypatch.setattr(compare, "SCENARIOS", {"planted": Scenario(run)})
    monkeypatch.setattr(compare, "RIVALS", dict(RIVALS))
    arguments = ("HEAD", "--scenario=planted", f"--rounds={rounds}", f"--output={tmp_path / 'lines.jsonl'}")
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    with pytest.raises(SystemExit) as ended:
        compare.main()
    assert left == ["HEAD"]
    return ended.value.code


def test_a_comparison_that_could_not_tell_ends_otherwise_than_one_that_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def many(options: Options) -> Iterator[Row]:
        yield from _all(4, options.rounds)

    assert _compared(monkeypatch, tmp_path, many) == 3
    assert "Not measured: 8 figures in 8 rounds can't be told" in capsys.readouterr().out
    assert _compared(monkeypatch, tmp_path, many, rounds=9) == 1
    said = capsys.readouterr()
    assert "Not measured" not in said.out and f"JSON lines: {tmp_path / 'lines.jsonl'}" in said.err

    def equals(options: Options) -> Iterator[Row]:
        yield from _rows("0", options.rounds, wall_s=(1.0, 1.0))

    assert _compared(monkeypatch, tmp_path, equals) == 0


def test_who_interrupts_a_comparison_sees_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: Options) -> Iterator[Row]:
        yield from _rows("http", options.rounds, wall_s=(2.0, 1.0))
        raise KeyboardInterrupt

    assert _compared(monkeypatch, tmp_path, interrupted) == 130
    said = capsys.readouterr()
    assert "| http | fetcher | wall | 2 (2–2) | **worse** |" in said.out
    assert "Interrupted." in said.err and str(tmp_path / "lines.jsonl") in said.err


def _nobody(options: Options) -> Iterator[Row]:
    raise Unusable("there is nothing here")
    yield {}


def _interrupted(options: Options) -> Iterator[Row]:
    raise KeyboardInterrupt
    yield {}


@pytest.mark.parametrize(("run", "code"), [(_nobody, (1, 3)), (_interrupted, (130, 130))])
def test_no_file_is_named_where_none_was_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Callable[[Options], Iterator[Row]],
    code: tuple[int, int],
) -> None:
    monkeypatch.setattr(command_line, "end_when_asked", lambda: None)
    monkeypatch.setattr(command_line, "compile_all", lambda checkout: None)
    monkeypatch.setattr(command_line, "SCENARIOS", {"planted": Scenario(run)})
    output = tmp_path / "lines.jsonl"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--scenario=planted", f"--output={output}"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == code[0]
    assert _compared(monkeypatch, tmp_path, run) == code[1]
    assert not output.exists() and "JSON lines" not in capsys.readouterr().err
