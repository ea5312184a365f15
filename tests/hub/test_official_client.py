"""The judge: what the official client makes of the embedded hub. It runs in a process of its own, as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import FaultPlan, Hub, Quotas, Synthetic, Token, hub_in_thread
from fetcher.testing.contents import ContentLike
from fetcher.testing.faults import CutAfter, FlipByte, Status
from fetcher.testing.hub import EndlessLinks, HostileTree

MIB = 1 << 20

FILES: dict[str, ContentLike] = {
    "README.md": "# Tiny\n" * 500,
    "config.json": '{"a": 1}\n' * 300,
    "empty.txt": b"",
    "data/a.csv": b"1,2\n",
    "data/deep/er/b.csv": b"3,4\n",
    "model.safetensors": Synthetic(12 * MIB + 5, 1),
    "strange name's (v1)~ +100%.bin": Synthetic(MIB, 2),
    "ünïcode.txt": "ö",
}

TOKENS = {"hf_alice": Token("alice"), "hf_bob": Token("bob", repos=frozenset())}

PRELUDE = """
import hashlib, json, os, sys
import huggingface_hub as hf
from huggingface_hub import HfApi, errors
results = {}
def tree(directory):
    found = {}
    for root, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = hashlib.sha256(file.read()).hexdigest()
    return found
def outcome(call, *args, **kwargs):
    try:
        return "ok: " + str(call(*args, **kwargs))
    except Exception as error:
        return type(error).__name__
"""

Official = Callable[..., Any]


@pytest.fixture
def official(tmp_path: Path) -> Official:
    def run(hub: Hub, program: str) -> Any:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        source = f"{PRELUDE}\n{program}\nprint(json.dumps(results))"
        command = [sys.executable, "-c", source]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def expected(hub: Hub, repo_id: str, revision: str = "main", kind: Any = "models") -> dict[str, str]:
    commit = hub.repo(repo_id, kind).resolve(revision)
    assert commit is not None
    return {path: entry.content.sha256 for path, entry in commit.entries.items()}


def test_snapshots_are_equal_byte_for_byte(official: Official) -> None:
    with hub_in_thread(tokens=TOKENS, page_entries=4) as hub:
        repo = hub.add_repo("acme/tiny", files=FILES)
        first = repo.head
        repo.tags["v1"] = first
        hub.commit(repo, {"README.md": "second\n"}, delete=["data/a.csv"])
        hub.commit(repo, {"branch.bin": b"on a branch"}, branch="dev/x")
        hub.commit(repo, {"pull.txt": b"proposed"}, branch="refs/pr/1")
        hub.add_repo("legacy", files={"a.txt": b"no organisation"})
        hub.add_repo("acme/data", kind="datasets", files={"train/0.parquet": Synthetic(MIB, 3), "x.csv": b"1"})
        hub.add_repo("acme/page", kind="spaces", files={"app.py": b"print()\n"})
        hub.add_repo("acme/private", files={"p.bin": b"secret", "p.txt": b"secret"}, private=True)
        hub.add_repo("acme/gated", files={"g.bin": b"gated", "g.txt": b"gated"}, gated=True)
        program = f"""
for revision in ("main", "v1", "dev/x", "refs/pr/1", "{first}"):
    results[revision] = tree(hf.snapshot_download("acme/tiny", revision=revision))
results["legacy"] = tree(hf.snapshot_download("legacy"))
results["data"] = tree(hf.snapshot_download("acme/data", repo_type="dataset"))
results["page"] = tree(hf.snapshot_download("acme/page", repo_type="space"))
results["private"] = tree(hf.snapshot_download("acme/private", token="hf_alice"))
results["gated"] = tree(hf.snapshot_download("acme/gated", token="hf_alice"))
local = os.path.join(os.environ["HOME"], "local")
hf.hf_hub_download("acme/data", "train/0.parquet", repo_type="dataset", local_dir=local)
results["one"] = tree(os.path.join(local, "train"))
"""
        found = official(hub, program)
        for revision in ("main", "v1", "dev/x", "refs/pr/1", first):
            assert found[revision] == expected(hub, "acme/tiny", revision), revision
        assert "data/a.csv" in found["v1"]
        assert "data/a.csv" not in found["main"]
        assert found["legacy"] == expected(hub, "legacy")
        assert found["data"] == expected(hub, "acme/data", kind="datasets")
        assert found["page"] == expected(hub, "acme/page", kind="spaces")
        assert found["private"] == expected(hub, "acme/private")
        assert found["gated"] == expected(hub, "acme/gated")
        assert found["one"] == {"0.parquet": Synthetic(MIB, 3).sha256}
        # The real client keeps its token from the other origin, so what strangers see there is no accident of ours.
        assert not any(record.authorization for record in hub.requests.select("cdn"))
        assert {record.principal for record in hub.requests.select("resolve", path="p.*")} == {"alice"}
        assert hub.count("tree") > hub.count("info")  # there was more than one page


def test_listings_and_details(official: Official) -> None:
    with hub_in_thread(page_entries=3) as hub:
        repo = hub.add_repo("acme/tiny", files=FILES)
        repo.tags["v1"] = repo.head
        hub.commit(repo, {"x": b""}, branch="dev")
        hub.commit(repo, {"x": b""}, branch="refs/pr/1")
        program = """
