"""Resources are valid by construction, and their key tells apart exactly what is different."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.model.hf import HF, file_selector_fault, repo_fault, revision_fault
from fetcher.model.key import FILES_MAX, canonical_key
from fetcher.model.secret import Secret

HUB = "https://huggingface.co"


def test_two_endpoints_are_two_things() -> None:
    endpoints = [HUB, "http://huggingface.co", "https://huggingface.co:8443", "https://mirror.example"]
    assert len({HF("acme/tiny").key(endpoint) for endpoint in endpoints}) == len(endpoints)


def test_order_and_doubles_of_files_are_irrelevant() -> None:
    names = ("b.bin", "a.bin", "c/*.json")
    keys = {HF("acme/tiny", files=order).key(HUB) for order in itertools.permutations(names)}
    keys.add(HF("acme/tiny", files=(*names, "a.bin")).key(HUB))
    assert len(keys) == 1


def test_a_token_is_no_part_of_the_key() -> None:
    assert HF("acme/tiny", token=Secret("one")).key(HUB) == HF("acme/tiny").key(HUB)


def test_no_revision_means_main() -> None:
    assert HF("acme/tiny").key(HUB) == HF("acme/tiny", revision="main").key(HUB)
    assert HF("acme/tiny").uri() == "hf://acme/tiny@main"


@pytest.mark.parametrize(
    "other",
    [
        {"repo": "acme/tine"},
        {"kind": "datasets"},
        {"kind": "spaces"},
        {"revision": "v1"},
        {"revision": "refs/pr/1"},
        {"files": ("a",)},
        {"files": ("a", "b")},
        {"files": ("ab",)},
    ],
)
def test_what_is_different_has_another_key(other: dict[str, Any]) -> None:
    assert HF(**{"repo": "acme/tiny", **other}).key(HUB) != HF("acme/tiny").key(HUB)


@given(
    st.lists(st.one_of(st.text(max_size=6), st.lists(st.text(max_size=4), max_size=3).map(tuple)), max_size=4).map(
        tuple
    ),
    st.lists(st.one_of(st.text(max_size=6), st.lists(st.text(max_size=4), max_size=3).map(tuple)), max_size=4).map(
        tuple
    ),
)
def test_no_part_of_a_key_can_imitate_its_neighbour(
    left: tuple[str | tuple[str, ...], ...], right: tuple[str | tuple[str, ...], ...]
) -> None:
    def canonical(parts: tuple[str | tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        return tuple((part,) if isinstance(part, str) else part for part in parts)

    assert (canonical_key(*left) == canonical_key(*right)) == (canonical(left) == canonical(right))


def test_the_key_format_does_not_drift() -> None:
    # A changed key would make every cache cold: only on purpose, with a new prefix.
    canonical = b"fetcher-key-v1(12:hf)(122:https://huggingface.co)(16:models)(19:acme/tiny)(12:v1)(21:a1:b)"
    resource = HF("acme/tiny", revision="v1", files=("b", "a"))
    assert resource.key(HUB) == hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize(
    "repo", ["gpt2", "acme/tiny", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "a/b", "a_b/c.d-e", "a" * 96]
)
def test_repo_names_of_the_hub(repo: str) -> None:
    assert repo_fault(repo) is None


@pytest.mark.parametrize(
    "repo",
    [
        "",
        "/",
        "a/",
        "/a",
        "a/b/c",
        "a--b/c",
        "a..b",
        "..",
        "../etc",
        "-a/b",
        "a/b-",
        ".a/b",
        "a b/c",
        "a/b\n",
        "ä/b",
        "a" * 97,
    ],
)
def test_hostile_repo_names(repo: str) -> None:
    assert repo_fault(repo)
    with pytest.raises(ValueError):
        HF(repo)


@pytest.mark.parametrize(
    "revision", ["main", "v1.0", "refs/pr/17", "feature/a-b", "0" * 40, "größe", "a#b", "a%b", "@"]
)
def test_revisions_of_git(revision: str) -> None:
    assert revision_fault(revision) is None


@pytest.mark.parametrize(
    "revision",
    [
        "",
        "a..b",
        "a b",
        "a~1",
        "a^",
        "a:b",
        "a?",
        "a*",
        "[a]",
        "a\\b",
        "@{1}",
        "/a",
        "a/",
        "a//b",
        "-a",
        ".a",
        "a.",
        "a.lock",
        "a\0",
        "a\n",
        "x" * 256,
    ],
)
def test_hostile_revisions(revision: str) -> None:
    assert revision_fault(revision)
    with pytest.raises(ValueError):
        HF("acme/tiny", revision=revision)


@pytest.mark.parametrize("name", ["a", "a/b.bin", "*.json", "onnx/", "a..b", "ä", "a,b", " "])
def test_file_names_and_globs(name: str) -> None:
    assert file_selector_fault(name) is None


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "..", "a\\b", "a\0b", "x" * 1025])
def test_hostile_file_names(name: str) -> None:
    assert file_selector_fault(name)
    with pytest.raises(ValueError):
        HF("acme/tiny", files=(name,))


def test_a_wrong_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="models, datasets, spaces"):
        HF("acme/tiny", kind="kernels")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("revision", "immutable"),
    [("0" * 40, True), ("0" * 39, False), ("A" * 40, False), ("0" * 64, False), ("main", False), (None, False)],
)
def test_only_a_full_commit_is_immutable(revision: str | None, immutable: bool) -> None:
    assert HF("acme/tiny", revision=revision).immutable is immutable


def test_the_bound_on_files_is_not_below_real_repos() -> None:
    assert FILES_MAX >= 10_000
