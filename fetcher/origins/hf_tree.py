"""From the Hub's listing to the files of a Manifest: decoding, bounds, selection. Values in, values out; asks nobody.

A listing is hostile until it has been here: one unsafe name or impossible size anywhere refuses the whole repo, even if
that file was not asked for; a repo that tries such a thing is not one to take other files from.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

import msgspec

from fetcher.config import Settings
from fetcher.errors import ForbiddenError, NotFoundError, TransportError
from fetcher.model.digest import HEX_DIGITS, Digest
from fetcher.model.manifest import FileEntry
from fetcher.model.paths import check_tree, safe_path
from fetcher.model.text import nearest, shown

MATCHES_MAX = 50_000_000
"""Globs times files: some ten seconds of short matches, which a definition in good faith never comes near."""
MATCH_CHARACTERS_MAX = 10**10
"""Characters of all globs times characters of all paths: a match may take a nanosecond for each. Ten globs of 20
characters against a million paths of 50 are within it."""
NAMED_MAX = 5
"""Selectors that an error names."""

_HEX = re.compile(r"[0-9a-f]+")


class Lfs(msgspec.Struct, frozen=True, gc=False):
    """The ``lfs`` part of a row."""

    oid: str
    """Bare sha256 of the content."""
    size: int


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row of ``/api/…/tree/…``; fields that we don't use are skipped in decoding."""

    type: str
    path: str
    oid: str = ""
    """Git blob sha1; for LFS files that of the *pointer*, which is of no use."""
    size: int = 0
    """Of the content."""
    lfs: Lfs | None = None


class Listing:
    """Collects the pages of one tree."""

    def __init__(self, settings: Settings, what: str) -> None:
        self._files_max = settings.manifest_files_max
        self._file_bytes_max = settings.file_bytes_max
        self._what = what
        self._entries: dict[str, FileEntry] = {}
        self._folders: set[str] = set()
        self._page_count = 0

    @property
    def entries(self) -> dict[str, FileEntry]:
        """Path → file, of all pages so far."""
        return self._entries

    def add(self, rows: Sequence[Row], *, last: bool) -> None:
        """Take a page. Raises ForbiddenError for what no repo in good faith lists, TransportError if it leads
        nowhere."""
        self._page_count += 1
        known = len(self._entries) + len(self._folders)
        if self._page_count > 1 and rows and all(self._knows(row) for row in rows):
            raise TransportError(
                f"the listing of {self._what} does not end: page {self._page_count} repeats earlier ones"
            )
        for row in rows:
            if row.type == "directory":
                self._folders.add(row.path)
            elif row.type == "file":
                if row.path in self._entries:
                    raise ForbiddenError(f"{self._what} lists {shown(row.path)!r} twice")
                self._entries[row.path] = self._entry(row)
        count = len(self._entries) + len(self._folders)
        if count > self._files_max:
            raise ForbiddenError(
                f"{self._what} lists more than {self._files_max} files", hint="manifest_files_max sets the bound"
            )
        # The Hub's pages have 1000 rows; a listing of ever new crumbs would otherwise take a million requests to end.
        if not last and (count == known or self._page_count > 100 + count // 50):
            raise TransportError(f"the listing of {self._what} does not end: page {self._page_count} names a next one")

    def _knows(self, row: Row) -> bool:
        return row.path in self._entries or row.path in self._folders

    def _entry(self, row: Row) -> FileEntry:
        path = safe_path(row.path)
        size = row.size
        if not 0 <= size <= self._file_bytes_max:
            raise ForbiddenError(
                f"{self._what} lists {shown(path)!r} with {size} bytes, beyond the bound of {self._file_bytes_max}",
                hint="file_bytes_max sets the bound",
            )
        if row.lfs is None:
            return FileEntry(path, size, self._digest("git-sha1", row.oid, path) if row.oid else None, inline=True)
        if row.lfs.size != size:
            raise TransportError(f"{self._what} lists {shown(path)!r} with two sizes, {size} and {row.lfs.size}")
        return FileEntry(path, size, self._digest("sha256", row.lfs.oid.removeprefix("sha256:"), path))

    def _digest(self, algorithm: str, digits: str, path: str) -> Digest:
        if len(digits) != HEX_DIGITS[algorithm] or not _HEX.fullmatch(digits):
            raise TransportError(f"{self._what} lists {shown(path)!r} with an odd {algorithm}: {shown(digits)!r}")
        return Digest(algorithm, digits)


def select(entries: dict[str, FileEntry], selectors: Sequence[str], what: str) -> tuple[FileEntry, ...]:
    """The files that ``selectors`` (none: all) name, ordered by path.

    Per selector the exact name comes first, then the glob, as the official client matches them: ``fnmatchcase`` on the
    whole path, ``*`` crosses ``/``, a trailing ``/`` means all below. Raises NotFoundError for a selector without a
    match, and for a repo without files.
    """
    if not entries:
        raise NotFoundError(f"{what} has no files")
    if not selectors:
        chosen: Iterable[str] = entries
    else:
        chosen = _matched(entries, selectors, what)
    paths = sorted(chosen)
    check_tree(paths)
    return tuple(entries[path] for path in paths)


def _matched(entries: dict[str, FileEntry], selectors: Sequence[str], what: str) -> set[str]:
    chosen: set[str] = set()
    missing: list[str] = []
    globs = [selector for selector in selectors if selector not in entries]
    characters = sum(map(len, globs)) * sum(map(len, entries)) if globs else 0
    if len(globs) * len(entries) > MATCHES_MAX or characters > MATCH_CHARACTERS_MAX:
        raise ForbiddenError(f"{len(globs)} patterns against {len(entries)} files of {what} is beyond bounds")
    for selector in selectors:
        if selector in entries:
            chosen.add(selector)
            continue
        pattern = selector + "*" if selector.endswith("/") else selector
        if not re.search(r"[*?[]", pattern):
            missing.append(selector)
            continue
        matches = re.compile(fnmatch.translate(pattern)).match
        found = [path for path in entries if matches(path)]
        if found:
            chosen.update(found)
        else:
            missing.append(selector)
    if missing:
        raise _no_match(entries, missing, what)
    return chosen


def _no_match(entries: dict[str, FileEntry], missing: Sequence[str], what: str) -> NotFoundError:
    named = ", ".join(repr(shown(selector)) for selector in missing[:NAMED_MAX])
    more = f" and {len(missing) - NAMED_MAX} more" if len(missing) > NAMED_MAX else ""
    return NotFoundError(f"{what} has no file that matches {named}{more}", hint=_hint(entries, missing[0]))


def _hint(entries: dict[str, FileEntry], selector: str) -> str:
    if any(path.startswith(selector + "/") for path in entries):
        return f"{shown(selector)} is a folder; write {shown(selector)}/ for all files below it"
    below = [path for path in entries if path.endswith("/" + selector)]
    near = below[0] if below else nearest(selector, list(entries)[:10_000])
    if near:
        return f"did you mean {shown(near)}?"
    return "names are matched on the whole path, case-sensitive; * also crosses /"
