"""YAML text of strangers → the values that JSON would have given, within the bounds of JSON.

Only what JSON can say is read, in YAML's friendlier spelling: objects with texts as names, lists, texts, numbers as
JSON writes them, true, false and null. Everything else that YAML makes of plain words (dates, ``yes``, ``0x1F``,
``1_000``, ``.inf``) stays the text that was written: a revision ``2024-05-01`` is a revision. Aliases are followed, and
what they repeat counts each time, so that no small text becomes a large document. Tags of other types, merge keys and
several documents in one text are faults.

The parser of events is PyYAML's, in C where it was built so; values are built here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from fetcher.errors import Fault
from fetcher.model.json_text import DEPTH_MAX, FAULTS_MAX, JSONFaults, member
from fetcher.model.text import shown, unencodable

VALUES_MAX: Final = 200_000
"""Values in one document, those that aliases repeat counted each time; each costs some microseconds to read."""
REPEATED_CHARACTERS_MAX: Final = 4 << 20
"""Text that aliases may repeat."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,308})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BARE_LITERAL = re.compile(r"[:,\[-] ?%%")
"""Where YAML wants a value and finds a ``%``, which begins no plain text."""
_WORDS: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
"""YAML 1.2, core schema (10.3.2)."""
_STANDARD_TAG: Final = "tag:yaml.org,2002:"


def parse_yaml(text: str | bytes, *, not_json: Fault) -> object:
    """The value of ``text``, of which ``not_json`` says why it is no JSON and that is within the bounds of JSON text.

    Raises JSONFaults: one with line and column for a text that is neither, else all that is wrong with it.
    """
    if isinstance(text, bytes):
        text = text.decode()
    text = text.removeprefix("\ufeff")
    if unencodable(text):
        raise JSONFaults(not_json)
    try:
        return _Builder(yaml.parse(text, Loader=_LOADER)).document()
    except yaml.YAMLError as error:
        if text.lstrip().startswith(("{", "[")):
            raise JSONFaults(not_json) from None  # meant as JSON: that is the helpful sentence
        hint = 'put a literal in quotes: "%%…%%"' if _BARE_LITERAL.search(text) else None
        raise JSONFaults(Fault("$", f"neither JSON nor YAML: {_problem(error)}", hint)) from None


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{shown(error.problem or 'not YAML')} at {_place(error.problem_mark)}"
    position = getattr(error, "position", None)
    return f"a character that YAML does not have, at number {position}" if position is not None else "not YAML"


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


@dataclass(slots=True)
class _Node:
    """A value with what it costs to repeat it."""

    value: object
    values: int = 1
    characters: int = 0


@dataclass(slots=True)
class _Builder:
    """Builds the value of one document from the parser's events; recursion ends at ``DEPTH_MAX``."""

    events: Iterator[Any]
    values_left: int = VALUES_MAX
    repeated_left: int = REPEATED_CHARACTERS_MAX
    anchors: dict[str, _Node | None] = field(default_factory=dict)
    """Name → what it stands for; None while that is still being read."""
    faults: list[Fault] = field(default_factory=list)

    def document(self) -> object:
        event = next(self.events)
        while isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):  # nothing but comments
            raise JSONFaults(Fault("$", "empty, where a document should be"))
        node = self._node(event, "$", 0)
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise JSONFaults(Fault("$", f"a second document begins at {_place(event.start_mark)}", "keep one"))
        if self.faults:
            raise JSONFaults(*self.faults)
        return node.value

    def _node(self, event: Any, at: str, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, at)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, at)
        elif depth >= DEPTH_MAX:
            raise JSONFaults(Fault("$", f"more than {DEPTH_MAX} objects and lists inside each other"))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq", at)
            node = self._list(at, depth)
        else:
            self._check_tag(event, "map", at)
            node = self._object(at, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, at: str) -> _Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            word = "stands for what it is in" if event.anchor in self.anchors else "was never defined"
            raise JSONFaults(Fault(at, f"alias *{shown(event.anchor)} {word}, at {_place(event.start_mark)}"))
        self._count(node.values)
        self.repeated_left -= node.characters
        if self.repeated_left < 0:
            raise JSONFaults(Fault(at, f"aliases repeat more than {REPEATED_CHARACTERS_MAX >> 20} MiB of text"))
        return node

    def _count(self, values: int) -> None:
        self.values_left -= values
        if self.values_left < 0:
            raise JSONFaults(Fault("$", f"more than {VALUES_MAX} values, those of aliases counted each time"))

    def _scalar(self, event: Any, at: str) -> _Node:
        self._count(1)
        text: str = event.value
        node = _Node(text, 1, len(text))
        if event.tag not in (None, "!", f"{_STANDARD_TAG}str"):
            self._fault(at, f"tag {shown(event.tag)} at {_place(event.start_mark)}", "only what JSON can say is read")
        elif event.tag is None and event.implicit[0]:  # plain, without quotes
            if text in _WORDS:
                node.value = _WORDS[text]
            elif _NUMBER.fullmatch(text):
                node.value = _number(text)
        return node

    def _check_tag(self, event: Any, kind: str, at: str) -> None:
        if event.tag not in (None, "!", f"{_STANDARD_TAG}{kind}"):
            self._fault(at, f"tag {shown(event.tag)} at {_place(event.start_mark)}", "only what JSON can say is read")

    def _list(self, at: str, depth: int) -> _Node:
        self._count(1)
        found: list[object] = []
        total = _Node(found)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            node = self._node(event, f"{at}[{len(found)}]", depth + 1)
            found.append(node.value)
            total.values += node.values
            total.characters += node.characters
        return total

    def _object(self, at: str, depth: int) -> _Node:
        self._count(1)
        found: dict[str, object] = {}
        doubled: set[str] = set()
        total = _Node(found)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            name = self._name(event, at)
            place = member(at, name)
            node = self._node(next(self.events), place, depth + 1)
            if name in found and name not in doubled:
                doubled.add(name)
                hint = "keep one; readers differ in which of them counts"
                self._fault(place, "this name is there more than once", hint)
            found[name] = node.value
            total.values += node.values
            total.characters += node.characters + len(name)
        return total

    def _name(self, event: Any, at: str) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise JSONFaults(Fault(at, f"a name must be a text, at {_place(event.start_mark)}"))
        if event.anchor is not None:
            self.anchors[event.anchor] = _Node(event.value, 1, len(event.value))
        if event.value == "<<" and event.implicit[0]:
            self._fault(member(at, "<<"), "merge keys are not read", "write the members out")
        return str(event.value)

    def _fault(self, at: str, message: str, hint: str) -> None:
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(at, message, hint))


def _number(text: str) -> object:
    if re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    number = float(text)
    return text if number in (float("inf"), float("-inf")) else number
