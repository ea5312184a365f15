"""Repositories of the embedded hub: files, commits, branches and tags, with git's own ids.

A value store: it knows what a revision points to and what a tree lists. It knows nothing of HTTP or of who may see it.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

from fetcher.testing.contents import Content, ContentLike, as_content
from fetcher.testing.hub import gitids

Kind = Literal["models", "datasets", "spaces"]
Gated = Literal[False, "auto", "manual"]

_LFS_PATTERNS = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gguf *.gz *.h5 *.joblib *.mlmodel *.model *.msgpack *.npy *.npz *.onnx "
    "*.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors *.tar *.tar.* *.tflite *.tgz *.wasm *.xz *.zip "
    "*.zst"
)
LFS_PATTERNS = tuple(_LFS_PATTERNS.split(" "))
"""What the .gitattributes of a fresh repository sends to LFS."""
LFS_THRESHOLD_BYTES = 10 << 20
"""The Hub refuses larger files outside LFS."""

AUTHOR = "Hub <hub@example.invalid>"
_FIRST_COMMIT_TIME_S = 1_700_000_000
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT_ID = re.compile(r"[0-9a-f]{7,39}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a commit."""

    path: str
    content: Content
    lfs: bool
    oid: str
    """Git blob id: of the content, or for a large file of its pointer."""

    @property
    def pointer_bytes(self) -> int:
        """Length of the LFS pointer."""
        return len(gitids.lfs_pointer(self.content.sha256, self.content.size))


@dataclass(frozen=True)
class Commit:
    """A commit and the tree it points to."""

    id: str
    parent: str | None
    time_s: int
    title: str
    entries: Mapping[str, Entry]
    directories: Mapping[str, str]
    """Path → tree id; the root is ``""``."""

    @property
    def tree(self) -> str:
        """Id of the root tree."""
        return self.directories[""]

    @cached_property
    def paths(self) -> list[str]:
        """Every file and directory but the root, sorted: the order in which a listing goes."""
        return sorted([*self.entries, *(path for path in self.directories if path)])

    def listing(self, directory: str, *, recursive: bool, after: str | None, limit: int) -> tuple[list[str], bool]:
        """Return up to ``limit`` paths below ``directory`` that follow ``after``, and whether there are more."""
        prefix = f"{directory}/" if directory else ""
        index = bisect_left(self.paths, prefix) if after is None else bisect_right(self.paths, after)
        found: list[str] = []
        for path in self.paths[index:] if index else self.paths:
            if not path.startswith(prefix):
                if path > prefix:
                    break
                continue
            if recursive or "/" not in path[len(prefix) :]:
                if len(found) == limit:
                    return found, True
                found.append(path)
        return found, False

    def row(self, path: str) -> dict[str, Any]:
        """Return the JSON row of the tree API for a file or directory of this commit."""
        entry = self.entries.get(path)
        if entry is None:
            return {"type": "directory", "oid": self.directories[path], "size": 0, "path": path}
        row: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.content.size, "path": path}
        if entry.lfs:
            sha256, size = entry.content.sha256, entry.content.size
            row["lfs"] = {"oid": sha256, "size": size, "pointerSize": entry.pointer_bytes}
        return row


@dataclass
class Repo:
    """One repository. Make it with ``Hub.add_repo``; change its flags freely while the hub runs."""

    id: str
    kind: Kind = "models"
    private: bool = False
    gated: Gated = False
    disabled: bool = False
    lfs: tuple[str, ...] = LFS_PATTERNS
    """Globs of paths that are large files whatever their size."""
    lfs_threshold: int = LFS_THRESHOLD_BYTES
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    """``refs/pr/N`` → commit id."""

    def resolve(self, revision: str) -> Commit | None:
        """Return the commit that a branch, tag, ``refs/…`` name or (shortened) commit id stands for."""
        for names in (self.branches, self.tags, self.pull_requests):
            if revision in names:
                return self.commits[names[revision]]
        if _COMMIT_ID.fullmatch(revision):
            return self.commits.get(revision)
        if revision.startswith("refs/heads/"):
            return self.commits.get(self.branches.get(revision.removeprefix("refs/heads/"), ""))
        if revision.startswith("refs/tags/"):
            return self.commits.get(self.tags.get(revision.removeprefix("refs/tags/"), ""))
        if _SHORT_COMMIT_ID.fullmatch(revision):
            ids = [id_ for id_ in self.commits if id_.startswith(revision)]
            return self.commits[ids[0]] if len(ids) == 1 else None
        return None

    @property
    def head(self) -> str:
        """Commit id of the default branch."""
        return self.branches["main"]

    def commit(
        self, files: Mapping[str, ContentLike], *, branch: str = "main", delete: Iterable[str] = (), title: str = ""
    ) -> str:
        """Put ``files`` on top of ``branch`` without ``delete``; move the branch; return the new commit's id.

        A branch that does not exist yet starts from main. ``refs/pr/N`` makes or moves a pull request.
        """
        names = self.pull_requests if branch.startswith("refs/pr/") else self.branches
        parent = self.commits.get(names.get(branch, self.branches.get("main", "")))
        entries = dict(parent.entries) if parent else {}
        for path in delete:
            del entries[path]
        for path, value in files.items():
            entries[path] = self._entry(path, as_content(value))
        directories = gitids.tree_ids((entry.path, entry.oid) for entry in entries.values())
        if clash := directories.keys() & entries.keys():
            raise ValueError(f"a file and a directory at once: {sorted(clash)[0]!r}")
        time_s = _FIRST_COMMIT_TIME_S + 60 * len(self.commits)
        title = title or ("initial commit" if parent is None else f"Upload {len(files)} files")
        id_ = gitids.commit_id(
            tree=directories[""], parent=parent.id if parent else None, author=AUTHOR, time_s=time_s, message=title
        )
        self.commits[id_] = Commit(id_, parent.id if parent else None, time_s, title, entries, directories)
        names[branch] = id_
        return id_

    def _entry(self, path: str, content: Content) -> Entry:
        segments = path.split("/")
        if any(segment in ("", ".", "..", ".git") for segment in segments) or "\0" in path:
            raise ValueError(f"git has no such path: {path!r}")  # hostile listings are a fault: HostileTree
        # Git LFS never makes a pointer of an empty file.
        lfs = content.size > 0 and (content.size > self.lfs_threshold or _any_glob(self.lfs).match(path) is not None)
        if not lfs:
            return Entry(path, content, lfs, content.git_sha1)
        pointer = gitids.lfs_pointer(content.sha256, content.size)
        return Entry(path, content, lfs, gitids.object_id("blob", pointer))


@lru_cache(maxsize=64)
def _any_glob(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all globs: a repository may have 100,000 paths to judge."""
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs) or r"(?!)")
