"""A race as a picture: bars with their spread against the limit line, as SVG that is readable on light and on dark.

Two panels: speed (longer is better) and CPU (shorter is better). Everybody has a line, in the order of their speed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.report.cells import Row, by_rival, figure
from benchmarks.report.transfers import units_of
from benchmarks.running.options import OURS

LIMIT = "C"
"""How the names of the reference begin: no rival, but what the machine allows."""
NAMES_WIDTH = 230
PANEL_WIDTH = 290
FIGURE_WIDTH = 64
GAP = 24
LINE_HEIGHT = 26
BAR_HEIGHT = 14
HEAD_HEIGHT = 58
FOOT_HEIGHT = 14

_STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 14px; } .soft { fill: #59636e; font-size: 12px; }
  .ours { font-weight: 600; } .bar { fill: #b4bcc6; } .bar-ours { fill: #0969da; }
  .bar-limit { fill: none; stroke: #59636e; }
  .whisker { stroke: #1f2328; stroke-width: 1.3; } .limit { stroke: #bc4c00; stroke-width: 1.5; stroke-dasharray: 4 3; }
   @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .soft { fill: #9198a1; } .bar { fill: #4d5662; } .bar-ours { fill: #4493f8; }
    .bar-limit { stroke: #9198a1; } .whisker { stroke: #e6edf3; }
    .limit { stroke: #f0883e; }
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


def race(title: str, rows: Sequence[Row]) -> str:
    """The picture of one scenario, whose rows are those of a race."""
    groups = by_rival(rows)
    units = units_of(rows)
    speeds = {
        who: Bar.of([units.amount(row) / max(row["wall_s"], 1e-4) for row in group]) for who, group in groups.items()
    }
    costs = {who: Bar.of([row["cpu_s"] * units.cost_scale(row) for row in group]) for who, group in groups.items()}
    order = sorted(groups, key=lambda who: speeds[who].middle, reverse=True)
    limit = next((who for who in order if _is_limit(who)), None)
    width = NAMES_WIDTH + 2 * (PANEL_WIDTH + FIGURE_WIDTH) + GAP
    height = HEAD_HEIGHT + len(order) * LINE_HEIGHT + FOOT_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="8" y="20">{escape(title)}</text>',
    ]
    for number, who in enumerate(order):
        emphasis = ' class="ours"' if who.startswith(OURS) else ""
        parts.append(
            f'<text{emphasis} x="{NAMES_WIDTH - 10}" y="{_middle(number) + 5}" text-anchor="end">{escape(who)}</text>'
        )
    second = NAMES_WIDTH + PANEL_WIDTH + FIGURE_WIDTH + GAP
    parts += _panel(NAMES_WIDTH, f"{units.speed}, more is better", order, speeds, limit)
    parts += _panel(second, f"{units.cost}, less is better", order, costs, limit)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: int, title: str, order: Sequence[str], bars: dict[str, Bar], limit: str | None) -> list[str]:
    # What is too short for the clock is 0: then there is a panel without bars.
    scale = PANEL_WIDTH / (max(bar.high for bar in bars.values()) or 1.0)
    parts = [f'<text class="soft" x="{left}" y="44">{escape(title)}</text>']
    for number, who in enumerate(order):
        bar, middle = bars[who], _middle(number)
        kind = "bar-ours" if who.startswith(OURS) else "bar-limit" if _is_limit(who) else "bar"
        parts.append(
            f'<rect class="{kind}" x="{left}" y="{middle - BAR_HEIGHT / 2:g}" rx="2" '
            f'width="{bar.middle * scale:.1f}" height="{BAR_HEIGHT}"/>'
        )
        low, high = left + bar.low * scale, left + bar.high * scale
        if high - low > 1:
            ends = [f"M{x:.1f} {middle - 4}v8" for x in (low, high)]
            parts.append(f'<path class="whisker" fill="none" d="M{low:.1f} {middle}H{high:.1f}{"".join(ends)}"/>')
        # In a column of their own, where neither bars nor lines come.
        end = left + PANEL_WIDTH + FIGURE_WIDTH - 8
        parts.append(f'<text class="soft" x="{end}" y="{middle + 4}" text-anchor="end">{figure(bar.middle)}</text>')
    if limit is not None:
        x = left + bars[limit].middle * scale
        bottom = HEAD_HEIGHT + len(order) * LINE_HEIGHT
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD_HEIGHT - 6}" y2="{bottom}"/>')
    return parts


def _middle(number: int) -> int:
    return HEAD_HEIGHT + number * LINE_HEIGHT + LINE_HEIGHT // 2


def _is_limit(who: str) -> bool:
    return who == LIMIT or who.startswith(f"{LIMIT},")
