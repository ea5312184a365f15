"""`python -m benchmarks.report`: the measured parts of docs/benchmarks.md, and their pictures, from benchmarks/results.

The page has places for them, between ``<!-- measured: RESULTS SCENARIO -->`` and ``<!-- end -->``; what stands around
those is written by people. RESULTS is the name of a file of JSON lines, SCENARIO one of its scenarios, or ``machine``
(what it was measured on) or ``reached`` (against the goals). A scenario that was not measured is said to be missing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence

from benchmarks.report import pictures, targets
from benchmarks.report.cells import Row, turn
from benchmarks.report.tables import by_scenario, table
from benchmarks.running import lines
from benchmarks.running.work import CHECKOUT, Unusable
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.start import STARTS

RESULTS = CHECKOUT / "benchmarks" / "results"
PAGE = CHECKOUT / "docs" / "benchmarks.md"
PICTURES = "pictures"
"""Beside the page."""
NOT_MEASURED = "Not measured on this machine yet: `make bench BENCH_ARGS='--full --scenario {}'`."

_PLACE = re.compile(r"(<!-- measured: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.S)


def render(text: str, results: Mapping[str, Sequence[Row]]) -> tuple[str, dict[str, str]]:
    """The page with all its places filled, and pictures by their file's name.

    Raises LookupError for rows that have no place, and for places of which there can be no rows.
    """
    drawn: dict[str, str] = {}
    placed: set[tuple[str, str]] = set()

    def fill(found: re.Match[str]) -> str:
        opening, name, what, closing = found.groups()
        placed.add((name, what))
        rows = results.get(name)
        if rows is None:
            raise LookupError(f"there is no {name}.jsonl")
        if what == "machine":
            return f"{opening}{machine(rows)}\n{closing}"
        if what == "reached":
            return f"{opening}{targets.table(rows)}\n{closing}"
        some = by_scenario(rows).get(what)
        if some is None and (scenario := scenario_of(what)):
            return f"{opening}{NOT_MEASURED.format(scenario)}\n{closing}"
        if some is None:
            raise LookupError(f"{name}.jsonl has no {what}, and no scenario is called so")
        parts = []
        if picture := pictures.of(what, some):
            file = f"{name}-{what}.svg"
            drawn[file] = picture
            parts.append(f"![{what}: a picture of the table below]({PICTURES}/{file})")
        parts.append(table(some))
        filling = "\n\n".join(parts)
        return f"{opening}{filling}\n{closing}"

    filled = _PLACE.sub(fill, text)
    for name, rows in results.items():
        if all(known != name for known, _ in placed):
            raise LookupError(f"the page has no place for anything of {name}.jsonl")
        for what in by_scenario(rows):
            if (name, what) not in placed:
                raise LookupError(f"the page has no place for {what} of {name}.jsonl")
    return filled, drawn


def scenario_of(what: str) -> str | None:
    """Which scenario has rows of this name: its own, or one with more behind it (``small-get`` of ``small``)."""
    return next((name for name in (what, what.rpartition("-")[0]) if name in SCENARIOS), None)


def machine(rows: Sequence[Row]) -> str:
    """On what, when, which revision of us, and in how many rounds; and the versions of everybody."""
    kept = {
        what: ", ".join(sorted({str(row[what]) for row in rows}))
        for what in ("cpu", "cores", "memory_mib", "kernel", "python", "date", "revision")
    }
    # What is measured inside of one process has no rival: its version is ours, and that of the other ``than_version``.
    others = {
        row["version"] for row in rows if "version" in row and "rival" in row and not row["rival"].startswith("fetcher")
    }
    versions = sorted(others | {row["than_version"] for row in rows if "than_version" in row})
    return (
        f"{kept['cpu']}, {kept['cores']} cores, {kept['memory_mib']} MiB; Linux {kept['kernel']}, Python "
        f"{kept['python']}; measured {kept['date']} at {kept['revision']}{_rounds(rows)}.\n\n"
        f"With {'; '.join(versions)}."
    )


def _rounds(rows: Sequence[Row]) -> str:
    """How many each scenario has that has any, and of how many runs."""
    runs = {row.get("run") for row in rows}
    counts = set()
    for scenario, some in by_scenario(rows).items():
        if turns := {turn(row) for row in some if "round" in row}:
            counts.add(len(turns) // STARTS if scenario == "start" else len(turns))
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    each = f"{least} round{'s' if least > 1 else ''} each" if least == most else f"{least} to {most} rounds"
    return f": {each}, in {'one run' if len(runs) == 1 else f'{len(runs)} runs'}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if anything would change")
    check = parser.parse_args().check
    try:
        results = {path.stem: lines.read(path) for path in sorted(RESULTS.glob("*.jsonl"))}
        page, drawn = render(PAGE.read_text(), results)
    except (LookupError, Unusable) as reason:
        raise SystemExit(f"{PAGE.name}: {reason}") from None
    directory = PAGE.parent / PICTURES
    wanted = {PAGE: page} | {directory / name: picture for name, picture in drawn.items()}
    changed = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stale = [path for path in directory.glob("*.svg") if path not in wanted]
    for path in (*changed, *stale):
        print(f"{'stale' if check else 'removed' if path in stale else 'written'}: {path.relative_to(CHECKOUT)}")
    if check:
        sys.exit(1 if changed or stale else 0)
    directory.mkdir(exist_ok=True)
    for path in changed:
        path.write_text(wanted[path])
    for path in stale:
        path.unlink()


if __name__ == "__main__":
    main()
