"""Who is alive. An owner is one open Cache that writes; its file is locked for life and its mtime is a heartbeat: the
seconds since the machine was started, because somebody may set the calendar.

flock is seen across pid namespaces and dropped by kill -9. It says "this process still exists"; the heartbeat says "and
it runs". A stopped process holds its lock with a silent heart: it is *lost*, may come back, and so its files are never
taken from it. The same holds for a run whose event loop is held up, by whatever its program does there: the thread that
beats asks the loop for an answer each time, and is silent until it has got it. An owner without a run is not asked.
Pids are written for people only: in containers every process is pid 1.

Where flock in the cache directory proves nothing (network file systems; see ``mounts.py``), the heartbeat is all
there is: a silent owner may be dead or may come back, so it is lost, and never more than that. After a day of silence,
seen twice, its file is removed: the same as if it had been closed in order.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fetcher.cache.clock import Clock, another_boot
from fetcher.cache.layout import HEX_32, Layout, disk_errors, random_id
from fetcher.cache.records import OwnerState
from fetcher.errors import CacheError

UNBORN = ".new-"
"""What the name of an owner's file starts with until it is locked."""
SILENT = ".silent-"
"""Before the id of an owner: somebody has found it silent for very long, when this file was made."""
SILENCE_MAX_S = 86_400.0
"""So long nobody is stopped and comes back to finish his work."""


Ask = Callable[[Callable[[], None]], object]
"""Has a function called in some event loop, soon (``loop.call_soon_threadsafe``)."""


class _Asked:
    """An event loop that has to show that it turns."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._answered = True

    def _answer(self) -> None:
        self._answered = True

    def has_answered(self) -> bool:
        """Whether it has turned since it was last asked; then it is asked again, and never twice before it answers."""
        if not self._answered:
            return False
        self._answered = False
        try:
            self._ask(self._answer)
        except RuntimeError:
            pass  # closed with its run in the middle: it will not turn again, and so it never answers
        return True


class Owner:
    """Our own life sign. Created on first need, never on the hit path; ``close()`` ends it."""

    def __init__(self, layout: Layout, *, heartbeat_s: float, clock: Clock, locks_trusted: bool = True) -> None:
        self._locks_trusted = locks_trusted
        self.id = random_id()
        self._path = layout.owner(self.id)
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._stop = threading.Event()
        self._asked: tuple[_Asked, ...] = ()
        self._asked_lock = threading.Lock()
        unborn = layout.owners / f"{UNBORN}{self.id}"
        with disk_errors("create", self._path):
            self._descriptor = os.open(unborn, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(self._descriptor, 0o600)
                if locks_trusted:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                note = {"pid": os.getpid(), "host": os.uname().nodename, "born": clock(), "boot": clock.boot_id}
                os.write(self._descriptor, json.dumps(note).encode() + b"\n")
                # Locked before it has its name: nobody can see this file unlocked while we live.
                os.rename(unborn, self._path)
                self.beat()  # until now its time is the calendar's, which no boot has reached
            except BaseException:
                os.close(self._descriptor)
                raise
        self._process_id = os.getpid()
        self._thread = threading.Thread(target=self._beat_on, name="fetcher-heartbeat", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """One heartbeat; also what the thread does every ``heartbeat_s``, if those answer who have to."""
        now_ns = int(self._clock.boot_s() * 1e9)
        os.utime(self._descriptor, ns=(now_ns, now_ns))

    def _beat_on(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            answers = [asked.has_answered() for asked in self._asked]  # all are asked, whatever the first one says
            if not all(answers):
                continue
            try:
                self.beat()
            except OSError:
                continue  # a full or failing disk: others will call us lost, which is safe, and we try again

    @contextmanager
    def answering(self, ask: Ask) -> Iterator[None]:
        """Inside, the heart beats only while this loop turns: others wait for what it has taken on, and would wait for
        ever for one that is held up. It may be so for ``owner_lost_after_s``, as a process may be stopped for so long.
        """
        asked = _Asked(ask)
        with self._asked_lock:
            self._asked = (*self._asked, asked)
        try:
            yield
        finally:
            with self._asked_lock:
                self._asked = tuple(other for other in self._asked if other is not asked)

    def close(self, *, keep_file: bool = False) -> None:
        """Give up the lock. ``keep_file``: something on disk still bears our name, so the next owner must be able to
        take our lock before it takes that. May be called again.

        Where locks prove nothing no file is kept: it would only have us taken for alive, and then for lost."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._process_id == os.getpid():
            self._thread.join()
            if not keep_file or not self._locks_trusted:
                try:
                    os.unlink(self._path)
                except OSError:
                    pass  # an owner file too many is dead and removed by gc
        os.close(self._descriptor)

    def fall_silent(self) -> None:
        """Stop the heartbeat and keep the lock until the process ends: we may still write to what bears our name, so
        others must take us for lost, never for dead."""
        self._stop.set()
        if self._process_id == os.getpid():
            self._thread.join()


