"""The embedded hub as an origin that counts and can be slowed: the parent's side of ``embedded``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.origins.processes import Partner, own_module, talking


class Counted:
    """A running hub; see embedded.py."""

    def __init__(self, partner: Partner) -> None:
        self._partner = partner
        self.pid = partner.pid
        self.endpoint: str = partner.told()["endpoint"]

    def count(self) -> dict[str, Any]:
        """Requests by route, connections and body bytes since the last time."""
        return self._partner.ask("count")

    def look(self) -> dict[str, Any]:
        """Body bytes since then, and how many bodies are under way."""
        return self._partner.ask("look")


@contextmanager
def counted(**options: int) -> Iterator[Counted]:
    """A running hub with these contents, gone when the block is left."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with talking(own_module("embedded", *arguments)) as partner:
        yield Counted(partner)
