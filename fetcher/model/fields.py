"""Members of objects of strangers, one by one: the right type, literals filled in, faults told by JSON path.

Every reader here returns None for what is absent (null counts as absent), wrong (then the fault is noted) or not yet
known (then the wait is noted): a resource is given up only when all of it was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fetcher.model.faults import Faults
from fetcher.model.json_text import member
from fetcher.model.literals import LiteralFault, Literals, LiteralWaits, flat, has_literal, is_list, joined, unfolded
from fetcher.model.text import nearest, unencodable

REMOVE_IF_EMPTY: Final = "__remove-if-empty__"
"""Sentinel in a list: no item itself; the list counts as absent if nothing else is left in it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A place whose value can't be known from the document."""

    at: str
    reason: str


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a list."""

    at: str
    """JSON path of the place in the document that it comes from."""
    value: object = field(repr=False)
    """None where there is only a wait."""
    filled: bool = False
    """Whether a literal stood for it."""
    wait: Wait | None = None


@dataclass(slots=True)
class Fields:
    """Reads the members of one object, and notes what is wrong with them and what has to be waited for."""

    item: Mapping[str, object] = field(repr=False)
    at: str
    """JSON path of the object."""
    faults: Faults
    literals: Literals
    written: Mapping[str, str] = field(default_factory=dict)
    """Names that the document spells differently: ours → its."""
    waits: list[Wait] = field(default_factory=list)

    def place(self, name: str) -> str:
        """JSON path of member ``name``."""
        return member(self.at, self.written.get(name, name))

    def absent(self, name: str) -> bool:
        """Whether there is no such member."""
        return self.item.get(name) is None

    def unknown(self, known: Sequence[str], meant: Mapping[str, str] | None = None) -> None:
        """Note every member that is not in ``known``; ``meant``: frequent slips and what they mean."""
        for name in self.item:
            if name in known:
                continue
            if self.faults.is_full:
                self.faults.count += 1
                return
            text = str(name)  # a caller's own object may have any keys
            near = (meant or {}).get(text) or nearest(text, known)
            hint = f"did you mean {near}?" if near else f"the fields are {', '.join(known)}"
            self.faults.add(self.place(text), "unknown field", hint)

    def text(self, name: str, *, secret: bool = False) -> str | None:
        """Member ``name`` as text. Of a ``secret`` one no message quotes anything."""
        item = self._filled(self.place(name), self.item.get(name), name, secret=secret)
        return None if item is None or item.value is None else self.item_text(item, name)

    def item_text(self, item: Item, what: str) -> str | None:
        """An item of a list as text; ``what`` to call it."""
        value = joined(item.value) if item.filled else item.value
        if not isinstance(value, str):
            hint = "put it in quotes" if isinstance(value, bool | int | float) else None
            self.faults.add(item.at, f"{what} must be a text, not {kind_of(value)}", hint)
        elif unencodable(value):
            self.faults.add(item.at, f"{what} has half of a surrogate pair in it")
        else:
            return value
        return None

    def flag(self, name: str) -> bool | None:
        """Member ``name`` as true or false; as text only where a literal stood for it."""
        item = self._filled(self.place(name), self.item.get(name), name)
        value = None if item is None else item.value
        if item and item.filled and value in ("true", "false"):
            return value == "true"
        if value is None or isinstance(value, bool):
            return value
        self.faults.add(self.place(name), f"{name} must be true or false, not {kind_of(value)}")
        return None

    def mapping(self, name: str) -> Mapping[str, object] | None:
        """Member ``name`` as an object that may hold secrets."""
        item = self._filled(self.place(name), self.item.get(name), name, secret=True)
        value = None if item is None else unfolded(item.value) if item.filled else item.value
        if value is None or isinstance(value, Mapping):
            return value
        self.faults.add(self.place(name), f"{name} must be an object, not {kind_of(value)}")
        return None

    def items(self, name: str) -> list[Item]:
        """Items of the list ``name``, lists that literals stand for taken apart. Each tells its own wait."""
        at = self.place(name)
        whole = self._filled(at, self.item.get(name), name)
        if whole is None or whole.value is None:
            return []
        value = list(flat(whole.value)) if whole.filled else whole.value
        if not is_list(value):
            self.faults.add(at, f"{name} must be a list, not {kind_of(value)}")
            return []
        found: list[Item] = []
        for index, inner in enumerate(value):
            place = f"{at}[{index}]"
            item = Item(place, inner, filled=True) if whole.filled else self._item(place, inner, name)
            if item is None:
                continue
            if item.filled and is_list(unfolded(item.value)):
                found += [Item(f"{place}[{n}]", part, filled=True) for n, part in enumerate(flat(item.value))]
            else:
                found.append(item)
        return [item for item in found if not (isinstance(item.value, str) and item.value == REMOVE_IF_EMPTY)]

    def known_items(self, name: str) -> list[Item]:
        """As ``items``; those that have to be waited for are noted and left out."""
        found = self.items(name)
        self.waits += [item.wait for item in found if item.wait]
        return [item for item in found if not item.wait]

    def _filled(self, at: str, value: object, name: str, *, secret: bool = False) -> Item | None:
        """``value`` with its literals filled in; None for what is wrong or, then noted, has to be waited for."""
        item = self._item(at, value, name, secret=secret)
        if item and item.wait:
            self.waits.append(item.wait)
            return None
        return item

    def _item(self, at: str, value: object, name: str, *, secret: bool = False) -> Item | None:
        if not isinstance(value, str) or not has_literal(value):
            return Item(at, value)
        try:
            return Item(at, self.literals.fill(value), filled=True)
        except LiteralWaits as waits:
            reason = f"{name} holds a literal that is filled in when the op runs" if secret else waits.reason
            return Item(at, None, wait=Wait(at, reason))
        except LiteralFault as fault:
            quotable = fault.known_form or not secret
            self.faults.add(at, fault.message if quotable else f"{name} holds an unknown literal", fault.hint)
            return None


def kind_of(value: object) -> str:
    """The JSON word for a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if is_list(value) else f"a {type(value).__name__}"
