"""Files of the roots that were written beside their place and never got it: what a process leaves that is killed while
it opens a cache, or keeps a market's list. The ``-v1`` directories have their own sweeps (``sweep``)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fetcher.cache.layout import Layout, disk_errors

_HEX = "[0-9a-f]{16}"


def unnamed(layout: Layout) -> Iterator[os.DirEntry[str]]:
    """All of them, whether or not somebody is still at work on one."""
    names = "|".join(re.escape(path.name) for path in (layout.cache_id, layout.principal_key))
    of_roots = re.compile(rf"\.probe-{_HEX}|\.(?:{names})\.{_HEX}")
    for root in {layout.cache_dir, layout.state_dir}:
        yield from _matching(root, of_roots)
    yield from _matching(layout.markets, re.compile(rf"\.new-{_HEX}"))


def _matching(directory: Path, pattern: re.Pattern[str]) -> Iterator[os.DirEntry[str]]:
    with disk_errors("look into", directory):
        try:
            with os.scandir(directory) as entries:
                found = [entry for entry in entries if pattern.fullmatch(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return
    yield from found
