"""JSON Schemas (draft 2020-12) of everything that ``--json`` writes: one file per ``event``, named after it.

They describe; nothing in the program reads them. docs/MACHINE.md is the text beside them.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

EVENTS = (
    "cache_dir",
    "completion",
    "damage",
    "df",
    "doctor",
    "entry",
    "error",
    "inspect",
    "mounts",
    "pinned",
    "plan",
    "progress",
    "released",
    "removed",
    "renewed",
    "snapshot",
    "summary",
    "unpinned",
    "verified",
)


def load(event: str) -> dict[str, Any]:
    """The schema of the objects whose ``event`` is ``event``; KeyError for a word that no object has."""
    if event not in EVENTS:
        raise KeyError(event)
    schema: dict[str, Any] = json.loads(files(__name__).joinpath(f"{event}.json").read_text(encoding="utf-8"))
    return schema
