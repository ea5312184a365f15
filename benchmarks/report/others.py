"""Tables of what is no race: ratios inside one process, start-up, kills, repetitions, wrong bytes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks.report.cells import Row, by_rival, head, line, peak, spread, turn, where_it_went
from benchmarks.running.options import MIB

Rows = Sequence[Row]


def ratio_table(rows: Rows) -> str:
    """One line per contest: the fastest slices, their ratio, and in brackets the spread of the rounds' ratios."""
    lines = head("what", "ours", "against", "it", "times as fast", "per round")
    for row in rows:
        cells = [row["what"], f"{row['ours']} {row['unit']}"]
        if "ratio" in row:
            per_round = f"{row['ratio_median']} ({row['ratio_low']}–{row['ratio_high']})"
            cells += [row["than"], f"{row['other']} {row['unit']}", f"**{row['ratio']}**", per_round]
        else:
            cells += [""] * 4
        lines.append(line(*cells))
    return "\n".join(lines)


def layer_table(rows: Rows) -> str:
    """The cache, a table for each kind of work: medians and spreads of the rounds.

    Of latencies the percentiles stand side by side; of durable files, how often what they are held against goes in.
    """
    kinds: dict[Callable[[Rows], str], list[Row]] = {_latencies: [], _durable: [], _collecting: []}
    for row in rows:
        what = row["what"]
        kind = _latencies if what.endswith(PERCENTILES) else _collecting if what.startswith(COLLECTING) else _durable
        kinds[kind].append(row)
    return "\n\n".join(make(some) for make, some in kinds.items() if some)


PERCENTILES = (", p50", ", p99")
COLLECTING = ("gc ", "tidy ", "open ")


def _latencies(rows: Rows) -> str:
    lines = head("hits and leases", "p50 (rounds)", "p99 (rounds)")
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        what, percentile = row["what"][: -len(PERCENTILES[0])], row["what"][-len(PERCENTILES[0]) :]
        found.setdefault(what, {})[percentile] = _values(row)
    lines += [line(what, *(those.get(percentile, "") for percentile in PERCENTILES)) for what, those in found.items()]
    return "\n".join(lines)


def _durable(rows: Rows) -> str:
    lines = head("making files durable", "median (rounds)", "against", "it", "times it")
    for row in rows:
        cells = [row["what"], _values(row)]
        if "than" in row:
            ratios = [ours / other for ours, other in zip(row["values"], row["others"], strict=True)]
            cells += [row["than"], f"{spread(row['others'])} {row['unit']}", spread(ratios)]
        else:
            cells += [""] * 3
        lines.append(line(*cells))
    return "\n".join(lines)


def _collecting(rows: Rows) -> str:
    return "\n".join([*head("gc, and opening", "median (rounds)"), *(line(row["what"], _values(row)) for row in rows)])


def _values(row: Row) -> str:
    return f"{spread(row['values'])} {row['unit']}"


def kill_tables(rows: Rows) -> str:
    """One line per rival: killed three times, and with a bit flipped between kill and restart."""
    killed = head("killed", "asked again MiB", "of the file", "right", "half under its name", "left MiB", "last run s")
    flipped = head("a bit flipped", "right", "ended with an error", "asked again MiB", "of what had come")
    for who, group in by_rival(rows).items():
        some = [row for row in group if row["variant"] == "kill"]
        if some:
            killed.append(_killed(who, some))
        some = [row for row in group if row["variant"] == "flip"]
        if some:
            flipped.append(_flipped(who, some))
    return "\n".join([*killed, "", *flipped])


def _killed(who: str, some: Rows) -> str:
    again = spread([round(row["again_bytes"] / MIB, 1) for row in some])
    share = statistics.median(row["again_bytes"] / row["size_bytes"] for row in some)
    half = f"after {sum(row['half_visible'] for row in some)} of {sum(row['kills'] for row in some)} kills"
    left, wall = (
        spread([round(row["left_bytes"] / MIB, 1) for row in some]),
        spread([row["wall_s"] for row in some]),
    )
    return line(who, again, f"{share:.0%}", _right(some), half, left, wall)


def _flipped(who: str, some: Rows) -> str:
    again = spread([round(row["again_bytes"] / MIB, 1) for row in some])
    share = statistics.median(row["again_bytes"] / row["sent_before_bytes"] for row in some)
    told = f"{sum(row['exit'] != 0 for row in some)} of {len(some)}"
    return line(who, _right(some), told, again, f"{share:.0%}")


def _right(rows: Rows) -> str:
    return f"{sum(row['right'] for row in rows)} of {len(rows)}"


