"""Hugging Face repos as resources: names, revisions and files as the Hub has them. Pure values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fetcher.model.key import canonical_key
from fetcher.model.secret import Secret

HFKind = Literal["models", "datasets", "spaces"]
HF_KINDS: tuple[HFKind, ...] = ("models", "datasets", "spaces")

FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full git commit id (lower case): never goes stale."""

_REPO_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?|[A-Za-z0-9]"
_REPO = re.compile(rf"(?:(?:{_REPO_PART})/)?(?:{_REPO_PART})")
REVISION_BYTES_MAX = 255
LIKE_A_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
"""Somebody pasted a Hub token into the wrong place; a revision goes into URLs, file names and messages."""


def repo_fault(repo: str) -> str | None:
    """What is wrong with a Hub repo name (``org/name`` or legacy ``name``), or None. The Hub allows no ``--``, no
    ``..``."""
    if not repo:
        return "repo is empty"
    if repo.partition("/")[0] in HF_KINDS:
        return f"not a Hub repo name: {repo[:120]!r} (that owner is a kind of repo)"
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        return f"not a Hub repo name: {repo[:120]!r}"
    return None


def revision_fault(revision: str) -> str | None:
    """What is wrong with a git revision, or None (after git-check-ref-format)."""
    if not revision:
        return "revision is empty"
    if LIKE_A_TOKEN.search(revision):
        return "a token is no revision"
    if not revision.isprintable():  # git would take them, and terminals would obey them
        return f"revision has characters that can't be printed: {revision[:120]!r}"
    if len(revision.encode()) > REVISION_BYTES_MAX:
        return f"revision is longer than {REVISION_BYTES_MAX} bytes"
    if re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//", revision) or revision.startswith(("/", "-", ".")):
        return f"not a git revision: {revision[:120]!r}"
    if revision.endswith(("/", ".", ".lock")):
        return f"not a git revision: {revision[:120]!r}"
    return None


def file_selector_fault(selector: str) -> str | None:
    """What is wrong with one entry of ``files`` (exact name or glob), or None."""
    if not selector:
        return "file name is empty"
    if "\0" in selector or selector.startswith("/") or "\\" in selector or ".." in selector.split("/"):
        return f"not a file name inside a repo: {selector[:120]!r}"
    if len(selector.encode()) > 1024:
        return "file name is longer than 1024 bytes"
    return None


@dataclass(frozen=True, slots=True)
class HF:
    """A Hugging Face repo, or some files of one.

    Raises ``ValueError`` when built with parts that can't be right; documents and URIs go through ``model.job`` and
    ``model.uri``, which report every fault with its place instead.
    """

    repo: str
    """``org/name``, or a legacy ``name``."""
    kind: HFKind = "models"
    revision: str | None = None
    """Branch, tag, ``refs/pr/N`` or commit; None means the default branch, ``main``."""
    files: tuple[str, ...] = ()
    """Exact names or globs (fnmatch on the whole path, as the official client); empty means all. Sorted, no doubles."""
    token: Secret | None = None
    """The resource's own credential (``accessToken`` of a Job Definition). Never part of the key."""

    def __post_init__(self) -> None:
        faults = [repo_fault(self.repo), None if self.revision is None else revision_fault(self.revision)]
        faults += [file_selector_fault(selector) for selector in self.files]
        for fault in faults:
            if fault:
                raise ValueError(fault)
        if self.kind not in HF_KINDS:
            raise ValueError(f"kind must be one of {', '.join(HF_KINDS)}: {self.kind!r}")
        object.__setattr__(self, "files", tuple(sorted(set(self.files))))

    @property
    def reference(self) -> str:
        """The revision that is asked for by name."""
        return self.revision or "main"

    @property
    def immutable(self) -> bool:
        """True for a full commit: what it names can't change, so it never goes stale."""
        return FULL_COMMIT.fullmatch(self.reference) is not None

    def key(self, endpoint: str) -> str:
        """Identity of this request at ``endpoint`` (``scheme://host:port``), 64 hex digits."""
        return canonical_key("hf", endpoint, self.kind, self.repo, self.reference, self.files)

    @property
    def stem(self) -> str:
        """What the URIs of all its revisions begin with, and no other's does."""
        prefix = "" if self.kind == "models" else f"{self.kind}/"
        return f"hf://{prefix}{self.repo}@"

    def uri(self) -> str:
        """The URI a person would type, as ``hf://org/name@main``; files are not part of it."""
        return f"{self.stem}{self.reference.replace('%', '%25').replace('/', '%2F')}"
