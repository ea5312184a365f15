"""Scenarios as pictures: bars with their spread, as SVG that is readable on light and on dark.

A race has two panels, speed (longer is better) and CPU (shorter is better), against the line of the limit; hashing has
ratios on a logarithmic scale, so that twice and half as fast are as far from 1; kills have bytes fetched again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from benchmarks.report.cells import Row, by_rival, figure
from benchmarks.report.tables import MAKERS
from benchmarks.report.transfers import units_of
from benchmarks.running.options import MIB, OURS

LIMIT = "C"
"""How the names of the reference begin: no rival, but what the machine allows."""
NAMES_WIDTH = 230
"""At least: names that are longer get more."""
LETTER_WIDTH = 6.9
SOFT_LETTER_WIDTH = 6.3
PANEL_WIDTH = 290
FIGURE_WIDTH = 64
GAP = 24
LINE_HEIGHT = 26
BAR_HEIGHT = 14
HEAD_HEIGHT = 58
FOOT_HEIGHT = 14
CURVE_HEIGHT = 110
SPREAD = "least and most of the rounds"

_STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 14px; } .soft { fill: #59636e; font-size: 12px; }
  .ours { font-weight: 600; } .bar { fill: #b4bcc6; } .bar-ours { fill: #0969da; }
  .bar-limit { fill: none; stroke: #59636e; } .wrong { fill: #cf222e; font-size: 12px; font-weight: 600; }
  .whisker { stroke: #1f2328; stroke-width: 1.3; } .limit { stroke: #bc4c00; stroke-width: 1.5; stroke-dasharray: 4 3; }
  .curve { fill: none; stroke: #0969da; stroke-width: 2; } .axis { stroke: #59636e; }
   @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .soft { fill: #9198a1; } .bar { fill: #4d5662; } .bar-ours { fill: #4493f8; }
    .bar-limit { stroke: #9198a1; } .whisker { stroke: #e6edf3; } .wrong { fill: #f85149; }
    .limit { stroke: #f0883e; } .curve { stroke: #4493f8; } .axis { stroke: #9198a1; }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of one of them: median, and the least and most of the rounds."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Bar:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Panel:
    """One bar for each line of the picture, and the figure beside it."""

    title: str
    bars: Sequence[Bar]
    limit: float | None = None
    """Where the dashed line is."""
    logarithmic: bool = False
    """Bars begin at 1 then, and go to either side."""
    words: Mapping[int, str] = field(default_factory=dict)
    """Beside the figure, of what went wrong, by the number of the line."""
    bars_width: int = PANEL_WIDTH
    figure_width: int = FIGURE_WIDTH

    @property
    def width(self) -> int:
        return self.bars_width + self.figure_width

    def scale(self) -> Callable[[float], float]:
        """From figures to pixels."""
        lows, highs = [bar.low for bar in self.bars], [bar.high for bar in self.bars]
        if not self.logarithmic:
            # What is too short for the clock is 0: then there is a panel without bars.
            per_unit = self.bars_width / (max(highs, default=0.0) or 1.0)
            return lambda value: value * per_unit
        least, most = math.log(min([1.0, *lows])), math.log(max([1.0, *highs]))
        per_unit = self.bars_width / ((most - least) or 1.0)
        return lambda value: (math.log(value) - least) * per_unit

    def ticks(self) -> list[float]:
        """Powers of two, where those are needed to read it."""
        if not self.logarithmic or not self.bars:
            return []
        least, most = min(bar.low for bar in self.bars), max(bar.high for bar in self.bars)
        return [2.0**power for power in range(-9, 10) if min(1.0, least) <= 2.0**power <= max(1.0, most)]


# --- scenarios -------------------------------------------------------------------------------------------------------


def of(scenario: str, rows: Sequence[Row]) -> str | None:
    """The picture of one scenario; None where none is drawn of it."""
    measured = [row for row in rows if "missing" not in row and "failed" not in row]
    drawer = _DRAWERS.get(scenario, None if scenario in MAKERS else race)
    return drawer(scenario, measured) if drawer and measured else None


def race(title: str, rows: Sequence[Row]) -> str:
    """The picture of one scenario, whose rows are those of a race."""
    groups = by_rival(rows)
    units = units_of(rows)
    speeds = {
        who: Bar.of([units.amount(row) / max(row["wall_s"], 1e-4) for row in group]) for who, group in groups.items()
    }
    costs = {who: Bar.of([row["cpu_s"] * units.cost_scale(row) for row in group]) for who, group in groups.items()}
    order = sorted(groups, key=lambda who: speeds[who].middle, reverse=True)
    reference = next((who for who in order if _is_limit(who)), None)
    panels = [
        Panel(f"{title}, {better}", [bars[who] for who in order], bars[reference].middle if reference else None)
        for title, better, bars in (
            (units.speed, "more is better", speeds),
            (units.cost, "less is better", costs),
        )
    ]
    return _picture(title, order, panels, f"{reference}: the limit" if reference else "")


def hashing(title: str, rows: Sequence[Row]) -> str:
    """How many times as fast, and than what; what stands alone has no bar."""
    some = [row for row in rows if "ratio" in row]
    bars = [Bar(row["ratio_median"], row["ratio_low"], row["ratio_high"]) for row in some]
    panel = Panel("times as fast, more is better", bars, 1.0, logarithmic=True)
    beside = [f"{row['than']}, CPU" if row["unit"] == "CPU s" else row["than"] for row in some]
    return _picture(title, [row["what"] for row in some], [panel], "as fast as what it is held against", beside)


def kills(title: str, rows: Sequence[Row]) -> str:
    """What was fetched again after kills, and after a bit was flipped; and whose file was wrong then."""
    groups = by_rival(rows)
    variants = {"kill": "killed three times: MiB asked again", "flip": "killed, a bit flipped: MiB asked again"}
    again = {
        variant: {
            who: [round(row["again_bytes"] / MIB, 1) for row in group if row["variant"] == variant]
            for who, group in groups.items()
        }
        for variant in variants
    }
    order = sorted(groups, key=lambda who: statistics.median(again["kill"][who] or again["flip"][who]))
    panels = []
    for variant, words in variants.items():
        bars = [Bar.of(again[variant][who] or [0.0]) for who in order]
        outcomes = {
            number: word
            for number, who in enumerate(order)
            if (word := _outcome([row for row in groups[who] if row["variant"] == variant]))
        }
        panels.append(Panel(words, bars, words=outcomes, bars_width=PANEL_WIDTH - 70, figure_width=FIGURE_WIDTH + 40))
    return _picture(title, order, panels, "")


def _outcome(rows: Sequence[Row]) -> str:
    """Nothing where all is well."""
    if not rows:
        return "failed"
    wrong = [row for row in rows if not row["right"]]
    if not wrong:
        return ""
    return "error" if all(row["exit"] != 0 for row in wrong) else "wrong file"


def refusals(title: str, rows: Sequence[Row]) -> str:
    """Speed second by second, while the origin is well, refuses everybody, and is well again; of the first round."""
    if len(by_rival(rows)) > 1:
        return race(title, rows)
    samples = rows[0]["samples"]
    left, top, bottom = 60, HEAD_HEIGHT, HEAD_HEIGHT + CURVE_HEIGHT
    width, height = NAMES_WIDTH + 2 * (PANEL_WIDTH + FIGURE_WIDTH) + GAP, bottom + 2 * FOOT_HEIGHT
    step, scale = (width - left - GAP) / max(len(samples), 1), CURVE_HEIGHT / (max(samples, default=0.0) or 1.0)
    points = " ".join(f"{left + (n + 0.5) * step:.1f},{bottom - value * scale:.1f}" for n, value in enumerate(samples))
    ticks = [(n + 0.5, str(n)) for n in range(0, len(samples), 5)]
    parts = [
        f'<text class="soft" x="8" y="44">MiB/s by seconds, {escape(rows[0]["rival"])}</text>',
        f'<line class="axis" x1="{left}" x2="{width - GAP}" y1="{bottom}" y2="{bottom}"/>',
        *(
            f'<text class="soft" x="{left + at * step:.1f}" y="{bottom + 16}" text-anchor="middle">{word}</text>'
            for at, word in ticks
        ),
        f'<text class="soft" x="{left - 8}" y="{top + 8}" text-anchor="end">{figure(max(samples, default=0.0))}</text>',
        f'<text class="soft" x="{left - 8}" y="{bottom + 4}" text-anchor="end">0</text>',
        f'<polyline class="curve" points="{points}"/>',
    ]
    return _svg(title, width, height, parts)


_DRAWERS: Mapping[str, Callable[[str, Sequence[Row]], str]] = {
    "hashing": hashing,
    "kill": kills,
    "link-429": refusals,
}
"""Whose picture is another than that of a race. (Those of which a table is enough have none.)"""


# --- drawing ---------------------------------------------------------------------------------------------------------


def _picture(title: str, names: Sequence[str], panels: Sequence[Panel], dashed: str, beside: Sequence[str] = ()) -> str:
    """Lines with a name each; ``dashed`` says what the dashed line is, ``beside`` what stands behind each line."""
    left = math.ceil(max([NAMES_WIDTH, *(len(name) * LETTER_WIDTH + 18 for name in names)]))
    behind = math.ceil(max((len(words) * SOFT_LETTER_WIDTH for words in beside), default=0))
    width = left + sum(panel.width for panel in panels) + GAP * (len(panels) - 1) + behind
    parts = list(_legend(width, dashed, spread=any(bar.high > bar.low for panel in panels for bar in panel.bars)))
    for number, who in enumerate(names):
        emphasis = ' class="ours"' if who.startswith(OURS) else ""
        parts.append(
            f'<text{emphasis} x="{left - 10}" y="{_middle(number) + 5}" text-anchor="end">{escape(who)}</text>'
        )
    for panel in panels:
        parts += _panel(left, names, panel)
        left += panel.width + GAP
    for number, words in enumerate(beside):
        parts.append(f'<text class="soft" x="{left - GAP}" y="{_middle(number) + 4}">{escape(words)}</text>')
    foot = FOOT_HEIGHT * (2 if any(panel.ticks() for panel in panels) else 1)
    return _svg(title, width, HEAD_HEIGHT + len(names) * LINE_HEIGHT + foot, parts)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">'
    )
    heading = f'<text class="title" x="8" y="20">{escape(title)}</text>'
    return "\n".join([opening, f"<style>{_STYLE}</style>", heading, *parts, "</svg>"]) + "\n"


def _legend(width: int, dashed: str, *, spread: bool) -> Iterator[str]:
    """At the right of the title: what whiskers and the dashed line are."""
    samples = {
        dashed: '<line class="limit" x1="{0:.0f}" x2="{1:.0f}" y1="16" y2="16"/>',
        SPREAD if spread else "": '<path class="whisker" fill="none" d="M{0:.0f} 12v8m0 -4H{1:.0f}m0 -4v8"/>',
    }
    shown = {words: sample for words, sample in samples.items() if words}
    left = width - sum(len(words) * SOFT_LETTER_WIDTH + 54 for words in shown)
    for words, sample in shown.items():
        yield sample.format(left, left + 24)
        yield f'<text class="soft" x="{left + 32:.0f}" y="20">{escape(words)}</text>'
        left += len(words) * SOFT_LETTER_WIDTH + 54


def _panel(left: int, names: Sequence[str], panel: Panel) -> Iterator[str]:
    place = panel.scale()
    start = place(1.0) if panel.logarithmic else 0.0
    yield f'<text class="soft" x="{left}" y="44">{escape(panel.title)}</text>'
    end = left + panel.width - 8
    for number, (who, bar) in enumerate(zip(names, panel.bars, strict=True)):
        middle, reached = _middle(number), place(bar.middle)
        kind = _kind(who) if not panel.logarithmic else "bar-ours" if bar.middle >= 1 else "bar"
        yield (
            f'<rect class="{kind}" x="{left + min(start, reached):.1f}" y="{middle - BAR_HEIGHT / 2:g}" rx="2" '
            f'width="{abs(reached - start):.1f}" height="{BAR_HEIGHT}"/>'
        )
        low, high = left + place(bar.low), left + place(bar.high)
        if high - low > 1:
            ends = [f"M{x:.1f} {middle - 4}v8" for x in (low, high)]
            yield f'<path class="whisker" fill="none" d="M{low:.1f} {middle}H{high:.1f}{"".join(ends)}"/>'
        # In a column of their own, where neither bars nor lines come.
        word = panel.words.get(number, "")
        shown = f'{figure(bar.middle)} <tspan class="wrong">{word}</tspan>' if word else figure(bar.middle)
        yield f'<text class="soft" x="{end}" y="{middle + 4}" text-anchor="end">{shown}</text>'
    for tick in panel.ticks():
        x, y = left + place(tick), HEAD_HEIGHT + len(names) * LINE_HEIGHT + 16
        yield f'<text class="soft" x="{x:.1f}" y="{y}" text-anchor="middle">{tick:g}</text>'
    if panel.limit is not None:
        x = left + place(panel.limit)
        bottom = HEAD_HEIGHT + len(names) * LINE_HEIGHT
        yield f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD_HEIGHT - 6}" y2="{bottom}"/>'


def _middle(number: int) -> int:
    return HEAD_HEIGHT + number * LINE_HEIGHT + LINE_HEIGHT // 2


def _kind(who: str) -> str:
    return "bar-ours" if who.startswith(OURS) else "bar-limit" if _is_limit(who) else "bar"


def _is_limit(who: str) -> bool:
    return who == LIMIT or who.startswith(f"{LIMIT},")
