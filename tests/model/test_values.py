"""Digests, ranges, paths, manifests: small values that everything above relies on."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.errors import ForbiddenError
from fetcher.model.digest import HEX_DIGITS, STRENGTH, Digest, weakest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.paths import DEPTH_MAX, check_tree, path_fault, safe_path
from fetcher.model.ranges import ByteRange

# --- digests


@pytest.mark.parametrize(("algorithm", "digits"), sorted(HEX_DIGITS.items()))
def test_digest_round_trip(algorithm: str, digits: int) -> None:
    digest = Digest.parse(f"{algorithm}:{'Ab' * (digits // 2)}")
    assert digest == Digest(algorithm, "ab" * (digits // 2))
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text", ["", "sha256", "sha256:", "sha256:abc", "sha256:" + "g" * 64, "crc16:" + "0" * 4, "ab" * 32]
)
def test_odd_digests_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Digest.parse(text)


def test_the_weakest_file_speaks_for_the_snapshot() -> None:
    assert weakest({"sha256", "git-sha1"}) == "git-sha1"
    assert weakest(set(STRENGTH)) == "size"
    assert weakest(frozenset()) == "size"


# --- ranges


@given(st.integers(0, 1 << 60), st.integers(1, 1 << 60))
def test_a_range_survives_http(start: int, length: int) -> None:
    asked = ByteRange(start, start + length)
    first, last = asked.header().removeprefix("bytes=").split("-")
    assert int(last) - int(first) + 1 == length == asked.length
    assert ByteRange.of_content_range(f"bytes {first}-{last}/*") == (asked, None)
    assert ByteRange.of_content_range(f"bytes {first}-{last}/{start + length}") == (asked, start + length)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes */10",
        "bytes 5-4/10",
        "bytes -5/10",
        "bytes 1-2",
        "bits 0-1/2",
        "bytes 0-1/x",
        "bytes ٠-٢/٣",
        "bytes 0-" + "9" * 20 + "/*",
    ],
)
def test_odd_content_ranges_are_refused(value: str) -> None:
    with pytest.raises(ValueError):
        ByteRange.of_content_range(value)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1)])
def test_a_range_backwards_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError):
        ByteRange(start, stop)


def test_an_empty_range_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError):
        ByteRange(3, 3).header()


# --- paths


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b.bin",
        ".gitattributes",
        "a b",
        "ä/ö",
        "...",
        "a..b",
        "-rf",
        "aux_loss.py",
        "console",
        "com10",
        "my.con",
        "/".join("a" * DEPTH_MAX),
    ],
)
def test_safe_paths_pass(path: str) -> None:
    assert safe_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x7f",
        "C:/a",
        "c:",
        "CON",
        "a/aux.txt",
        "nul /b",
        "com1.tar.gz",
        "Lpt\u00b9",
        "\ud800",
        "x" * 256,
        "ä" * 128,
        "/".join("a" * (DEPTH_MAX + 1)),
        "ab/" * 700 + "a",
    ],
)
def test_hostile_paths_are_refused(path: str) -> None:
    assert path_fault(path)
    with pytest.raises(ForbiddenError):
        safe_path(path)


@given(st.text(max_size=30))
def test_a_safe_path_never_leaves_its_directory(path: str) -> None:
    import posixpath

    if path_fault(path) is None:
        assert posixpath.normpath(f"/cache/{path}") == f"/cache/{path}"


def test_the_short_cut_for_plain_paths_says_what_the_rules_say(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(7)
    characters = "abcCONcomLPT19/.._-- $\\:\u0131\u017f\u212a\n"
    words = ["con", "CON.txt", "com1", "lpt0", "aux", "nul", "a", "..", ".", "", ".a", "a.", "x" * 254, "x" * 256]
    paths = ["".join(dice.choice([*characters, *words]) for _ in range(dice.randrange(8))) for _ in range(30_000)]
    paths += ["/".join(dice.choice(words) for _ in range(dice.randrange(70))) for _ in range(3_000)]
    told = [path_fault(path) for path in paths]
    monkeypatch.setattr("fetcher.model.paths._PLAIN", re.compile(r"(?!)"))
    assert told == [path_fault(path) for path in paths]
    assert told.count(None) > 1_000


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "a"],
        ["a", "A"],
        ["\u00e4", "a\u0308"],
        ["stra\u00dfe", "STRASSE"],
        ["a/b", "a"],
        ["a", "a/b"],
        ["a/x", "A/y"],
        ["a/b/c", "a/B"],
        ["a/b/c/d", "a/b/C"],
    ],
)
def test_names_that_collide_are_refused(paths: list[str]) -> None:
    with pytest.raises(ForbiddenError):
        check_tree(paths)


def test_a_common_tree_passes() -> None:
    check_tree(["config.json", "onnx/model.onnx", "onnx/sub/x", "a/b", "a/c", "ab"])


# --- manifests


def _manifest(*files: FileEntry, revision: str = "0" * 40, repository: str = "models/acme/tiny") -> Manifest:
    return Manifest("hf", "https://huggingface.co", repository, revision, private=False, files=files)


def test_a_manifest_counts_its_bytes() -> None:
    assert _manifest().bytes_total == 0
    assert _manifest(FileEntry("a", 3, None), FileEntry("b", 4, None)).bytes_total == 7


def test_manifests_differ_in_content_only() -> None:
    one = FileEntry("a", 3, Digest("sha256", "0" * 64))
    base = _manifest(one).digest()
    others = [
        _manifest(),
        _manifest(one, revision="1" * 40),
        _manifest(one, repository="models/acme/other"),
        _manifest(FileEntry("a", 4, one.digest)),
        _manifest(FileEntry("b", 3, one.digest)),
        _manifest(FileEntry("a", 3, Digest("sha256", "1" * 64))),
        _manifest(FileEntry("a", 3, None)),
    ]
    assert len({base, *(other.digest() for other in others)}) == len(others) + 1
    # How the origin serves a file, and who asked, are not its content.
    assert _manifest(FileEntry("a", 3, one.digest, inline=True)).digest() == base