class Owners:
    """Looks at the owners of one cache."""

    def __init__(
        self,
        layout: Layout,
        *,
        lost_after_s: float,
        clock: Clock,
        locks_trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._layout = layout
        self._lost_after_s = lost_after_s
        self._clock = clock
        self._locks_trusted = locks_trusted

    def state(self, owner_id: str) -> OwnerState:
        """Whether this owner lives. A file that is gone was closed in order, or swept after its lock had been taken."""
        try:
            descriptor = os.open(self._layout.owner(_checked(owner_id)), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return "dead"
        except OSError as error:
            raise CacheError(f"can't look at an owner of the cache: {error}") from error
        try:
            try:
                if self._locks_trusted():
                    # Shared, so that two who look do not take each other for the owner.
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return "dead"
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise CacheError(f"can't test the lock of an owner: {error}") from error
            with disk_errors("look at", self._layout.owner(owner_id)):
                if not self._locks_trusted() and self._is_of_another_boot(descriptor):
                    return "dead"
                silent_s = self._clock.boot_s() - os.fstat(descriptor).st_mtime
            return "lost" if silent_s > self._lost_after_s else "alive"
        finally:
            os.close(descriptor)

    def _is_of_another_boot(self, descriptor: int) -> bool:
        """The index is on a local disk, so all owners are of this machine, and none survives its start."""
        try:
            boot_id = json.loads(os.pread(descriptor, 4096, 0))["boot"]
        except (ValueError, KeyError, TypeError):
            return False  # being written at this moment
        return another_boot(str(boot_id), self._clock.boot_id)

    def has_lock(self, owner_id: str) -> bool:
        """Whether there is a lock that says something of this owner, and that ``holding`` can have once it is dead."""
        return self._locks_trusted() and os.path.lexists(self._layout.owner(_checked(owner_id)))

    @contextmanager
    def holding(self, owner_id: str) -> Iterator[bool]:
        """With the lock of a dead owner in hand: True inside the block means that nobody else can be, or become, it.

        False if its lock can't be had or proves nothing, or its file is gone (then nothing proves that the writer is).
        Each heir of a dead owner has its lock for a moment, as has whoever looks whether it lives.
        """
        if not self._locks_trusted():
            yield False
            return
        try:
            descriptor = os.open(self._layout.owner(_checked(owner_id)), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            yield False
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except OSError:
                held = False
            yield held
        finally:
            os.close(descriptor)

    def give_up_silent(self) -> int:
        """Where locks prove nothing: remove the files of owners that have been silent for ``SILENCE_MAX_S``; how many.

        Seen once, this may be a machine that slept, and the owner's next heartbeat is a moment away. So the first look
        leaves a note, and a later one, which finds that nothing has moved since, removes the file.
        """
        if self._locks_trusted():
            return 0
        now, removed = self._clock.boot_s(), 0
        for owner_id in self.ids():
            path, note = self._layout.owner(owner_id), self._layout.owners / f"{SILENT}{owner_id}"
            beat, noted = _modified_at(path), _modified_at(note)
            if beat is None or now - beat <= SILENCE_MAX_S:
                _remove(note)
            elif noted is None or noted <= beat:
                os.close(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
                os.utime(note, (now, now))
            elif now - noted > self._lost_after_s:
                removed += _remove(path)
                _remove(note)
        return removed

    def ids(self) -> list[str]:
        """All owners that left a file."""
        with disk_errors("look into", self._layout.owners):
            try:
                return [name for name in os.listdir(self._layout.owners) if HEX_32.fullmatch(name)]
            except FileNotFoundError:
                return []


def _modified_at(path: Path) -> float | None:
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return None


def _remove(path: Path) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _checked(owner_id: str) -> str:
    if not HEX_32.fullmatch(owner_id):
        raise CacheError(f"not an owner of this cache: {owner_id[:80]!r}")
    return owner_id
