"""Names, modes and places: the directory tree of a cache, and nothing of what its files say.

::

    <cache>/                        0700, or 0750 and ``cache_group``
        CACHEDIR.TAG
        cache-id-v1  cache-id-v1.lock      0600, which index is this cache's, and where
        owners-v1/<owner>           liveness: flock held for life, mtime is the heartbeat
        partials-v1/<content>.<owner>/
            data  journal           unproven bytes; what is proven of them
        blobs-v1/ab/<root>          0444, immutable
        blobs-v1/ab/<root>.tree     chaining values and digests of a Blob of more than one block
        snapshots-v1/<id>/          0755, hard links to Blobs
        snapshots-v1/<id>.json      its sidecar
        writable-v1/<lease>.<number>/   0777, private copies of Snapshots: what jobs may write to
    <state>/                        the cache directory by default
        index-v1.sqlite  index-v1.lock  principal-key-v1       0600
        spare-v1                    given up when the disk is full, so that the index can still be written

Names that start with a dot in a ``-v1`` directory are under way (``.staging-…``), condemned (``.condemned-…``, deleted
after a grace) or on their way out (``.trash-…``).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from fetcher.config import Settings
from fetcher.errors import CacheError, FetcherError, NoSpaceError
from fetcher.model.digest import Digest

CACHEDIR_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# This directory is a cache of fetcher: everything in it can be fetched again.
# For information about cache directory tags see https://bford.info/cachedir/
"""
HEX_64 = re.compile(r"[0-9a-f]{64}")
HEX_32 = re.compile(r"[0-9a-f]{32}")

STAGING = ".staging-"
TRASH = ".trash-"
CONDEMNED = ".condemned-"

MISSING_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR})
KIND_ERRNOS = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})
"""Something else than a plain file (or directory) has the name; ENXIO is a socket, or a FIFO without a writer."""
MEDIA_ERRNOS = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA, errno.EREMOTEIO})
"""The disk, or the file system's own checksum, says no: EBADMSG and EUCLEAN are those of ext4, XFS and fs-verity."""
NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""EFBIG: RLIMIT_FSIZE, or a file system with small files only. For the user it is the same wall."""


def content_id(
    *, digest: Digest | None, url: str, validator: str, size: int, private: bool, principal: str | None
) -> str:
    """Identity of one file content in one scope: what a flight, a Partial and a journal are named by.

    A sha256 that an origin states names the content wherever it lies there; otherwise the URL (without query) and its
    strong validator do. Not at other origins: whoever states the sha256 of what others want, and sends something else,
    or at a crawl, would keep them waiting for his flight and fill their Partial. What has been *found* to have a sha256
    is linked wherever it came from (``Blobs.of_contents``). Private content has its principal in the name, so that
    strangers never meet in one Partial.
    """
    scope = ("private", principal or "") if private else ("public", "")
    if digest is not None and digest.algorithm == "sha256" and digest.whole:
        origin = "/".join(url.split("/", 3)[:3])
        return fields_digest("fetcher-content-v1", "sha256", digest.hex, origin, str(size), *scope)
    return fields_digest("fetcher-content-v1", "url", url, validator, str(size), *scope)


def fields_digest(*fields: str) -> str:
    """SHA-256 hex over length-prefixed fields: none can imitate its neighbour."""
    return sha256(b"".join([b"%d:%s" % (len(raw), raw) for raw in [text.encode() for text in fields]])).hexdigest()


def random_id() -> str:
    """32 hex digits that nobody else has."""
    return os.urandom(16).hex()


@contextmanager
def disk_errors(action: str, place: Path | str) -> Iterator[None]:
    """Rename the operating system's errors at this border: full disks to NoSpaceError, the rest to CacheError."""
    try:
        yield
    except FetcherError:
        raise
    except OSError as error:
        raise disk_error(error, action, place) from error


def disk_error(error: OSError, action: str, place: Path | str) -> FetcherError:
    """The error of ours for ``error``, met while we tried to ``action`` at ``place``."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    message = f"can't {action} {place}: {reason}"
    if error.errno in NO_SPACE_ERRNOS:
        return NoSpaceError(message, hint="free some space (fetcher prune), or use a cache directory on a larger disk")
    hints = {
        errno.EACCES: "the cache belongs to another user; use another one with --cache-dir or FETCHER_CACHE_DIR",
        errno.EPERM: "the cache belongs to another user; use another one with --cache-dir or FETCHER_CACHE_DIR",
        errno.EROFS: "the file system is mounted read-only; use another cache with --cache-dir or FETCHER_CACHE_DIR",
        errno.EIO: "the disk reports an error; look at the kernel's log, and put the cache on a sound disk",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENOTDIR: "a file is where a directory should be; move it away, or use another cache directory",
        errno.EEXIST: "a file is where a directory should be; move it away, or use another cache directory",
    }
    return CacheError(message, hint=hints.get(error.errno or 0))


def read_plain(path: Path | str, bytes_max: int = -1, *, own: bool = False) -> bytes:
    """A small file that has to be one: not through a symlink, and never waiting for a FIFO's writer. Raises OSError;
    with ``own`` also CacheError for one that other users made or may write to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(errno.EISDIR, "not a plain file", str(path))
        if own:
            refuse_foreign(path, os.fstat(descriptor))
        return file.read(bytes_max)


