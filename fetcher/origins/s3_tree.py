"""From keys to the files of a Manifest: names, bounds, markers, several locations as one tree. Values in, values out.

Keys are hostile until they have been here. One key that can't be a path refuses the whole resource, as on the Hub: a
tree with holes is not what was asked for (docs/decisions/0008-s3-keys.md).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fetcher.errors import ForbiddenError, NotFoundError, ResourceError
from fetcher.model.manifest import FileEntry
from fetcher.model.paths import check_tree, path_fault
from fetcher.model.s3_address import Bucket
from fetcher.model.text import shown
from fetcher.origins.s3_checks import Facts, entry_of, facts_of_row
from fetcher.origins.s3_listing import Row


@dataclass(frozen=True, slots=True)
class Found:
    """One object that will be a file."""

    path: str
    bucket: Bucket
    """As ``Memory.placed`` had it."""
    key: str
    facts: Facts
    asked: bool
    """The object itself was asked; else its row in a listing is all that is known."""
    part_bytes: int = 0
    """Of the upload, where it is known."""

    @property
    def url(self) -> str:
        """Exact, without a query."""
        return self.bucket.url(self.key)

    @property
    def entry(self) -> FileEntry:
        """Its line in the Manifest."""
        return entry_of(self.path, self.url, self.facts, part_bytes=self.part_bytes)


@dataclass(frozen=True, slots=True)
class Tree:
    """What one location holds."""

    what: str
    """The location as a person wrote it."""
    bucket: Bucket
    """Where it was found."""
    name: str
    """``bucket/prefix``, decoded."""
    files: tuple[Found, ...]


def files_of(rows: Iterable[Row], prefix: str, bucket: Bucket, what: str, bytes_max: int) -> tuple[Found, ...]:
    """The files that a listing of ``prefix`` (empty, or with its slash) names.

    Keys that end in ``/`` and hold nothing stand for folders and are left out, as are empty objects beside a folder of
    their name. Raises ForbiddenError that names the first key that can't be a path, or is too large.
    """
    found: dict[str, Row] = {}
    for row in rows:
        path = row.key[len(prefix) :]
        if row.size == 0 and (not path or path.endswith("/")):
            continue
        _check(path, row.key, row.size, what, bytes_max)
        found[path] = row
    empty = [path for path, row in found.items() if row.size == 0]
    if empty:
        paths = sorted(found)
        for path in empty:
            below = bisect_left(paths, f"{path}/")
            if below < len(paths) and paths[below].startswith(f"{path}/"):
                del found[path]
    return tuple(Found(path, bucket, row.key, facts_of_row(row), asked=False) for path, row in found.items())


def file_of(path: str, bucket: Bucket, key: str, facts: Facts, what: str, bytes_max: int) -> Found:
    """The file that an object is. Raises ForbiddenError as ``files_of``."""
    _check(path, key, facts.size, what, bytes_max)
    return Found(path, bucket, key, facts, asked=True)


def merged(trees: Sequence[Tree]) -> tuple[Found, ...]:
    """The files of all locations side by side, ordered by path; the same file in two places is one.

    Raises ResourceError that names both places of two different files of one path, ForbiddenError for paths that can't
    live in one directory, NotFoundError if there is nothing.
    """
    files: dict[str, tuple[Found, Tree]] = {}
    for tree in trees:
        for found in tree.files:
            known = files.setdefault(found.path, (found, tree))
            if known[0] is not found and not _equal(known[0], found):
                raise ResourceError(
                    f"{shown(found.path)!r} is in {shown(known[1].what)} and, different, in {shown(tree.what)}",
                    hint="name the files that are wanted of each place, or give them targets of their own",
                )
    if not files:
        raise NotFoundError(f"{trees[0].what} holds no files", hint="the prefix is mistyped, or empty")
    paths = sorted(files)
    check_tree(paths)
    return tuple(files[path][0] for path in paths)


def of_each(trees: Sequence[Tree], files: Sequence[Found]) -> list[Sequence[Found]]:
    """``files``, as ``merged`` gave them, by the location that each is taken from."""
    if len(trees) == 1:
        return [files]
    places: dict[str, int] = {}
    for number, tree in enumerate(trees):
        for found in tree.files:
            places.setdefault(found.path, number)
    groups: dict[int, list[Found]] = {}
    for found in files:
        groups.setdefault(places[found.path], []).append(found)
    return list(groups.values())


def _check(path: str, key: str, size: int, what: str, bytes_max: int) -> None:
    fault = path_fault(path)
    if fault:
        raise ForbiddenError(
            f"{what} holds a key that can't be a file name ({fault}): {shown(key)!r}",
            hint="name the files that are wanted: files in a job's resource, --file on the command line",
        )
    if size > bytes_max:
        raise ForbiddenError(
            f"{what} states {size} bytes of {shown(key)!r}, beyond the bound of {bytes_max}",
            hint="file_bytes_max sets the bound",
        )


def _equal(one: Found, other: Found) -> bool:
    """Whether two objects are stated to be the same bytes."""
    if one.url == other.url:
        return True
    if one.facts.size != other.facts.size:
        return False
    first, second = one.entry, other.entry
    if first.digest is not None and second.digest is not None and first.digest.algorithm == second.digest.algorithm:
        return first.digest == second.digest
    etag, same = one.facts.validator, other.facts.validator
    return etag.kind == same.kind == "strong" and etag.etag is not None and etag.etag == same.etag
