"""A Partial: unproven bytes of one content with their journal, ``{data,journal}`` in a directory of its own.

Resume trusts nothing: every journalled block is hashed again when the Partial is opened, and what does not match is
forgotten. Knows its own files only; whose earlier work it may take over is decided in ``takeover.py``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fetcher import hashing
from fetcher.cache import durable, journal
from fetcher.cache.clearing import remove_tree
from fetcher.cache.direct import Direct
from fetcher.cache.layout import MEDIA_ERRNOS, disk_error, disk_errors
from fetcher.cache.records import PartialHead
from fetcher.cache.rescan import confirmed, leave_blob
from fetcher.errors import CacheError, FetcherError, InternalError

DATA = "data"
JOURNAL = "journal"
REJECTED_DATA = "rejected-data"
REJECTED_JOURNAL = "rejected-journal"


class Partial:
    """One file content under way. Calls for distinct blocks may run at the same time; the others need quiet (no call in
    flight), which is the caller's duty and checked here."""

    def __init__(
        self,
        path: Path,
        head: PartialHead,
        on_end: Callable[[], None],
        step: Callable[[], None],
        draw: Callable[[int], None],
    ) -> None:
        """Opens, or makes, the files in ``path``, which is ours. Use ``Cache.partial_open``."""
        self.head = head
        self.path = path
        self.size = head.size
        self.block_count = hashing.block_count(head.size)
        self.proven: dict[int, bytes] = {}
        """Block → chaining value. After ``open``: what earlier work left."""
        self.midstate: bytes | None = None
        """After ``open``: how far the SHA-256 of the whole came in earlier work, over blocks that are proven."""
        self.fd = -1
        """Of ``data``, for reading and writing (for reading only, if it is whole and a Blob's body); -1 once closed."""
        self._direct = Direct(path / DATA, head.size)
        self._journal = -1
        self._next_slot = 0
        """Where the next record of the journal goes."""
        self._on_end = on_end
        self._lock = threading.Lock()
        self._calls = 0
        self._poison: FetcherError | None = None
        with self._renamed("open"):
            self._open_files(keep=True, step=step, draw=draw)

    # --- writing

    def write_block(self, block: int, data: memoryview | bytes | bytearray) -> bytes:
        """Hash and write one whole block, then journal it; returns its chaining value (``b""`` in plain mode).

        A worker call. Raises NoSpaceError when the disk is full; the block is not proven then, others stay so.
        """
        expected = self._length(block)
        if len(data) != expected:
            raise InternalError(f"block {block} of {self.path.name} is {expected} bytes, not {len(data)}")
        with self._call(), self._renamed("write to"):
            value = hashing.write_blocks(self.fd, block * hashing.BLOCK_BYTES, data, block=hashing.BLOCK_BYTES)
            if value:
                self._record(self.next_slot(), journal.block_record(block, value))
                with self._lock:
                    self.proven[block] = value
        return value

    def begin_block(self, block: int, *, direct: bool = False) -> tuple[int, int, int, int]:
        """A block is about to be written by a sink (``hashing.BlockSink``), which is a call in flight from here on.

        Returns what ``submit`` wants: the descriptor of the data; the one with O_DIRECT, -1 unless ``direct`` asks for
        it and it can be had; that of the journal, and the place of the block's record there (-1 and 0 in plain mode).
        Then exactly one of ``end_block`` and ``fail_block`` has to be called, when the sink is done with the block.
        """
        self._length(block)
        with self._lock:
            self._enter()
            journal_fd, slot = (self._journal, self._take_slot()) if hashing.HAS_TREE else (-1, 0)
            direct_fd = self._direct.fd if direct else -1
        if direct_fd is None:  # not after ``preallocate``; the call in flight keeps it open
            direct_fd = self._direct.open()
        return self.fd, direct_fd, journal_fd, slot

    def end_block(self, block: int, value: bytes) -> None:
        """The block is written and its record with it; ``value`` is its chaining value (``b""`` in plain mode)."""
        with self._lock:
            self._leave()
            if value:
                self.proven[block] = value

    def fail_block(self, block: int) -> None:
        """The block was not written, or its record was not: it is not proven, and others stay so."""
        with self._lock:
            self._leave()

    def block_error(self, number: int) -> FetcherError:
        """The error to raise for an ``errno`` that a sink met, as ``write_block`` would: NoSpaceError or CacheError."""
        return disk_error(OSError(number, os.strerror(number)), "write to", self.path)

    def preallocate(self, start: int, stop: int) -> bool:
        """Allocate the blocks from ``start`` up to ``stop``, which are about to be written with ``direct``, where that
        makes it faster; whether it was done. A worker call.

        They take their space at once: draw it before, and what is not written of it then is ``bytes_unproven``. Raises
        NoSpaceError when it is not there.
        """
        offset = start * hashing.BLOCK_BYTES
        length = (stop - 1 - start) * hashing.BLOCK_BYTES + self._length(stop - 1)
        self._length(start)
        with self._call(), self._renamed("write to"):
            if self._direct.open() < 0:
                return False
            return self._direct.preallocate(offset, length)

    def next_slot(self) -> int:
        """A place in the journal for one record, which is nobody else's: one that fails or is torn harms no other.

        Whoever takes a place for a midstate does so after the places of all the blocks that it speaks of.
        """
        with self._lock:
            return self._take_slot()

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` from ``offset``; the number of bytes read, less than asked only at the end of the file."""
        done = 0
        with self.reading() as fd:
            while done < len(view):
                count = os.preadv(fd, [view[done:]], offset + done)
                if not count:
                    break
                done += count
        return done

    @contextmanager
    def reading(self) -> Iterator[int]:
        """The descriptor, for a worker call that reads what was written."""
        with self._call(), self._renamed("read"):
            yield self.fd

    def save_midstate(self, midstate: bytes) -> None:
        """Journal how far the SHA-256 of the whole has come, over nothing but proven blocks."""
        with self._call(), self._renamed("write to"):
            self._record(self.next_slot(), journal.sha256_record(midstate))

    def sync(self) -> None:
        """Make data, then journal durable. An error is final: this Partial is discarded and never published."""
        with self._call():
            try:
                os.fdatasync(self.fd)
                os.fdatasync(self._journal)
            except OSError as error:
                self.poison()
                raise disk_error(error, "make durable", self.path) from error

    @property
    def bytes_proven(self) -> int:
        with self._lock:
            last = self.block_count - 1
            whole = len(self.proven) * hashing.BLOCK_BYTES
            return whole - (hashing.BLOCK_BYTES - self._length(last) if last in self.proven else 0)

    @property
    def bytes_unproven(self) -> int:
        """Allocated to ``data`` and not proven: what is written there anew takes no new space."""
        with self._call(), self._renamed("look at"):
            return max(0, os.fstat(self.fd).st_blocks * 512 - self.bytes_proven)

    def poison(self) -> None:
        """The disk broke its word: nothing of this is ever published or resumed."""
        self._poison = self._poison or CacheError(
            f"{self.path} could not be made durable", hint="look at the kernel's log; put the cache on a sound disk"
        )
        # At once: calls in flight may delay the removal of all of it, and we may be killed meanwhile.
        with suppress(OSError):
            durable.remove_file(self.path / JOURNAL)

    # --- starting anew

    def reject(self) -> None:
        """The whole has the wrong digest: keep this copy apart, start with an empty one. A second copy replaces none:
        the first is the one to report."""
        with self._quiet(), self._renamed("start anew"):
            self._close_files()
            rejected = self.path / REJECTED_DATA
            if rejected.exists():
                durable.remove_file(self.path / DATA)
                durable.remove_file(self.path / JOURNAL)
            else:
                os.rename(self.path / DATA, rejected)
                os.rename(self.path / JOURNAL, self.path / REJECTED_JOURNAL)
            self._open_files(keep=False)

    def rejected_blocks(self) -> list[int]:
        """Blocks that differ between the rejected copy and this one: where the origin was not of one mind."""
        found = journal.read(self.path / REJECTED_JOURNAL)
        if found is None:
            return []
        with self._lock:
            return sorted(block for block, value in found.blocks.items() if self.proven.get(block, value) != value)

    def forget_blocks(self) -> None:
        """The origin changed: all blocks are dropped, old and new are never mixed."""
        with self._quiet(), self._renamed("start anew"):
            self._close_files()
            durable.remove_file(self.path / JOURNAL)  # first: a journal must never outlive the bytes it speaks of
            durable.remove_file(self.path / DATA)
            self._open_files(keep=False)

    # --- ending

    def close(self) -> None:
        """Keep what is here for a later resume. May be called again. What could not be made durable is not kept: the
        kernel may hold pages for clean that the disk never got, and a rescan would believe them."""
        if self._poison:
            self.discard()
            return
        with self._quiet():
            self._close_files()
            self._on_end()

    def discard(self) -> None:
        """Remove it. May be called again."""
        with self._quiet(), self._renamed("remove"):
            self._close_files()
            remove_tree(self.path)
            self._on_end()

    def give_up_writing(self) -> int:
        """For commit: close the writable descriptors and return one for reading, the caller's to close. From here on
        nobody can change the bytes."""
        with self._quiet(), self._renamed("publish"):
            if self._poison:
                raise self._poison
            reader = os.open(self.path / DATA, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._close_files()
            return reader

    @property
    def closed(self) -> bool:
        return self.fd < 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else "poisoned" if self._poison else "open"
        return f"<Partial {self.head.content_id[:8]} {len(self.proven)}/{self.block_count} blocks, {state}>"

    # --- inside

    def _take_slot(self) -> int:
        slot = self._next_slot
        self._next_slot += journal.RECORD.size
        return slot

    def _record(self, slot: int, record: bytes) -> None:
        durable.write_all_at(self._journal, record, slot)

    def _open_files(
        self, *, keep: bool, step: Callable[[], None] | None = None, draw: Callable[[int], None] | None = None
    ) -> None:
        """Open data and journal. With ``keep``, believe what the journal says and a rescan confirms; ``step`` is called
        between its pieces, and ``draw`` before a body is copied."""
        found = journal.read(self.path / JOURNAL) if keep else None
        if found is not None and not (hashing.HAS_TREE and found.head.takes(self.head)):
            found = None
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.proven, self.midstate = {}, None
        try:
            if found is None or not self._open_blob(found, step):
                if found is None:
                    durable.remove_file(self.path / DATA)
                else:
                    leave_blob(self.path, DATA, step, draw)
                self.fd = os.open(self.path / DATA, flags, 0o600)
                os.fchmod(self.fd, 0o600)
                os.ftruncate(self.fd, self.size)
                if found is not None:
                    self.proven = confirmed(self.fd, self.size, found.blocks, step)
            self._journal = os.open(self.path / JOURNAL, flags | (0 if found else os.O_TRUNC), 0o600)
            if found is None:
                os.fchmod(self._journal, 0o600)
                head = journal.head_bytes(self.head)
                durable.write_all_at(self._journal, head, 0)
                self._next_slot = len(head)
            else:
                self._next_slot = found.whole_bytes  # what is less than a record at the end is written over
                self.midstate = found.midstate(self.proven)
        except BaseException:
            self._close_files()
            raise

    def _open_blob(self, found: journal.Found, step: Callable[[], None] | None) -> bool:
        """A body that has its Blob's name, and perhaps no row: a crash came between. Nobody may ever write to it, and
        if all of it is right nobody has to: it is opened for reading, and can be published as it is. False if it is not
        such a one."""
        try:
            if os.lstat(self.path / DATA).st_nlink == 1:
                return False
        except FileNotFoundError:
            return False
        self.fd = os.open(self.path / DATA, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        proven = confirmed(self.fd, self.size, found.blocks, step)
        if len(proven) == self.block_count and os.fstat(self.fd).st_size == self.size:
            self.proven = proven
            return True
        self._close_files()
        return False

    def copy_from(self, source: Path, step: Callable[[], None], draw: Callable[[int], None]) -> None:
        """Take the proven blocks of another's Partial, which may change under our eyes: each block is checked in memory
        and written from there. ``draw`` is told of bytes about to be written."""
        found = journal.read(source / JOURNAL)
        if found is None or not found.head.takes(self.head) or not hashing.HAS_TREE:
            return
        try:
            reader = os.open(source / DATA, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            for block, value in sorted(found.blocks.items()):
                if block >= self.block_count or block in self.proven:
                    continue
                offset = block * hashing.BLOCK_BYTES
                data = _read_if_given(reader, self._length(block), offset)
                if (
                    len(data) == self._length(block)
                    and hashing.hash_blocks(data, offset, block=hashing.BLOCK_BYTES) == value
                ):
                    draw(len(data))
                    self.write_block(block, data)
                step()
            midstate = found.midstate(self.proven)
            if midstate and (self.midstate is None or journal.taken(midstate) > journal.taken(self.midstate)):
                self.save_midstate(midstate)
                self.midstate = midstate
        except OSError as error:
            raise disk_error(error, "read", source) from error
        finally:
            os.close(reader)

    def _close_files(self) -> None:
        data, self.fd = self.fd, -1
        log, self._journal = self._journal, -1
        self._direct.close()
        for descriptor in (data, log):
            if descriptor >= 0:
                os.close(descriptor)

    def _length(self, block: int) -> int:
        if not 0 <= block < self.block_count:
            raise InternalError(f"{self.path.name} has {self.block_count} blocks, not a block {block}")
        return min(hashing.BLOCK_BYTES, self.size - block * hashing.BLOCK_BYTES)

    def _enter(self) -> None:
        """A call begins; the lock is held."""
        if self.fd < 0:
            raise InternalError(f"{self!r} is used after its end")
        if self._poison:
            raise self._poison
        self._calls += 1

    def _leave(self) -> None:
        """A call has ended; the lock is held."""
        if not self._calls:
            raise InternalError(f"{self!r} has no call in flight that could end")
        self._calls -= 1

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            self._enter()
        try:
            yield
        finally:
            with self._lock:
                self._leave()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        with self._lock:
            if self._calls:
                raise InternalError(f"{self!r} has {self._calls} calls in flight")
            yield  # a call that begins now waits, and then finds what became of it

    @contextmanager
    def _renamed(self, action: str) -> Iterator[None]:
        with disk_errors(action, self.path):
            yield


def _read_if_given(descriptor: int, length: int, offset: int) -> bytes:
    """Nothing where the disk gives an error: of another's Partial we take what can be had."""
    try:
        return os.pread(descriptor, length, offset)
    except OSError as error:
        if error.errno not in MEDIA_ERRNOS:
            raise
        return b""
