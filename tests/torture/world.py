"""What the origin holds in the power cut tests: contents of every kind, in several versions that share some of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

from fetcher.testing import Hub, Synthetic
from fetcher.testing.contents import as_content
from fetcher.testing.hub.repos import Entry

MIB = 1 << 20

VERSIONS = 3
REPOS = ("acme/large", "acme/mixed", "acme/many", "acme/deep")


def fill(hub: Hub) -> None:
    """All repos, each version on a branch of its own: ``v0``, ``v1``, …"""
    for repo_id in REPOS:
        hub.add_repo(repo_id, files={"README.md": f"{repo_id}\n"})
        for version in range(VERSIONS):
            hub.commit(repo_id, _files(repo_id, version), branch=f"v{version}")
    for repo in hub.repos:
        for version in range(VERSIONS):
            commit = repo.resolve(f"v{version}")
            assert commit is not None
            for entry in commit.entries.values():
                assert entry.content.sha256  # computed here, once, and not while somebody waits for it


def uris() -> list[str]:
    return [f"hf://{repo_id}@v{version}" for repo_id in REPOS for version in range(VERSIONS)]


def split(uri: str) -> tuple[str, str]:
    """Repo and branch."""
    repo_id, _, branch = uri.removeprefix("hf://").partition("@")
    return repo_id, branch


def entries(hub: Hub, uri: str) -> Mapping[str, Entry]:
    """Path → what has to be there."""
    repo_id, branch = split(uri)
    commit = hub.repo(repo_id).resolve(branch)
    assert commit is not None
    return commit.entries


@cache
def sizes(repo_id: str, branch: str) -> set[int]:
    """Of the files of one version: those of more than one block have one each that no other content has."""
    return {as_content(content).size for content in _files(repo_id, int(branch.removeprefix("v"))).values()}


def _files(repo_id: str, version: int) -> dict[str, Any]:
    dice = random.Random(f"{repo_id}:{version}")
    if repo_id == "acme/large":  # each file of a size that no other has: the judge tells them by it
        return {"config.json": f'{{"version": {version}}}', "model.safetensors": Synthetic(20 * MIB + version, version)}
    if repo_id == "acme/mixed":
        return {
            "empty": b"",
            "weights.bin": Synthetic(6 * MIB + 123 + version, 10 + version),
            "shared.bin": Synthetic(3 * MIB + 77, 20),
            "one-block.bin": Synthetic(MIB, 30 + version),
            "two-blocks.bin": Synthetic(MIB + 1 + version, 40 + version),
            "notes.txt": Synthetic(300_000 + version, 50 + version),
        }
    if repo_id == "acme/many":
        return {
            f"{n % 7}/{n:03}.bin": Synthetic(dice.randrange(1, 40_000), 1000 * (version if n % 3 else 9) + n)
            for n in range(120)
        }
    return {
        "/".join(["folder"] * depth) + f"/{depth}.bin": Synthetic(100_000 * depth + version, 70 + depth)
        for depth in range(1, 12)
    }
