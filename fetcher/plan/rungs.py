"""Numbers of connections that are tried, and what was seen of them: the values that a Plateau decides over. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reached:
    """What a number of connections brought."""

    level: int
    rate: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a host."""

    at: float
    units: float
    connections: int


def rungs(level_max: int) -> tuple[int, ...]:
    """The numbers of connections that are tried: each a third to a half more than the one before."""
    found, power = [], 1
    while power <= level_max:
        found += [level for level in (power, power + power // 2) if level <= level_max]
        power *= 2
    return tuple(sorted({*found, level_max}))
