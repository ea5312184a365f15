"""A Snapshot's directory while it is being built: folders, links to Blobs, empty files, and second bodies where a link
can't be had. Knows no rows; when it becomes visible is decided in ``publish.py``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NoReturn

from fetcher.cache import durable
from fetcher.cache.damage import Identity, identity_of
from fetcher.cache.layout import Layout
from fetcher.cache.records import GoneError
from fetcher.errors import CacheError
from fetcher.model.manifest import FileEntry
from fetcher.plan import allocation

FOLDER_MODE = 0o755
FILE_MODE = 0o444

PublishedFile = tuple[FileEntry, str | None, str]
"""Entry of the Manifest, root of its Blob (None for zero bytes), what it was verified by."""


class StagedDirectory:
    """A staged directory, filled in order of path with the folders of the current path held open.

    Everything is made relative to a descriptor of its folder and never through a symlink: the staged tree is ours, but
    its names are an origin's.
    """

    def __init__(self, path: Path, layout: Layout, draw: Callable[[int], None]) -> None:
        """``draw`` is told of bytes about to be written for a second body."""
        self._path = path
        self._layout = layout
        self._draw = draw
        self._open: list[tuple[str, int]] = []
        """Folder names below the top with their descriptors; the top's name is empty."""
        self.to_sync: list[str] = []
        """What has to be made durable: folders, and bodies that had to be copied."""
        self._linked: list[tuple[str, str]] = []
        """Roots of Blobs, and paths that their bodies have here, too."""
        self._copied: set[tuple[str, Identity]] = set()
        """Roots of Blobs, and the bodies that were copied."""

    def is_of_these_blobs(self) -> bool:
        """Whether what was linked and copied is what has the Blobs' names now."""
        linked = ((root, identity_of(os.lstat(f"{self._path}/{path}"))) for root, path in self._linked)
        for root, body in (*self._copied, *linked):
            try:
                if identity_of(os.lstat(self._layout.blob_place(root))) != body:
                    return False
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def fill(self, files: Sequence[PublishedFile]) -> None:
        """Make all files."""
        os.mkdir(self._path, 0o700)
        gone: list[str] = []
        try:
            self._enter("", None)
            with durable.directory(self._layout.blobs) as blobs:
                for folder, members in groupby(files, key=lambda file: file[0].path.rpartition("/")[0]):
                    gone += self._fill_folder(self._folder(folder.split("/") if folder else ()), blobs, list(members))
        finally:
            while self._open:
                os.close(self._open.pop()[1])
        if gone:
            raise GoneError(
                f"{len(gone)} of {len(files)} files were removed from the cache before they could be published",
                ids=tuple(gone),
            )

    def _fill_folder(self, folder: int, blobs: int, files: Sequence[PublishedFile]) -> list[str]:
        """Make files of one folder; returns the roots of Blobs that are gone."""
        gone: list[str] = []
        linked: list[tuple[FileEntry, str]] = []
        for entry, root, _ in files:
            if root is None:
                os.close(self._create(_name_of(entry), folder))
            else:
                linked.append((entry, root))
        names = [os.fsencode(_name_of(entry)) for entry, _ in linked]
        sources = [os.fsencode(self._layout.blob_name(root)) for _, root in linked]
        errors = durable.link_files(blobs, sources, folder, names)
        for (entry, root), error in zip(linked, errors, strict=True):
            if not error:
                self._linked.append((root, entry.path))
            elif not self._copy(entry, root, folder, error):
                gone.append(root)
        if not gone:
            for (entry, root), size in zip(linked, durable.look_for_files(folder, names), strict=True):
                if size != entry.size:
                    self._refuse(entry, root, size)
        return gone

    def _refuse(self, entry: FileEntry, root: str, size: int) -> NoReturn:
        """What has the Blob's name is not what was put there."""
        if size < 0 and size != -errno.EINVAL:
            raise OSError(-size, os.strerror(-size), f"{self._path}/{entry.path}")
        what = f"has {size} bytes" if size >= 0 else "is no plain file"
        raise CacheError(
            f"{self._layout.blob_place(root)} {what}, {entry.path} should have {entry.size} bytes",
            hint="something outside of fetcher changed the cache; remove that file and run the command again",
        )

    def _copy(self, entry: FileEntry, root: str, folder: int, error: int) -> bool:
        """A second body, where the first takes no more links or the file system has none (``error``). False: it is
        gone."""
        if error == errno.ENOENT:
            return False
        blob, name = self._layout.blob_place(root), _name_of(entry)
        if error not in durable.NOT_LINKABLE:
            raise OSError(error, os.strerror(error), blob)
        try:
            source = os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            self._copied.add((root, identity_of(os.fstat(source))))
            self._draw(allocation.whole_units(entry.size))
            target = self._create(name, folder)
            try:
                durable.clone_into(source, target, entry.size)
            finally:
                os.close(target)
        finally:
            os.close(source)
        self.to_sync.append(f"{self._path}/{entry.path}")
        return True

    def _create(self, name: str, folder: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
        os.fchmod(descriptor, FILE_MODE)
        return descriptor

    def _folder(self, folders: Sequence[str]) -> int:
        """Descriptor of a folder, made if need be. Files come in order, so a folder left is not entered again often."""
        depth = 0
        while depth < len(folders) and depth + 1 < len(self._open) and self._open[depth + 1][0] == folders[depth]:
            depth += 1
        while len(self._open) > depth + 1:
            os.close(self._open.pop()[1])
        for name in folders[depth:]:
            self._enter(name, self._open[-1][1])
        return self._open[-1][1]

    def _enter(self, name: str, parent: int | None) -> None:
        made = parent is None
        if parent is not None:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
                made = True
            except FileExistsError:
                pass
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path if parent is None else name, flags, dir_fd=parent)
        self._open.append((name, descriptor))
        if made:
            os.fchmod(descriptor, FOLDER_MODE)
            self.to_sync.append("/".join((str(self._path), *(folder for folder, _ in self._open[1:]))))


def _name_of(entry: FileEntry) -> str:
    """Its name in its folder."""
    return entry.path.rpartition("/")[2]