api = HfApi()
rows = list(api.list_repo_tree("acme/tiny", recursive=True))
results["files"] = {row.path: [row.size, row.blob_id, row.lfs.sha256 if row.lfs else None]
    for row in rows if isinstance(row, hf.hf_api.RepoFile)}
results["folders"] = {row.path: row.tree_id for row in rows if isinstance(row, hf.hf_api.RepoFolder)}
results["top"] = [row.path for row in api.list_repo_tree("acme/tiny")]
results["below"] = [row.path for row in api.list_repo_tree("acme/tiny", path_in_repo="data", expand=True)]
results["deep"] = [row.path for row in api.list_repo_tree("acme/tiny", path_in_repo="data/deep", recursive=True)]
results["info"] = [row.path for row in api.get_paths_info("acme/tiny", ["data", "config.json", "none"])]
results["names"] = api.list_repo_files("acme/tiny")
info = api.model_info("acme/tiny", files_metadata=True)
results["sha"] = info.sha
results["siblings"] = {row.rfilename: [row.size, row.blob_id, row.lfs.sha256 if row.lfs else None]
    for row in info.siblings}
refs = api.list_repo_refs("acme/tiny", include_pull_requests=True)
results["refs"] = {ref.ref: ref.target_commit for ref in refs.branches + refs.tags + refs.pull_requests}
url = hf.hf_hub_url("acme/tiny", "model.safetensors")
data = hf.get_hf_file_metadata(url)
results["large"] = [data.commit_hash, data.etag, data.size]
data = hf.get_hf_file_metadata(hf.hf_hub_url("acme/tiny", "config.json"))
results["small"] = [data.commit_hash, data.etag, data.size]
"""
        found = official(hub, program)
        commit = repo.commits[repo.head]
        files = {
            path: [entry.content.size, entry.oid, entry.content.sha256 if entry.lfs else None]
            for path, entry in commit.entries.items()
        }
        assert found["files"] == found["siblings"] == files
        assert found["folders"] == {path: id_ for path, id_ in commit.directories.items() if path}
        assert sorted(found["top"]) == sorted({path.partition("/")[0] for path in FILES})
        assert found["below"] == ["data/a.csv", "data/deep"]
        assert found["deep"] == ["data/deep/er", "data/deep/er/b.csv"]
        assert found["info"] == ["data", "config.json"]
        assert sorted(found["names"]) == sorted(FILES)
        assert found["sha"] == repo.head
        assert found["refs"] == {
            "refs/heads/main": repo.head,
            "refs/heads/dev": repo.branches["dev"],
            "refs/tags/v1": repo.head,
            "refs/pr/1": repo.pull_requests["refs/pr/1"],
        }
        model, config = commit.entries["model.safetensors"], commit.entries["config.json"]
        assert found["large"] == [repo.head, model.content.sha256, model.content.size]
        assert found["small"] == [repo.head, config.content.git_sha1, config.content.size]


def test_refusals_become_the_errors_of_the_official_client(official: Official) -> None:
    with hub_in_thread(tokens=TOKENS) as hub:
        hub.add_repo("acme/tiny", files=FILES)
        hub.add_repo("acme/private", files={"f": b"1"}, private=True)
        hub.add_repo("acme/gated", files={"f": b"1"}, gated="manual")
        hub.add_repo("acme/disabled", files={"f": b"1"}, disabled=True)
        program = """
