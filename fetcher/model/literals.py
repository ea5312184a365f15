"""Literals (``%%…%%``) in Job Definitions: what can be known from the document alone is filled in, the rest is named.

A node fills them in op by op, right before an op runs. Three kinds (nosana-cli, interpolateOperation):

- ``%%global.variables.X%%`` is in the document itself, under ``$.global.variables``: filled in here;
- ``%%ops.<id>.…%%`` is a result or an address of another op: known when that op has run;
- ``%%global.<key>%%`` and ``%%globals.<key>%%`` (job, host, project, …) are known to the node that runs it.

A text that is exactly one literal stands for whatever the variable holds. Inside a longer text a list is joined by
blanks and an object is its JSON text; in a list a list is flattened. A variable may hold literals of its own; each is
filled in once, and all that is filled in counts against one budget, so that no document grows beyond its bounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeGuard

from fetcher.model.json_text import DEPTH_MAX, JSONFaults, parse_json
from fetcher.model.text import nearest, shown

BUDGET_UNITS: Final = 4 << 20
"""Characters and values that the literals of one document may stand for, all uses together."""
CHAIN_MAX: Final = 16
"""Variables that refer to each other in a row."""
WALK_MAX: Final = 1_000_000
"""Values looked at in search of credentials; a text document of the largest size has fewer that matter."""
GUESSED_AMONG_MAX: Final = 200
"""Variables among which a typing error is looked for."""
VARIABLES: Final = "$.global.variables"

_LITERAL = re.compile(r"%%[^%\s]+%%|%%(?:ops|globals?)\.[^%]+%%")
_OP = re.compile(r"%%ops\.([^.%]+)\.[^%]+%%")
_VARIABLE = re.compile(r"%%global\.variables\.([^%]+)%%")
_NODE = re.compile(r"%%globals?\.[^.%]+%%")
_FORMS: Final = "literals are %%global.variables.<name>%%, %%ops.<id>.results.<key>%% and %%global.<key>%%"
_SECRET_NAME = re.compile(r"token(?!iz|s\b)|secret|passw|api_?key|access_?key|credential", re.IGNORECASE)
_CREDENTIAL_NAME = re.compile(r"(token|secret|passw(or)?d|api_?key|secret_?(access_?)?key)$", re.IGNORECASE)
"""Of these, what opens something by itself. A key's id does not, and may be what a bucket is called; a variable
``TOKEN_CLASSIFIER`` may name a model."""


class LiteralWaits(Exception):
    """The value can't be known from the document; ``reason`` says who knows it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LiteralFault(Exception):
    """The literal can't stand for anything."""

    def __init__(self, message: str, hint: str | None = None, *, known_form: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.known_form = known_form
        """False: the text between the signs is of no known form, and so may be anything, a secret too."""


def has_literal(text: str) -> bool:
    """Whether there is a literal in ``text``."""
    return "%%" in text and _LITERAL.search(text) is not None


def is_literal(text: str) -> bool:
    """Whether ``text`` is exactly one literal."""
    return _LITERAL.fullmatch(text) is not None


class Literals:
    """The literals of one document."""

    def __init__(self, document: object = None) -> None:
        """``document``: the Job Definition; without one nothing can be known, and every literal waits."""
        section = document.get("global") if isinstance(document, Mapping) else None
        self._known = isinstance(document, Mapping)
        self._variables: object = section.get("variables") if isinstance(section, Mapping) else None
        self._filled: dict[str, tuple[object, int]] = {}
        """Variable → its value and what each use of it costs."""
        self._open: list[str] = []
        """Variables that are being filled in, each because of the one before it."""
        self._units_left = BUDGET_UNITS

    def fill(self, text: str) -> object:
        """What ``text`` stands for. Raises LiteralFault, or else LiteralWaits."""
        if is_literal(text):
            return self._value(text)
        pieces: list[str] = []
        position = 0
        waits: LiteralWaits | None = None
        for match in _LITERAL.finditer(text):
            pieces.append(text[position : match.start()])
            position = match.end()
            try:
                pieces.append(joined(self._value(match[0])))
            except LiteralWaits as error:
                waits = waits or error
        if waits:
            raise waits
        filled = "".join([*pieces, text[position:]])
        self._spend(len(filled))
        return filled

    def _value(self, literal: str) -> object:
        if match := _OP.fullmatch(literal):
            raise LiteralWaits(f"known only when op {shown(match[1])} has run ({shown(literal)})")
        if _NODE.fullmatch(literal) or (not self._known and _VARIABLE.fullmatch(literal)):
            raise LiteralWaits(f"{shown(literal)} is filled in by the node, when the op runs")
        if match := _VARIABLE.fullmatch(literal):
            return self._variable(match[1])
        if literal.startswith("%%globals.variables."):
            raise LiteralFault(f"unknown literal {shown(literal)}", "write global, not globals, before variables")
        raise LiteralFault(f"unknown literal {shown(literal)}", _FORMS, known_form=False)

    def _variable(self, name: str) -> object:
        if name not in self._filled:
            self._filled[name] = self._fill_variable(name)
        value, units = self._filled[name]
        self._spend(units)
        return value

    def _fill_variable(self, name: str) -> tuple[object, int]:
        if name in self._open:
            raise LiteralFault(f"variable {shown(name)} stands for itself")
        if len(self._open) >= CHAIN_MAX:
            raise LiteralFault(f"more than {CHAIN_MAX} variables refer to each other in a row")
        variables = self._variables
        if not isinstance(variables, Mapping) or variables.get(name) in (None, ""):
            raise LiteralFault(*self._missing(name, variables))
        before = self._units_left
        self._open.append(name)
        try:
            value = self._deep(variables[name], 0)
        finally:
            self._open.pop()
        return value, before - self._units_left

    def _missing(self, name: str, variables: object) -> tuple[str, str]:
        if not isinstance(variables, Mapping):
            return f"no variable {shown(name)}: the document has no object {VARIABLES}", f"set it in {VARIABLES}"
        if name in variables:
            return f"variable {shown(name)} is empty", f"set it in {VARIABLES}"
        few = len(variables) <= GUESSED_AMONG_MAX
        near = nearest(name, [key for key in variables if isinstance(key, str)]) if few else None
        return f"no variable {shown(name)} in {VARIABLES}", f"did you mean {shown(near)}?" if near else "set it there"

    def _deep(self, value: object, depth: int) -> object:
        """A value of a variable with the literals in it filled in."""
        if depth > DEPTH_MAX:
            raise LiteralFault(f"a variable with more than {DEPTH_MAX} objects and arrays inside each other")
        if isinstance(value, str):
            self._spend(len(value) + 1)
            return self.fill(value) if has_literal(value) else value
        self._spend(1)
        if isinstance(value, Mapping):
            return {str(key): self._deep(inner, depth + 1) for key, inner in value.items()}
        if is_list(value):
            found: list[object] = []
            for item in value:
                inner = self._deep(item, depth + 1)
                if isinstance(item, str) and is_list(inner):
                    found += inner
                else:
                    found.append(inner)
            return found
        return value

    def _spend(self, units: int) -> None:
        self._units_left -= units
        if self._units_left < 0:
            raise LiteralFault(f"the literals of this document stand for more than {BUDGET_UNITS >> 20} MiB")

    # --- what must not be quoted

    def secrets(self, *places: object) -> tuple[str, ...]:
        """Texts in ``places`` and in the variables that may be secret, by the name of their field or variable."""
        return self._named(_SECRET_NAME, places)

    def credentials(self, *places: object) -> tuple[str, ...]:
        """Those of them that are credentials for certain."""
        return self._named(_CREDENTIAL_NAME, places)

    def _named(self, pattern: re.Pattern[str], places: tuple[object, ...]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        waiting = [name for text in _under((*places, self._variables), pattern) for name in self._noted(text, found)]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or not isinstance(self._variables, Mapping):
                continue
            seen.add(name)
            for text in _texts(self._variables.get(name)):
                waiting += self._noted(text, found)
        return tuple(found)

    def _noted(self, text: str, found: dict[str, None]) -> list[str]:
        """Note a secret text, without the literals in it; returns the variables that these name."""
        for piece in _LITERAL.split(text):
            found[piece.strip()] = None
        found.pop("", None)
        return _VARIABLE.findall(text)


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Whether ``value`` is what JSON calls an array."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def unfolded(value: object) -> object:
    """``value``, or what it holds if it is the JSON text of a list or an object."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return parse_json(value)
        except JSONFaults:
            return value
    return value


def flat(value: object, depth: int = 0) -> Iterator[object]:
    """Items of ``value``, lists in lists and the JSON text of lists taken apart; ``value`` itself if it is none. Texts
    in texts are as deep as somebody likes: what lies deeper than a document may stays a text."""
    held = unfolded(value) if depth <= DEPTH_MAX else value
    if not is_list(held):
        yield value
        return
    for item in held:
        yield from flat(item, depth + 1)


def joined(value: object) -> str:
    """``value`` inside a longer text: lists joined by blanks, objects as JSON."""
    return " ".join(_tokens(value, 0))


def _tokens(value: object, depth: int) -> Iterator[str]:
    if depth <= DEPTH_MAX:
        value = unfolded(value)
    if isinstance(value, str):
        yield value
    elif isinstance(value, bool):
        yield "true" if value else "false"
    elif isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        yield str(int(value))  # as JavaScript, which knows one kind of number
    elif isinstance(value, Mapping):
        yield json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
    elif is_list(value):
        for item in value:
            yield from _tokens(item, depth + 1)
    elif value is not None:
        yield str(value)


def _under(places: Sequence[object], pattern: re.Pattern[str]) -> Iterator[str]:
    """Texts under names that say what they are, wherever in ``places``."""
    for name, value in _members(places):
        if pattern.search(name):
            yield from _texts(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for _, inner in _members((value,)):
        if isinstance(inner, str):
            yield inner


def _members(places: Sequence[object]) -> Iterator[tuple[str, object]]:
    """Every member of every object in ``places``, and every item of a list under an empty name. Nothing of a caller's
    own objects is trusted to end: they may hold themselves."""
    waiting = list(places)
    seen: dict[int, object] = {}
    left = WALK_MAX
    while waiting and left > 0:
        value = waiting.pop()
        if id(value) in seen:
            continue
        members: list[tuple[str, object]] = []
        if isinstance(value, Mapping):
            members = [(str(key), inner) for key, inner in value.items()]
        elif is_list(value):
            members = [("", inner) for inner in value]
        elif isinstance(value, str):
            held = unfolded(value)
            members = [] if isinstance(held, str) else [("", held)]
        if members:
            seen[id(value)] = value  # held, or its number might become another's
        left -= len(members)
        yield from members
        waiting += [inner for _, inner in members]