class Layout:
    """Where everything is. The plain constructor only computes names; ``prepare`` creates directories."""

    def __init__(self, settings: Settings) -> None:
        self.cache_dir = settings.cache_dir
        self.state_dir = settings.state_dir
        self.group = settings.cache_group
        self.directory_mode = 0o700 if settings.cache_group is None else 0o750
        self.cache_id = self.cache_dir / "cache-id-v1"
        self.cache_lock = self.cache_dir / "cache-id-v1.lock"
        self.owners = self.cache_dir / "owners-v1"
        self.partials = self.cache_dir / "partials-v1"
        self.blobs = self.cache_dir / "blobs-v1"
        self._blobs = str(self.blobs)
        self.snapshots = self.cache_dir / "snapshots-v1"
        self.writable = self.cache_dir / "writable-v1"
        self.index = self.state_dir / "index-v1.sqlite"
        self.spare = self.state_dir / "spare-v1"
        self.index_lock = self.state_dir / "index-v1.lock"
        self.principal_key = self.state_dir / "principal-key-v1"
        self.markets = self.state_dir / "markets-v1"

    @property
    def buckets(self) -> tuple[Path, ...]:
        """All that may hold something."""
        return self.owners, self.partials, self.blobs, self.snapshots, self.writable, self.markets

    def blob(self, root: str) -> Path:
        return Path(self.blob_place(root))

    def blob_place(self, root: str) -> str:
        """The same as text: a Path costs ten times as much, and of blobs there are many."""
        return f"{self._blobs}/{self.blob_name(root)}"

    def blob_name(self, root: str) -> str:
        """The same below the directory of all Blobs."""
        return f"{_checked(root)[:2]}/{root}"

    def tree(self, root: str) -> Path:
        return self.blobs / _checked(root)[:2] / f"{root}.tree"

    def snapshot(self, snapshot_id: str) -> Path:
        return self.snapshots / _checked(snapshot_id)

    def sidecar(self, snapshot_id: str) -> Path:
        return self.snapshots / f"{_checked(snapshot_id)}.json"

    def partial(self, content: str, owner_id: str) -> Path:
        return self.partials / f"{_checked(content)}.{owner_id}"

    def market(self, name: str) -> Path:
        return self.markets / f"{_checked(name)}.json"

    def copy(self, lease_id: str, number: int) -> Path:
        """The ``number``-th private copy of a lease, counted from 0."""
        if not HEX_32.fullmatch(lease_id) or not 0 <= number < 10**9:
            raise CacheError(f"not a lease of this cache: {lease_id[:80]!r}")
        return self.writable / f"{lease_id}.{number}"

    def owner(self, owner_id: str) -> Path:
        return self.owners / owner_id

    def staging(self, parent: Path, what: str, owner_id: str) -> Path:
        """A fresh name below ``parent`` for something being built by ``owner_id``; removed by gc once that is dead."""
        return parent / f"{STAGING}{what[:16]}.{owner_id}.{os.urandom(4).hex()}"

    def trash(self, parent: Path) -> Path:
        """A fresh name below ``parent`` for something on its way out."""
        return parent / f"{TRASH}{random_id()}"

    def condemned(self, parent: Path, now: float) -> Path:
        """A fresh name below ``parent`` for something that nobody finds any more, and that goes after gc's grace."""
        return parent / f"{CONDEMNED}{int(now)}-{random_id()}"

    def prepare(self) -> None:
        """Create what is missing, with modes set by fchmod so that no umask has a say. Raises CacheError.

        The root's mode is set when we create it or find it empty. A directory that already holds other things keeps its
        mode: there the ``-v1`` directories, always closed to other users, do the guarding. What others made, or may
        write to, is refused. Only a cache directory like /tmp (sticky, its state elsewhere) is none the worse for it:
        the names in it that matter can't be moved, and are looked at each time.
        """
        apart = self.state_dir != self.cache_dir
        self._prepare_root(self.cache_dir, sticky_will_do=apart)
        if apart:
            self._prepare_root(self.state_dir, sticky_will_do=False)
        for directory in (self.owners, self.partials, self.blobs, self.snapshots):
            make_directory(directory, self.directory_mode, self.group)
        # Closed to the group as well: a container's root may leave files there that run as root for who reaches them.
        make_directory(self.writable, 0o700)
        tag = self.cache_dir / "CACHEDIR.TAG"
        if not os.path.lexists(tag):
            with disk_errors("write", tag):
                try:
                    descriptor = os.open(
                        tag, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
                    )
                except FileExistsError:
                    return  # of two processes that make it, the first wins
                try:
                    os.fchmod(descriptor, 0o644)
                    os.write(descriptor, CACHEDIR_TAG)
                finally:
                    os.close(descriptor)

    def _prepare_root(self, directory: Path, *, sticky_will_do: bool) -> None:
        if not directory.is_absolute():
            raise CacheError(f"the cache directory must be an absolute path: {directory}")
        with disk_errors("create", directory):
            make_parents(directory)
        if _make(directory, self.directory_mode, self.group):
            return
        with disk_errors("create", directory):
            named = os.lstat(directory)
            status = os.stat(directory)  # a symlink will do: whoever could change it could name another directory
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
        if stat.S_ISLNK(named.st_mode):
            _refuse_other_users(directory, named)
        # Root may be told to use anybody's directory (a volume made by the host's user), but not one that anybody may
        # have put where he expected it to be used (in /tmp).
        if os.geteuid() != 0 or _is_open_to_all(directory) or _is_open_to_all(os.path.realpath(directory)):
            _refuse_other_users(directory, status)
        with disk_errors("read", directory):
            with os.scandir(directory) as entries:
                empty = all(entry.name == "lost+found" for entry in entries)
            if empty and status.st_uid == os.geteuid():
                _set_mode(directory, self.directory_mode, self.group)
                return
        if not (sticky_will_do and status.st_mode & stat.S_ISVTX):
            _refuse_shared(directory, status, f"use a directory inside it, or `chmod go-w {directory}`")


