"""A terminal that holds up nobody who draws on it, however long nobody looks at it."""

from __future__ import annotations

import os
import time
from typing import TextIO

PATIENCE_S = 1.0
"""At the end: so long for a reader who takes nothing."""
POLL_S = 0.01


class Terminal:
    """The terminal behind a stream, as a file that rich can write to.

    The kernel calls a terminal writable while it takes any byte at all, and a drawing has many. So it is opened once
    more: that description does not block, and whoever shares the stream's own does not notice. What has no room is
    kept and goes first the next time; whoever draws asks ``is_clear`` before. So what is kept is never more than one
    drawing, and nothing is ever cut off in the middle.
    """

    def __init__(self, stream: TextIO) -> None:
        """Raises OSError where the stream is no terminal that we may open: it may be another user's (``su``)."""
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(f"/proc/self/fd/{stream.fileno()}", flags)
        self._left = bytearray()
        self.encoding = stream.encoding

    def fileno(self) -> int:
        """For whoever asks how wide it is."""
        return self._descriptor

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._left += text.encode(self.encoding, "backslashreplace")
        return len(text)

    def flush(self) -> None:
        self.is_clear()

    def is_clear(self) -> bool:
        """Whether all that was written has gone, now that it was tried again. Raises OSError if the terminal has."""
        while self._left:
            try:
                count = os.write(self._descriptor, self._left)
            except BlockingIOError:
                return False
            except OSError:
                self._left.clear()
                raise
            del self._left[:count]
        return True

    def close(self, *, wait: bool) -> None:
        """Let what is left go. ``wait``: until somebody reads; else only while somebody does, for a moment at least."""
        try:
            if wait:
                os.set_blocking(self._descriptor, True)
            left, deadline = len(self._left), time.monotonic() + PATIENCE_S
            while not self.is_clear() and time.monotonic() < deadline:
                if len(self._left) < left:
                    left, deadline = len(self._left), time.monotonic() + PATIENCE_S
                time.sleep(POLL_S)
        finally:
            self._left.clear()
            os.close(self._descriptor)
