"""The plan of faults: what an embedded origin does wrong, to which requests, and how often.

    FaultPlan(
        CutAfter(100_000, how="rst").on("cdn", path="*.safetensors", times=3),
        Status(503, retry_after=1).on("resolve", nth=2),
    )

A fault is a frozen value; ``on`` makes it a rule. Several rules may act on one request, in the order of the plan.
A plan remembers what it did (``fired``), so that a test can prove that its fault really happened. Every fault and rule
has a short ``name`` for use as a test id. The module knows requests and replies, not the Hub.
"""

from __future__ import annotations

import fnmatch
import random
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, ClassVar

from fetcher.testing.messages import Reply, Request
from fetcher.testing.records import RequestRecord, routes_at


@dataclass(slots=True)
class Exchange:
    """A request on its way through the origin, with what faults may change of its treatment."""

    request: Request
    record: RequestRecord
    origin: Any
    """The embedded origin itself, for callbacks that change its content in mid-run."""
    url_lifetime_s: float | None = None
    """Instead of the origin's own: how long a URL signed for this request is good."""

    def without(self, header: str) -> None:
        """Treat the request as if ``header`` had not been sent. The record keeps it."""
        headers = {name: value for name, value in self.request.headers.items() if name != header}
        self.request = replace(self.request, headers=headers)


@dataclass(frozen=True)
class Fault:
    """Base of all faults. One of ``before`` and ``after`` does something; ``places`` is where it acts by default."""

    places: ClassVar[tuple[str, ...]] = ("bodies",)
    late: ClassVar[bool] = False
    """Whether it acts on a reply already made (and is counted only for replies it ``fits``)."""

    @property
    def name(self) -> str:
        """Class and parameters as one word, such as ``CutAfter-100000-rst``; flags by their name, if set."""
        words = [type(self).__name__]
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool):
                words += [each.name] if value else []
            elif isinstance(value, str | int) or (isinstance(value, float) and isfinite(value)):
                words.append(str(value))
            elif callable(value):
                words.append(getattr(value, "__name__", "callback"))
        return "-".join(words)

    def on(
        self,
        *places: str,
        path: str = "*",
        method: str | None = None,
        nth: int | None = None,
        skip: int = 0,
        times: int | None = None,
        every: int = 1,
        probability: float = 1.0,
        per_path: bool = False,
    ) -> Rule:
        """Return the rule that applies this fault.

        ``places``: groups or routes of ``records.PLACES``; ``path``: glob over the file's path. Of the requests that
        match, ``skip`` are left alone, then every ``every``-th is hit, with ``probability``, at most ``times`` times.
        ``nth`` (from 1) is short for exactly that one. ``per_path`` counts each path by itself.
        """
        if nth is not None:
            skip, times = nth - 1, 1
        routes = frozenset[str]().union(*(routes_at(place) for place in places or self.places))
        return Rule(self, routes, path, method, skip, times, every, probability, per_path)

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        """Act before the origin does; a reply returned here is the answer. ``memory`` lasts as long as the rule."""
        return None

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        """Whether ``after`` could act on this reply. By default: it carries bytes of a file."""
        return exchange.request.method == "GET" and reply.status in (200, 206) and reply.content is not None

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        """Change the reply that the origin made."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault and the requests it is for. Made by ``Fault.on``."""

    fault: Fault
    routes: frozenset[str]
    path: str = "*"
    method: str | None = None
    skip: int = 0
    times: int | None = None
    every: int = 1
    probability: float = 1.0
    per_path: bool = False

    @property
    def name(self) -> str:
        """The fault's name."""
        return self.fault.name

    def matches(self, record: RequestRecord) -> bool:
        """Whether a request is of the kind this rule is for, whatever its turn."""
        return (
            record.route in self.routes
            and self.method in (None, record.method)
            and (self.path == "*" or fnmatch.fnmatchcase(record.path or "", self.path))
        )


@dataclass(slots=True)
class _Tally:
    seen: Counter[str | None] = field(default_factory=Counter)
    hit: Counter[str | None] = field(default_factory=Counter)
    memory: dict[Any, Any] = field(default_factory=dict)


class FaultPlan:
    """The rules an origin obeys. May be changed while the origin runs; counting starts when a rule is added."""

    def __init__(self, *rules: Fault | Rule, seed: int = 0) -> None:
        self._dice = random.Random(seed)
        self._rules: tuple[tuple[Rule, _Tally], ...] = ()
        self.fired: Counter[str] = Counter()
        """How often each fault acted, by name."""
        self.add(*rules)

    def __repr__(self) -> str:
        return f"<FaultPlan {', '.join(rule.name for rule, _ in self._rules) or 'empty'}, fired {dict(self.fired)}>"

    @property
    def name(self) -> str:
        """The names of all rules, for a test id."""
        return "+".join(rule.name for rule, _ in self._rules) or "no-fault"

    def add(self, *rules: Fault | Rule) -> None:
        """Append rules; a bare fault acts wherever it can, always."""
        made = (rule if isinstance(rule, Rule) else rule.on() for rule in rules)
        self._rules += tuple((rule, _Tally()) for rule in made)

    def clear(self) -> None:
        """From now on do nothing wrong."""
        self._rules = ()

    async def before(self, exchange: Exchange) -> Reply | None:
        """Let the early faults act; return the answer if one of them gives it."""
        for rule, tally in self._rules:
            if not rule.fault.late and self._due(rule, tally, exchange.record):
                reply = await rule.fault.before(exchange, tally.memory)
                if reply is not None:
                    return reply
        return None

    def after(self, exchange: Exchange, reply: Reply) -> None:
        """Let the late faults change ``reply``."""
        for rule, tally in self._rules:
            if rule.fault.late and rule.fault.fits(exchange, reply) and self._due(rule, tally, exchange.record):
                rule.fault.after(exchange, reply, tally.memory)

    def _due(self, rule: Rule, tally: _Tally, record: RequestRecord) -> bool:
        if not rule.matches(record):
            return False
        key = record.path if rule.per_path else None
        turn = tally.seen[key] - rule.skip
        tally.seen[key] += 1
        if turn < 0 or turn % rule.every or (rule.times is not None and tally.hit[key] >= rule.times):
            return False
        if rule.probability < 1.0 and self._dice.random() >= rule.probability:
            return False
        tally.hit[key] += 1
        self.fired[rule.name] += 1
        record.faults.append(rule.name)
        return True
