"""Blob, tree and commit ids and LFS pointers are git's own; git is asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fetcher.testing.contents import ContentLike, Synthetic
from fetcher.testing.hub import gitids
from fetcher.testing.hub.repos import AUTHOR, Repo

# Names chosen for their order: git compares a directory as if it ended in a slash, so "a.b" < "a/" < "a0".
FILES: dict[str, ContentLike] = {
    "a/x": b"1",
    "a.b": b"2",
    "a0": b"3",
    "a/b/c/deep": b"4",
    "z": b"",
    "é/ü.txt": "ö",
    "config.json": b"{}",
    "model.safetensors": Synthetic(100_000, 1),
    "empty.bin": b"",
    "with space/'quote'.txt": b"5",
    "back\\slash": b"6",
}


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    directory = tmp_path / "repo"
    directory.mkdir()

    def run(*words: str, stdin: bytes = b"", time_s: int = 0) -> str:
        name, mail = AUTHOR.removesuffix(">").split(" <")
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
        for role in ("AUTHOR", "COMMITTER"):
            who = {"NAME": name, "EMAIL": mail, "DATE": f"{time_s} +0000"}
            environment |= {f"GIT_{role}_{key}": value for key, value in who.items()}
        command = ["git", *words]
        done = subprocess.run(command, cwd=directory, input=stdin, env=environment, capture_output=True, check=True)
        return done.stdout.decode().strip()

    run("init", "-q")
    run("config", "core.quotePath", "false")
    return run


@pytest.mark.needs("debian:git")
def test_ids_equal_those_of_git(git: Callable[..., str]) -> None:
    repo = Repo("acme/tiny")
    first = repo.commit(FILES)
    second = repo.commit({"a/x": b"changed", "new/file": b"7"}, delete=["a0"], title="Second ✓ commit")
    parent: list[str] = []
    for id_ in (first, second):
        commit = repo.commits[id_]
        git("read-tree", "--empty")
        for path, entry in commit.entries.items():
            stored = gitids.lfs_pointer(entry.content.sha256, entry.content.size) if entry.lfs else entry.content.read()
            blob = git("hash-object", "-w", "--stdin", stdin=stored)
            assert blob == entry.oid, path
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        assert git("write-tree") == commit.tree
        for directory, tree in commit.directories.items():
            assert git("rev-parse", f"{commit.tree}:{directory}") == tree
        made = git("commit-tree", commit.tree, *parent, "-m", commit.title, time_s=commit.time_s)
        assert made == id_
        parent = ["-p", made]


@pytest.mark.needs("debian:git")
def test_an_empty_repository_has_the_empty_tree(git: Callable[..., str]) -> None:
    repo = Repo("acme/empty")
    repo.commit({})
    assert repo.commits[repo.head].tree == git("write-tree") == gitids.EMPTY_TREE_ID


def test_large_files_are_stored_as_pointers() -> None:
    repo = Repo("acme/tiny", lfs_threshold=50)
    repo.commit({"small.txt": b"x" * 50, "large.txt": b"x" * 51, "by-name.bin": b"x", "empty.bin": b""})
    entries = repo.commits[repo.head].entries
    assert {path for path, entry in entries.items() if entry.lfs} == {"large.txt", "by-name.bin"}
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 1\n".encode()
    assert entries["by-name.bin"].oid == gitids.object_id("blob", pointer)
    assert entries["by-name.bin"].pointer_bytes == len(pointer)


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/", "../a", "a/../b", "./a", ".git/config", "a\0b"])
def test_a_repository_refuses_paths_git_has_not(path: str) -> None:
    with pytest.raises(ValueError, match="no such path"):
        Repo("acme/tiny").commit({path: b""})


def test_a_path_cannot_be_file_and_directory() -> None:
    with pytest.raises(ValueError, match="file and a directory"):
        Repo("acme/tiny").commit({"a": b"", "a/b": b""})


def test_revisions() -> None:
    repo = Repo("acme/tiny")
    first = repo.commit({"a": b"1"})
    second = repo.commit({"a": b"2"})
    branch = repo.commit({"a": b"3"}, branch="dev/x")
    pull = repo.commit({"a": b"4"}, branch="refs/pr/1")
    repo.tags["v1"] = first
    expected = {"main": second, "v1": first, "dev/x": branch, "refs/pr/1": pull, "refs/heads/main": second}
    expected |= {"refs/tags/v1": first, first: first, first[:10]: first}
    for revision, id_ in expected.items():
        commit = repo.resolve(revision)
        assert commit is not None, revision
        assert commit.id == id_, revision
    for revision in ("nothing", "0" * 40, first[:6], "refs/heads/none", "refs/pr/2", ""):
        assert repo.resolve(revision) is None, revision
    assert repo.commits[branch].parent == second
