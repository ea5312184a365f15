"""The last good list of each market, kept for the day its endpoint is down. Knows files, not what a list means.

What is kept holds no secret: the caller gives the list without its credentials, and names of principals (keyed hashes)
in their place.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fetcher.cache import durable
from fetcher.cache.layout import Layout, disk_errors, make_directory, refuse_foreign_file
from fetcher.errors import CacheError

FORMAT = "fetcher-market-1"
LIST_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class KeptList:
    """A list as it was at its last good answer."""

    name: str
    """Market address or URL that it was asked for by."""
    saved_at: float
    """Unix seconds."""
    url: str
    """Where it came from."""
    document: Mapping[str, Any]
    """As ``model.market`` reads it, without credentials."""
    principals: Mapping[str, str]
    """Key of an item's resource → keyed hash of the credential that came with it."""


class Markets:
    """The kept lists of one state directory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def save(self, kept: KeptList) -> None:
        """Keep a list in place of the one before. Raises CacheError, NoSpaceError."""
        directory = self._layout.markets
        make_directory(directory, 0o700)
        text = json.dumps(
            {
                "format": FORMAT,
                "name": kept.name,
                "saved_at": kept.saved_at,
                "url": kept.url,
                "document": kept.document,
                "principals": kept.principals,
            }
        )
        place = self._layout.market(_file_name(kept.name))
        staged = directory / f".new-{os.urandom(8).hex()}"
        with disk_errors("write", place):
            try:
                durable.write_file(staged, [text.encode()], 0o600, sync=True)
                os.rename(staged, place)
            except BaseException:
                durable.remove_file(staged)
                raise

    def load(self, name: str) -> KeptList | None:
        """What was kept under ``name``; None if there is nothing, or nothing that can be read or trusted: it is a
        convenience."""
        place = self._layout.market(_file_name(name))
        try:
            refuse_foreign_file(place)
            with place.open("rb") as file:
                value = json.loads(file.read(LIST_BYTES_MAX))
            if value["format"] != FORMAT or value["name"] != name or not isinstance(value["document"], dict):
                return None
            principals = {str(at): str(principal) for at, principal in dict(value["principals"]).items()}
            saved_at = float(value["saved_at"])
            if not math.isfinite(saved_at):
                return None
            return KeptList(name, saved_at, str(value["url"]), value["document"], principals)
        except (CacheError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