def start_table(rows: Rows) -> str:
    """Milliseconds, and how many more than an interpreter takes that does nothing."""
    lines = head("what", "wall ms", "over python -c pass", "CPU ms", "peak MiB")
    bare = {turn(row): row["wall_s"] for row in rows if row["rival"] == "python -c pass"}
    told = []
    for what, group in by_rival(rows).items():
        if "latency" in group[0]:
            hits = {name: spread([row["latency"][name] for row in group]) for name in group[0]["latency"]}
            told.append(f"\n{what}: " + ", ".join(f"{name} {value}" for name, value in hits.items()))
            continue
        over = [1000 * (row["wall_s"] - bare[turn(row)]) for row in group if turn(row) in bare]
        cells = [spread([1000 * row["wall_s"] for row in group]), spread(over) if over else ""]
        cells += [spread([1000 * row["cpu_s"] for row in group]), peak(group)]
        lines.append(line(what, *cells))
    return "\n".join([*lines, *told])


def request_table(rows: Rows) -> str:
    """What a hub is asked."""
    lines = head("who", "files", "requests to the hub per file", "connections", "wall s", "by route")
    for who, group in by_rival([row for row in rows if "per_file" in row]).items():
        routes = ", ".join(f"{route} {count}" for route, count in group[-1]["by_route"].items())
        cells = [_all_of([row[name] for row in group]) for name in ("per_file", "connections", "wall_s")]
        lines.append(line(who, group[0]["files"], *cells, routes))
    return "\n".join(lines)


def _all_of(values: Sequence[float]) -> str:
    """The one value, as it is; of several their median and spread."""
    return str(values[0]) if len(set(values)) == 1 else spread(values)


def sent_table(rows: Rows) -> str:
    """Who fetched how much of it: again, or several times."""
    whose = " of the largest process" if any("processes" in row for row in rows) else ""
    lines = head("who", "wall s", "CPU s", f"peak MiB{whose}", "MiB sent by the origin", "in times of the files")
    for who, group in by_rival(rows).items():
        some = [row for row in group if "wall_s" in row]
        if some:
            cells = [spread([row[name] for row in some]) for name in ("wall_s", "cpu_s")]
            sent = [[round(row["sent_bytes"] / unit, 3) for row in some] for unit in (MIB, some[0]["bytes"])]
            lines.append(line(who, *cells, peak(some), *map(spread, sent)))
    return "\n".join([*lines, *where_it_went(rows)])


def flip_table(rows: Rows) -> str:
    """Who notices a wrong bit."""
    lines = head("who", "verifies", "noticed", "the wrong bytes are under the final name")
    for who, group in by_rival([row for row in rows if "noticed" in row]).items():
        noticed = _each_time([row["noticed"] for row in group], yes="yes", no="**no**")
        visible = _each_time([row["wrong_is_visible"] for row in group], yes="**yes**", no="no")
        lines.append(line(who, group[0]["verifies"], noticed, visible))
    return "\n".join(lines)


def stated_table(rows: Rows) -> str:
    """Who notices a wrong bit of an S3's object, by what the S3 states of it."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if "noticed" in row:
            found.setdefault(row["rival"], {}).setdefault(row["stated"], []).append(row)
    statements = list(dict.fromkeys(what for group in found.values() for what in group))
    lines = head("who", "verifies", *statements)
    for who, group in found.items():
        cells = [_outcome(group[what]) if what in group else "" for what in statements]
        lines.append(line(who, next(iter(group.values()))[0]["verifies"], *cells))
    return "\n".join(lines)


def _outcome(group: Rows) -> str:
    """Whether it was noticed, and what was there under the final name."""
    noticed = _each_time([row["noticed"] for row in group], yes="noticed", no="**no**")
    return noticed + (", wrong bytes stay" if any(row["wrong_is_visible"] and row["noticed"] for row in group) else "")


def _each_time(values: Sequence[bool], *, yes: str, no: str) -> str:
    """What was so each time, or how often it was."""
    return (yes if values[0] else no) if len(set(values)) == 1 else f"**{sum(values)} of {len(values)} times**"


def refusal_table(rows: Rows) -> str:
    """Refusals of a private repository, with another's copy in the cache and without."""
    lines = head("asks", "with a copy: median ms", "without", "distance", "by chance once in a hundred")
    for row in rows:
        medians = (row["cached_median_ms"], row["absent_median_ms"])
        lines.append(line(row["asks"], *medians, row["distance"], row["by_chance"]))
    return "\n".join(lines)
