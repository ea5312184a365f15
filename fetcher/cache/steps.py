"""The steps of publishing and removing, in the order of docs/FORMAT.md ("The order of things").

Each is marked in the code where it has just been taken. A test may look there, or end the process; nobody else listens,
and then a mark costs a comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

Step = Literal[
    "blob:closed",
    "blob:durable",
    "blob:tree-durable",
    "blob:tree-named",
    "blob:named",
    "blob:names-durable",
    "blob:rows",
    "blob:partial-removed",
    "small:written",
    "small:durable",
    "small:named",
    "small:rows",
    "snapshot:filled",
    "snapshot:durable",
    "snapshot:sidecar-durable",
    "snapshot:sidecar-named",
    "snapshot:named",
    "snapshot:names-durable",
    "snapshot:rows",
    "removal:snapshot-condemned",
    "removal:snapshots-committed",
    "removal:snapshots-deleted",
    "removal:blob-condemned",
    "removal:blobs-committed",
    "removal:blobs-deleted",
]
STEPS: tuple[Step, ...] = get_args(Step)

_listener: Callable[[Step], None] | None = None


def taken(step: Step) -> None:
    """This step has just been taken."""
    if _listener is not None:
        _listener(step)


def listen(listener: Callable[[Step], None] | None) -> None:
    """Call ``listener`` at each mark in this process, in whichever thread comes by; None: no more. For tests."""
    global _listener
    _listener = listener