def newer_format(place: Path) -> CacheError:
    """The refusal of something that a later version wrote."""
    return CacheError(
        f"{place} was made by a newer version of fetcher",
        hint="update fetcher, or use another directory with --cache-dir or FETCHER_CACHE_DIR",
    )


def make_directory(path: Path | str, mode: int, group: int | None = None) -> bool:
    """Create one directory with exactly this mode; True if it was not there. Raises CacheError, also for one that is
    there and that other users made or may write to."""
    if _make(path, mode, group):
        return True
    with disk_errors("create", path):
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    _refuse_other_users(path, status)
    _refuse_shared(path, status, "what is in it can't be trusted: remove it, or use another cache with --cache-dir")
    return False


def make_parents(path: Path) -> None:
    """Make what is missing above ``path``, never more open than 0755: who may write to a directory may replace all that
    is below. Raises OSError."""
    missing = []
    parent = path.parent
    while not os.path.lexists(parent):
        missing.append(parent)
        parent = parent.parent
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:  # somebody was faster: a process of ours is welcome
            status = os.lstat(directory)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()):
                raise


def _is_open_to_all(path: Path | str) -> bool:
    """Whether anybody may have made what is there, because its directory is one like /tmp."""
    mode = os.stat(Path(path).parent).st_mode
    return bool(mode & stat.S_ISVTX and mode & stat.S_IWOTH)


def refuse_foreign_file(path: Path | str) -> None:
    """Raise CacheError if there is something of this name that is no file, or that other users made or may write to."""
    with disk_errors("look at", path):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
    refuse_foreign(path, status)


def refuse_foreign(path: Path | str, status: os.stat_result) -> None:
    """The same for what was opened at that path: nobody can put something else there after this look."""
    if not stat.S_ISREG(status.st_mode):
        raise CacheError(f"{path} is not a plain file", hint="move it away, or use another FETCHER_STATE_DIR")
    _refuse_other_users(path, status)
    _refuse_shared(path, status, "what is in it can't be trusted: move it away")


def _refuse_other_users(path: Path | str, status: os.stat_result) -> None:
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0:
        trusted.add(os.stat(Path(path).parent).st_uid)  # who owns the directory around it could replace it anyway
    if status.st_uid not in trusted:
        raise CacheError(
            f"{path} was made by another user (uid {status.st_uid})",
            hint="the cache belongs to another user; use another one with --cache-dir or FETCHER_CACHE_DIR",
        )


def _refuse_shared(path: Path | str, status: os.stat_result, hint: str) -> None:
    if status.st_mode & 0o022:
        raise CacheError(f"other users may write to {path} (mode {stat.S_IMODE(status.st_mode):04o})", hint=hint)


def _make(path: Path | str, mode: int, group: int | None) -> bool:
    with disk_errors("create", path):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return False
        _set_mode(path, mode, group, os.O_NOFOLLOW)
    return True


def _set_mode(path: Path | str, mode: int, group: int | None, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)
    try:
        if group is not None:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _checked(name: str) -> str:
    """Ids become file names; one that is not 64 hex digits never does."""
    if not HEX_64.fullmatch(name):
        raise CacheError(f"not an id of this cache: {name[:80]!r}")
    return name
