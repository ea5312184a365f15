"""Promises of the block sink and of its twin plain_sink.py.

A sink has threads of its own, which never take the GIL. One that is at work is not interrupted by anything.
"""

from typing import Any, Final

from typing_extensions import Buffer

BLOCK_BYTES: Final = 1048576
THREADS_MAX: Final = 64
STAGE_DONE: Final = 0
STAGE_DATA: Final = 1
STAGE_JOURNAL: Final = 2

def simd() -> str:
    """The kernel of BLAKE3 in use, as of the module ``blake3``."""

def set_simd(name: str) -> None:
    """Use another kernel from now on, in every thread."""

def preallocate(fd: int, size: int, *, offset: int = 0) -> bool:
    """Allocate what ``size`` bytes from ``offset`` on take; the file's size stays. False where the file system can't.

    OSError for what is wrong: ENOSPC, EDQUOT, EFBIG …; an unknown part is allocated then.
    """

class BlockSink:
    """Hashes, writes and journals blocks in ``threads`` threads; thread-safe. Up to ``waiting`` more take over while
    others wait for the disk, which is what a block with a ``direct_fd`` does.

    It belongs to the process that made it. In a child of fork its methods raise RuntimeError, but for ``fileno`` and
    ``close``; the child must not use the descriptor, which is the parent's: to read it there takes his wake-up.

    What was submitted is held (token and buffer) until ``completions`` returns it or the sink is gone. A sink that is
    let go of without ``close`` waits for its threads.
    """

    def __init__(self, threads: int, *, waiting: int = 0) -> None:
        """OSError when there can be no more threads or descriptors."""

    def fileno(self) -> int:
        """A descriptor that is readable as long as completions wait; woken once for many.

        ValueError after ``close``; whoever watches it has to stop before that.
        """

    @property
    def pending(self) -> int:
        """Submitted, and not yet returned by ``completions``."""

    def submit(
        self,
        token: Any,
        fd: int,
        offset: int,
        view: Buffer,
        journal_fd: int,
        journal_offset: int,
        *,
        direct_fd: int = -1,
    ) -> None:
        """Queue one block: ``view``, 1 byte to 1 MiB, goes to ``offset``, a multiple of 1 MiB.

        Its chaining value is computed and its bytes are written to ``fd``; or to ``direct_fd``, the same file opened
        with O_DIRECT, if that is not -1 and both length and address are multiples of 4096 (where the disk wants more,
        to ``fd`` after all). If ``journal_fd`` is not -1, the block's record (48 bytes, kind 1) then goes to
        ``journal_offset``, a place that nobody else writes to.

        Never waits. The descriptors must stay open, and the bytes as they are, until ``completions`` returns it.
        ValueError after ``close``.
        """

    def completions(self) -> list[tuple[Any, bytes, int, int]]:
        """All that is done and was not returned yet, in order of completion: token, chaining value, errno, stage.

        Stage 0: done, and errno is 0. 1: the bytes could not be written, any part of them may have been, and the
        chaining value is ``b""``. 2: the bytes are written, and their record may be torn or missing.

        Never waits. May be called after ``close``.
        """

    def close(self) -> None:
        """Do what was submitted and end the threads; waits for that. May be called again; in a child, nothing."""
