"""A little space set aside, so that a full disk does not lock out the very commands that would empty it.

SQLite can't even be read without growing its log and its shared memory file. When nothing is left, the spare file is
removed: what it held is enough for some hundred transactions, such as those of ``prune`` and ``rm``.
"""

from __future__ import annotations

import os

from fetcher.cache.layout import Layout

SPARE_BYTES = 1 << 20
FULL_BELOW_BYTES = 512 << 10
"""Free space below which the spare is given up."""
EASY_ABOVE_BYTES = 16 << 20
"""Free space above which it is set aside (again)."""


def keep(layout: Layout) -> None:
    """Set the spare aside where there is room, give it up where there is none. Never raises: it is a courtesy."""
    try:
        free = _free_bytes(layout)
        if free < FULL_BELOW_BYTES:
            os.unlink(layout.spare)
        elif free > EASY_ABOVE_BYTES and not layout.spare.exists():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(layout.spare, flags, 0o600)
            try:
                os.fchmod(descriptor, 0o600)
                os.posix_fallocate(descriptor, 0, SPARE_BYTES)
            except OSError:
                os.unlink(layout.spare)
            finally:
                os.close(descriptor)
    except OSError:
        return


def give_up_if_full(layout: Layout) -> None:
    """For those who only look."""
    try:
        if _free_bytes(layout) < FULL_BELOW_BYTES:
            os.unlink(layout.spare)
    except OSError:
        return


def _free_bytes(layout: Layout) -> int:
    room = os.statvfs(layout.state_dir)
    return room.f_bavail * room.f_frsize
