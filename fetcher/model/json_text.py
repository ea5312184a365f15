"""JSON text of strangers → Python values, bounded in size and depth, with doubled names told by their place.

The standard parser lets the last of two equal names win in silence, so two readers of one document may see two
different documents; here that is a fault. So are ``NaN`` and its kin, which JSON does not have (RFC 8259, 4 and 6).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Final, NoReturn

from fetcher.errors import Fault
from fetcher.model.text import SHOWN_CHARACTERS_MAX, shown

TEXT_BYTES_MAX: Final = 16 << 20
DEPTH_MAX: Final = 64
"""Objects and arrays inside each other; a Job Definition needs about ten."""
FAULTS_MAX: Final = 1_000
"""More than a person will read; a hostile document could hold millions."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def member(at: str, name: str) -> str:
    """JSON path of member ``name`` of the object at ``at``."""
    plain = len(name) <= SHOWN_CHARACTERS_MAX and _PLAIN_NAME.fullmatch(name)
    return f"{at}.{name}" if plain else f"{at}[{json.dumps(shown(name))}]"


class JSONFaults(Exception):
    """The text is no JSON document that we read; every fault that could be told."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(faults[0].message)
        self.faults = faults


class NotJSON(JSONFaults):
    """The text has not the form of JSON; it may be something else."""


class _Doubled(dict[str, object]):
    """An object in whose text ``names`` occur more than once."""

    names: tuple[str, ...] = ()


def parse_json(text: str | bytes) -> object:
    """The value of ``text``. Raises JSONFaults; NotJSON, if it is within bounds but has not the form of JSON."""
    if len(text) > TEXT_BYTES_MAX:
        raise JSONFaults(Fault("$", f"larger than {TEXT_BYTES_MAX >> 20} MiB"))
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise JSONFaults(Fault("$", f"not UTF-8 at byte {error.start}")) from None
    text = text.removeprefix("\ufeff")  # Windows editors put it there
    if not text.strip():
        raise JSONFaults(Fault("$", "empty, where a JSON document should be"))
    doubled: list[_Doubled] = []

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        built = dict(pairs)
        if len(built) == len(pairs):
            return built
        counts = Counter(name for name, _ in pairs)
        marked = _Doubled(built)
        marked.names = tuple(name for name, count in counts.items() if count > 1)
        doubled.append(marked)
        return marked

    try:
        value: object = json.loads(text, object_pairs_hook=build, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise NotJSON(Fault("$", f"not JSON: {error.msg} at {place}")) from None
    except RecursionError:
        raise JSONFaults(_too_deep()) from None
    except ValueError as error:  # NaN and its kin; integers of thousands of digits
        raise JSONFaults(Fault("$", f"not JSON: {str(error)[:80]}")) from None
    if _deeper_than(value, DEPTH_MAX):
        raise JSONFaults(_too_deep())
    if doubled:
        raise JSONFaults(*_doubled_faults(value))
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _too_deep() -> Fault:
    return Fault("$", f"more than {DEPTH_MAX} objects and arrays inside each other")


def _deeper_than(value: object, depth_max: int) -> bool:
    level = [value]
    for _ in range(depth_max):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = inner
    return any(isinstance(item, dict | list) for item in level)


def _doubled_faults(value: object) -> list[Fault]:
    """Places of doubled names, in document order. Walks everything: only for documents known to have one."""
    found: list[Fault] = []

    def walk(item: object, at: str) -> None:  # as deep as DEPTH_MAX at most
        if len(found) >= FAULTS_MAX:
            return
        if isinstance(item, _Doubled):
            hint = "keep one; readers differ in which of them counts"
            found.extend(Fault(member(at, name), "this name is there more than once", hint) for name in item.names)
        if isinstance(item, dict):
            for name, inner in item.items():
                walk(inner, member(at, name))
        elif isinstance(item, list):
            for index, inner in enumerate(item):
                walk(inner, f"{at}[{index}]")

    walk(value, "$")
    return found[:FAULTS_MAX]
