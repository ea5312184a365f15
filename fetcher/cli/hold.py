"""``job --hold``: wait until nobody needs the mounts any more."""

from __future__ import annotations

import asyncio
import os
import select
from pathlib import Path

LOOK_EVERY_S = 0.2


async def hold(*, parent_pid: int | None, owner_pid: int | None) -> None:
    """Return when stdin is closed, the owner is gone, or SIGINT or SIGTERM comes.

    ``parent_pid`` (the document was read from stdin): the end of this parent takes the place of its closing. It is
    asked for as the program begins: what was fetched for the hold may have outlived it.
    """
    try:
        # A look now and then instead of a reader on the loop: stdin may be a regular file, which no loop can watch.
        while True:
            if parent_pid is None and _stdin_closed():
                return
            if parent_pid is not None and os.getppid() != parent_pid:
                return
            if owner_pid is not None and not Path(f"/proc/{owner_pid}").exists():
                return
            await asyncio.sleep(LOOK_EVERY_S)
    except asyncio.CancelledError:
        # The signal that ends a hold is its regular end, not an interruption.
        return


def _stdin_closed() -> bool:
    try:
        ready, _, _ = select.select([0], [], [], 0)
        return bool(ready) and not os.read(0, 1 << 16)
    except (OSError, ValueError):
        return True