def get(repo, file="f", **more):
    return outcome(hf.hf_hub_download, repo, file, **more)
def info(repo, **more):
    return outcome(lambda: HfApi().model_info(repo, **more).id)
results = {
    "missing": [info("acme/none"), info("acme/none", token="hf_bob"), get("acme/none")],
    "private": [info("acme/private"), info("acme/private", token="hf_bob"), info("acme/private", token="hf_alice")],
    "gated file": [get("acme/gated"), get("acme/gated", token="hf_bob")],
    "gated info": [info("acme/gated"), outcome(HfApi().list_repo_files, "acme/gated")],
    "disabled": [info("acme/disabled")],
    "revision": [info("acme/tiny", revision="none"), get("acme/tiny", "config.json", revision="0" * 40)],
    "file": [get("acme/tiny", "none.json")],
    "token": [info("acme/tiny", token="hf_nobody")],
}
"""
        found = official(hub, program)
    assert found["missing"] == ["RepositoryNotFoundError"] * 3
    assert found["private"] == ["RepositoryNotFoundError", "RepositoryNotFoundError", "ok: acme/private"]
    assert found["gated file"] == ["GatedRepoError", "GatedRepoError"]
    assert found["gated info"] == ["ok: acme/gated", "ok: ['f']"]
    assert found["disabled"] == ["DisabledRepoError"]
    assert found["revision"] == ["RevisionNotFoundError", "RevisionNotFoundError"]
    assert found["file"] == ["RemoteEntryNotFoundError"]
    assert found["token"] == ["HfHubHTTPError"]


def test_known_weaknesses_of_the_official_client_show(official: Official) -> None:
    """Faults reach a real client: it survives what it is known to survive, and takes wrong bytes for right ones."""
    files = {f"{name}.bin": Synthetic(12 * MIB, seed) for seed, name in enumerate(("flipped", "cut", "refused"))}
    faults = FaultPlan(
        FlipByte(5 * MIB).on("cdn", path="flipped.bin", times=1),
        CutAfter(MIB, how="fin").on("cdn", path="cut.bin", times=1),
        Status(503).on("cdn", path="refused.bin", times=1),
    )
    with hub_in_thread(faults=faults) as hub:
        hub.add_repo("acme/tiny", files=files)
        program = """
def digest(file):
    with open(hf.hf_hub_download("acme/tiny", file), "rb") as opened:
        return hashlib.sha256(opened.read()).hexdigest()
results = {file: outcome(digest, file) for file in ("flipped.bin", "cut.bin", "refused.bin")}
"""
        found = official(hub, program)
        assert found["flipped.bin"].startswith("ok: ")
        assert found["flipped.bin"] != f"ok: {files['flipped.bin'].sha256}"
        assert found["cut.bin"] == f"ok: {files['cut.bin'].sha256}"
        assert found["refused.bin"] == "HfHubHTTPError"
        assert {name.partition("-")[0] for name in hub.faults.fired} == {"FlipByte", "CutAfter", "Status"}


def test_rate_limits_are_understood(official: Official) -> None:
    with hub_in_thread(quotas=Quotas(api=2, resolvers=2, window_s=300)) as hub:
        hub.add_repo("acme/tiny", files={"f": b"1"})
        program = """
api = HfApi()
for _ in range(2):
    api.model_info("acme/tiny")
try:
    api.model_info("acme/tiny")
except errors.HfHubHTTPError as error:
    results = [error.response.status_code, str(error)]
"""
        status, message = official(hub, program)
    assert status == 429
    assert "'api' rate limit" in message
    assert "0/2 requests remaining in current 300s window" in message


def test_hostile_listings_reach_the_official_client(official: Official) -> None:
    with hub_in_thread(page_entries=2) as hub:
        hub.add_repo("acme/tiny", files=FILES)
        hub.faults.add(HostileTree(("../escaped",)))
        program = 'results = [row.path for row in HfApi().list_repo_tree("acme/tiny", recursive=True)]'
        assert "../escaped" in official(hub, program)
        hub.faults.clear()
        hub.faults.add(EndlessLinks("fresh"))
        program = """
import itertools
listing = HfApi().list_repo_tree("acme/tiny", recursive=True)
results = [row.path for row in itertools.islice(listing, 100)]
"""
        found = official(hub, program)
        assert len(set(found)) == 100
