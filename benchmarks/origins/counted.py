"""The embedded hub as an origin that counts and can be slowed: the parent's side of ``embedded``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.running.machine import put_first
from benchmarks.running.work import CHECKOUT


class Counted:
    """A running hub; see embedded.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.endpoint: str = self._read()["endpoint"]

    def count(self) -> dict[str, Any]:
        """Requests by route, connections and body bytes since the last time."""
        return self._ask("count")

    def look(self) -> dict[str, Any]:
        """Body bytes since then, and how many bodies are under way."""
        return self._ask("look")

    def _ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin
        print(question, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def counted(**options: int) -> Iterator[Counted]:
    """A running hub with these contents, gone when the block is left."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.origins.embedded", *arguments],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    put_first(process.pid)
    with process:
        try:
            yield Counted(process)
        finally:
            assert process.stdin
            process.stdin.close()
