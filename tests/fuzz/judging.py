"""What is asked of accepted values and of errors, written without the product's own rules: a judge of both."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from fetcher.errors import FetcherError, ResourceError
from fetcher.model.manifest import Manifest

LINE_CHARACTERS_MAX = 20_000
TOLD_CHARACTERS_MAX = 2_000_000
CANARY = re.compile(r"Canary[A-Za-z0-9]{6,}")
_SECRET_FIELDS = frozenset(
    {
        *("accessToken", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "AWS_SESSION_TOKEN", "ACCESS_KEY_ID", "password"),
        *("secret_access_key", "session_token", "access_key_id", "hub_token"),
    }
)


def assert_fit_to_be_told(error: FetcherError) -> None:
    """Message and hint are texts for a terminal: bounded, encodable, without anything that moves a cursor."""
    assert type(error).exit_code != 1 and error.kind != "internal", f"calls itself a bug of ours: {error!r}"
    for text in told(error):
        assert isinstance(text, str)
        assert len(text) <= TOLD_CHARACTERS_MAX, "a message without end"
        text.encode()
        for line in text.split("\n"):
            assert line.isprintable(), f"not printable: {line[:200]!r}"
            assert len(line) <= LINE_CHARACTERS_MAX, "a line without end"


def told(error: BaseException) -> Iterator[str]:
    """All that a person may read of an error."""
    yield str(error)
    if isinstance(error, FetcherError):
        yield from (text for text in (error.hint, error.at, error.resource) if text is not None)
    if isinstance(error, ResourceError):
        for fault in error.faults:
            yield from (fault.at, fault.message, fault.hint or "")


def assert_tells_no_secret(case: bytes, texts: Iterable[str], *, accepted: bool = False) -> None:
    """No canary that stands in a place for credentials, whole, is told, wherever else it stands. ``accepted``: the
    texts are of values, and who names a repo after his password has named it so."""
    try:
        document = json.loads(case)
    except (ValueError, RecursionError):
        return
    secrets = {text for text in _secret_texts(document, 0) if CANARY.fullmatch(text)}
    if secrets:
        everything = "\n".join(texts)
        for secret in secrets:
            if accepted and case.count(secret.encode()) > 1:
                continue
            assert secret not in everything, f"a credential is told: {secret}"


def _secret_texts(value: Any, depth: int) -> Iterator[str]:
    if depth > 60:
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in _SECRET_FIELDS and isinstance(inner, str):
                yield inner.strip()
            yield from _secret_texts(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _secret_texts(inner, depth + 1)


def assert_safe_paths(paths: Iterable[str]) -> None:
    """Relative, below where they are put, encodable, and no two that any usual file system takes for one."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        raw = path.encode()
        assert raw and len(raw) <= 4096 - 2048, "too long or empty"
        assert not path.startswith("/") and "\\" not in path and not re.match(r"[A-Za-z]:", path), path
        assert not re.search(r"[\x00-\x1f\x7f]", path), repr(path)
        parts = path.split("/")
        for part in parts:
            assert part not in ("", ".", "..") and len(part.encode()) <= 255, repr(path)
            assert not re.match(r"(?i)(con|prn|aux|nul|(com|lpt)[0-9]) *(\.|$)", part), repr(path)
        folded = folded_name(path)
        assert folded not in seen, f"{path!r} collides with {seen[folded]!r}"
        seen[folded] = path
        for index in range(1, len(parts)):
            folder = "/".join(parts[:index])
            known = folders.setdefault(folded_name(folder), folder)
            assert known == folder, f"folders {known!r} and {folder!r} collide"
    for folder in folders:
        assert folder not in seen, f"{folder!r} is a file and a folder"


def folded_name(path: str) -> str:
    """The same for all spellings that a file system without case takes for one name (canonical caseless matching, D145
    of the Unicode standard, 3.13)."""
    once = unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())
    return once if once.isascii() else unicodedata.normalize("NFD", once.casefold())


def assert_sound_manifest(manifest: Manifest, file_bytes_max: int = 1 << 44) -> None:
    """Names, sizes and digests of what an origin was believed."""
    assert_safe_paths(entry.path for entry in manifest.files)
    assert [entry.path for entry in manifest.files] == sorted(entry.path for entry in manifest.files)
    for entry in manifest.files:
        assert type(entry.size) is int and 0 <= entry.size <= file_bytes_max, entry
        for digest in (*((entry.digest,) if entry.digest else ()), *entry.guesses):
            assert re.fullmatch(r"[0-9a-f]{8,128}", digest.hex), digest
        if entry.url is not None:
            assert re.fullmatch(r"https?://[\x21-\x7e]+", entry.url), entry.url
    assert len(manifest.digest()) == 64
    assert manifest.revision is None or manifest.revision.isprintable()


def printable(*texts: str | None) -> None:
    """None of what will be shown moves a cursor."""
    for text in texts:
        assert text is None or text.isprintable(), repr(text)
