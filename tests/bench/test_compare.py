"""Two revisions in one run: the other one is really run, and nothing of it stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def _compare(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    places = (f"--disk={tmp_path}", f"--memory={tmp_path}", f"--output={tmp_path / 'lines.jsonl'}")
    command = [sys.executable, "-m", "benchmarks.compare", *arguments, *places]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=58)


@pytest.mark.needs("reference", "native", "repository")
def test_head_against_what_is_here(tmp_path: Path) -> None:
    done = _compare(tmp_path, "HEAD", "--scenario=http", "--rounds=8", "--size=3MiB")
    assert done.returncode in (0, 1), done.stderr  # noise may be on one side six times
    rows = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert {row["rival"] for row in rows} == {"fetcher", "fetcher at HEAD"}
    assert {row["version"] for row in rows if row["rival"] == "fetcher at HEAD"} < {row["version"] for row in rows} | {
        ""
    }
    assert done.stdout.count("| http | fetcher |") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]
    # Of ours only: somebody else may work in this repository meanwhile.
    listed = subprocess.run(["git", "worktree", "list"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert str(tmp_path) not in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("no-such-revision",), "no revision of this repository"),
        (("HEAD", "--rounds=3"), "fewer than 8 rounds"),
        (("HEAD", "--rounds=8"), "18 figures or more in 8 rounds can't be told from chance"),
    ],
)
def test_what_can_not_be_compared_is_refused(tmp_path: Path, arguments: tuple[str, ...], complaint: str) -> None:
    done = _compare(tmp_path, *arguments)
    assert done.returncode != 0 and complaint in done.stderr
