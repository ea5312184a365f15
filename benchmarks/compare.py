"""Two revisions of fetcher in one run, in turns: `python -m benchmarks.compare BASE`, and which figures have moved.

BASE (anything that git takes for a commit) is checked out and built beside this checkout, which is measured as it is,
with what is changed and not committed. Both use the packages that are installed here. What has moved is told from
noise by report/moves.py: a comparison of equals says that something has once in twenty times. Exit code 1 if one got
worse, 3 if something could not be measured, at either revision, or not in rounds enough to tell it from chance.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.__main__ import RESULTS, SHORT, compile_all, end_when_asked, keep_all, ours_failed, say_where
from benchmarks.report import moves
from benchmarks.rivals import RIVALS
from benchmarks.rivals.fetcher import rivals_of
from benchmarks.running import lines
from benchmarks.running.options import GIB, Base, Options, at_least, size
from benchmarks.running.race import room_in
from benchmarks.running.work import CHECKOUT
from benchmarks.scenarios import SCENARIOS

USUAL = ("engine", "http", "lfs", "https", "disk", "small", "medium", "s3", "start")
ROUNDS = 12
SNAPSHOTS = 2000
"""Each round of each revision fills its own caches."""


@contextmanager
def checked_out(revision: str, parent: Path) -> Iterator[Base]:
    """A revision in a directory of its own, with its core built, until the block is left."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--short=12", f"{revision}^{{commit}}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        raise SystemExit(
            f"{revision} is no revision of this repository\nhint: `git log --oneline` lists them; HEAD~3 is one"
        )
    with room_in(parent) as room:
        base = Base(revision, room / "base")
        try:
            _git("worktree", "add", "--quiet", "--detach", str(base.checkout), found.stdout.strip())
            _build(base)
            yield base
        finally:
            if base.checkout.exists():
                _git("worktree", "remove", "--force", str(base.checkout))


def _build(base: Base) -> None:
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(build, cwd=base.checkout, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the core of {base.name} could not be built:\n{done.stderr[-2000:]}")
    # That nobody measures the other one under its name.
    script = "import fetcher; from fetcher import hashing; print(fetcher.__file__, hashing.HAS_TREE)"
    environment = os.environ | {"PYTHONPATH": str(base.checkout)}
    arguments = [sys.executable, "-P", "-c", script]
    said = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if said.stdout.split() != [str(base.checkout / "fetcher" / "__init__.py"), "True"]:
        raise SystemExit(f"{base.name} does not run beside this checkout: {said.stdout}{said.stderr[-2000:]}")


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"git {arguments[0]}: {done.stderr.strip()}")


def measure(given: argparse.Namespace, kept: lines.Lines) -> tuple[list[moves.Move], list[str]]:
    """Both revisions in turns: which figures there are of both, and what could not be measured, and why.

    What there is when it is interrupted is printed.
    """
    with checked_out(given.base, given.disk) as base:
        RIVALS.update({rival.name: rival for rival in rivals_of(base)})
        options = replace(SHORT, rounds=given.rounds, size_bytes=given.size, snapshots=given.snapshots)
        options = replace(options, disk=given.disk, memory=given.memory)
        options = replace(options, rivals=tuple(rival.name for rival in rivals_of()), base=base)
        for checkout in (CHECKOUT, base.checkout):
            compile_all(checkout)
        try:
            lost = keep_all(kept, ((name, SCENARIOS[name].run(options)) for name in given.scenario))
        except KeyboardInterrupt:
            print(moves.table(moves.moves(kept.rows, base)))
            raise
    return moves.moves(kept.rows, base), lost


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__)
    parser.add_argument("base", metavar="BASE", help="a revision, such as HEAD, main~3 or a tag")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, metavar="NAME", help=f"default: {', '.join(USUAL)}"
    )
    parser.add_argument("--rounds", type=at_least(1), default=ROUNDS, help=f"at least {moves.ROUNDS_MIN} ({ROUNDS})")
    parser.add_argument("--size", type=size, default=2 * GIB, help="of the large file (2GiB)")
    parser.add_argument("--snapshots", type=at_least(200), default=SNAPSHOTS, help=f"for `index` ({SNAPSHOTS})")
    parser.add_argument("--disk", type=Path, default=Options().disk)
    parser.add_argument("--memory", type=Path, default=Options().memory)
    parser.add_argument("--output", type=Path, help="where JSON lines go (bench-results/TIME.jsonl)")
    given = parser.parse_args()
    if given.rounds < moves.ROUNDS_MIN:
        parser.error(f"fewer than {moves.ROUNDS_MIN} rounds can't be told from chance")
    given.scenario = list(dict.fromkeys(given.scenario or USUAL))
    least = 2 * len({*given.scenario} & {*USUAL})  # wall and CPU of each; how many there are shows afterwards
    if not moves.could_all_be_told(least, given.rounds):
        parser.error(f"{least} figures or more in {given.rounds} rounds {moves.CURE}")
    end_when_asked()
    kept = lines.Lines(given.output or RESULTS / f"{time.strftime('%Y-%m-%dT%H%M%S')}.jsonl")
    try:
        found, lost = measure(given, kept)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        say_where(kept)
        sys.exit(130)
    print(moves.table(found))
    # Who fails has no figures that could get worse: that must not look as if all were well.
    lost += ours_failed(kept.rows)
    lost += [f"{name}: has no figures to compare" for name in moves.without_figures(kept.rows, found)]
    lost += moves.too_few_rounds(found)
    for line in lost:
        print(f"\nNot measured: {line}")
    say_where(kept)
    sys.exit(1 if any(move.worse for move in found) else 3 if lost else 0)


if __name__ == "__main__":
    main()
