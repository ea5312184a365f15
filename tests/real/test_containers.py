"""Mounts of every kind, read inside real containers (dockerd, Podman) by an ordinary user, while and after the cache is
worked on.

The cache lies below directories that are open to all and is root's alone; the engines are root's.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub, Synthetic
from fetcher.testing.s3 import S3, s3_in_thread
from tests.origins.ollama_reader import models_in
from tests.real import containers, support
from tests.real.support import MIB, Tree, hashes_of, job_of, model_of, noise, s3_resource, tree_of
from tests.support.cli import ORDINARY_UID, CommandLine
from tests.support.servers.docker_registry import DockerRegistry
from tests.support.servers.engine import Engine
from tests.support.servers.images import push
from tests.support.servers.process import server_directory
from tests.support.servers.s3client import S3Server

pytestmark = [
    pytest.mark.needs("root", "docker-registry", "static-busybox"),
    pytest.mark.usefixtures("docker_registry"),
]

KEY_ID, SECRET_KEY = "AKIAREAL", "real-secret"
HUB_FILES = {"config.json": b'{"a": 1}', "empty": b"", "deep/er/é x.bin": noise(MIB + 5, "hub")}
OPEN_FILES = {"weights.bin": noise(3 * MIB + 7, "open"), "a b+c": b"odd name", "folder/one": b"1"}
NOTES = {"today.md": b"# Notes\n", "drafts/one.md": b"A first thought.\n", "large": noise(2 * MIB, "notes")}
MODEL = model_of(("model", noise(2 * MIB + 3, "model")), ("license", b"free\n"))
OTHER = model_of(("model", noise(MIB, "other")), ("license", b"free\n"))
OLLAMA_TARGET = "/root/.ollama/models"


@pytest.fixture
def s3() -> Iterator[S3]:
    """The embedded S3, with one private bucket."""
    with s3_in_thread(keys={KEY_ID: SECRET_KEY}) as running:
        running.add_bucket("open", {f"sd/{name}": body for name, body in OPEN_FILES.items()}, readers=[KEY_ID])
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can enter and that is root's."""
    with server_directory("mounts") as directory:
        yield directory


@dataclass(frozen=True)
class World:
    """A job's origins, and what has to be at its mounts."""

    job: dict[str, Any]
    environment: dict[str, str | None]
    trees: dict[str, Tree]
    """Target → files."""
    writable: str
    """The target that the job may write to."""


@pytest.fixture
def world(hub: Hub, s3: S3, swift_s3: S3Server, docker_registry: DockerRegistry, place: Path) -> World:
    """A job with resources of every kind; its cache is ``cache`` in ``place``."""
    hub.add_repo("acme/mixed", files=HUB_FILES)
    bucket = swift_s3.client.make_bucket(place.name.replace("_", "0").lower())
    swift_s3.client.put_all(bucket, {f"notes/{name}": body for name, body in NOTES.items()})
    push(MODEL, docker_registry.endpoint, "library/real-one", "1b")
    push(OTHER, docker_registry.endpoint, "library/real-two", "latest")
    keys = {"REGION": "us-east-1", "ACCESS_KEY_ID": KEY_ID, "SECRET_ACCESS_KEY": SECRET_KEY}
    job = job_of(
        {"type": "HF", "repo": "acme/mixed", "target": "/models/hub"},
        {"type": "S3", "url": f"{s3.endpoint}/open/sd/", "IAM": keys, "target": "/models/open"},
        s3_resource(swift_s3, f"{bucket}/notes", "/workspace/notes", allowWrite=True),
        s3_resource(swift_s3, f"{bucket}/notes/drafts/", "/workspace/drafts"),
        {"type": "Ollama", "model": "real-one:1b"},
        {"type": "Ollama", "model": "real-two"},
    )
    store: dict[str, bytes] = {}
    for model, path in ((MODEL, "real-one/1b"), (OTHER, "real-two/latest")):
        store[f"manifests/registry.ollama.ai/library/{path}"] = model.manifest
        store |= {f"blobs/{digest.replace(':', '-')}": body for digest, body in model.blobs.items()}
    return World(
        job,
        {
            "FETCHER_CACHE_DIR": str(place / "cache"),
            "FETCHER_ALLOW_NET": support.LOOPBACK,
            "FETCHER_OLLAMA_URL": docker_registry.endpoint,
            "HF_ENDPOINT": hub.endpoint,
        },
        {
            "/models/hub": hashes_of(HUB_FILES),
            "/models/open": hashes_of(OPEN_FILES),
            "/workspace/notes": hashes_of(NOTES),
            "/workspace/drafts": hashes_of({"one.md": NOTES["drafts/one.md"]}),
            OLLAMA_TARGET: hashes_of(store),
        },
        "/workspace/notes",
    )


def mount_lines(run_cli: CommandLine, world: World, **more: str) -> tuple[list[str], str]:
    """What ``fetcher job --format docker`` prints, and the id of its lease. The program has ended by then."""
    result = run_cli(
        *("job", "-", "--format", "docker", "--lease", "1h"),
        input=json.dumps(world.job),
        env={**world.environment, **more},
    )
    assert result.exit_code == 0, result.stderr
    told = re.search(r"lease: ([0-9a-f]+) until", result.stderr)
    assert told is not None, result.stderr
    return result.stdout.splitlines(), told[1]


def source_of(line: str) -> Path:
    fields = dict(field.partition("=")[::2] for field in shlex.split(line)[1].split(","))
    return Path(fields["source"])


def as_anybody(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of this host as the very uid that the containers have."""
    return subprocess.run(
        command, user=ORDINARY_UID, group=ORDINARY_UID, extra_groups=[], capture_output=True, text=True, check=False
    )


def test_every_mount_is_read_in_a_container_whatever_else_goes_on(
    engine: Engine, docker_registry: DockerRegistry, hub: Hub, world: World, run_cli: CommandLine, place: Path
) -> None:
    image = containers.shell_image(engine, docker_registry)
    lines, lease = mount_lines(run_cli, world)
    targets = [re.search(r"target=([^,]+)", line)[1] for line in lines]  # type: ignore[index]
    assert sorted(targets) == sorted(world.trees)
    assert [target for target, line in zip(targets, lines, strict=True) if "readonly" not in line] == [world.writable]
    kept = tree_of(place / "cache" / "blobs-v1"), tree_of(place / "cache" / "snapshots-v1")

    # The lease outlives the program, and a prune of everything.
    pruned = run_cli("prune", "--max-size", "0", "--json", env=world.environment)
    assert pruned.exit_code == 0, pruned.stderr
    assert pruned.last["snapshots"] == []
    # Another download is under way meanwhile.
    hub.add_repo("acme/other", files={"weights": Synthetic(200 * MIB, 5)})
    with run_cli.start(
        *("get", "hf://acme/other", "--json", "--limit-rate", "4M"), env=world.environment
    ) as downloading:
        assert downloading.stdout is not None
        while json.loads(downloading.stdout.readline())["bytes_done"] < MIB:
            assert downloading.poll() is None
        for target, tree in world.trees.items():
            assert containers.read_all(engine, image, lines, target) == tree, target
        assert downloading.poll() is None
        downloading.terminate()
        downloading.stdout.read()
        assert downloading.wait(20) == 130

    # What others read is nobody's to change, not even root's; one's own copy is.
    script = ""
    for target in world.trees.keys() - {world.writable}:
        first = shlex.quote(f"{target}/{sorted(world.trees[target])[0]}")
        script += f"touch {target}/new; echo x >> {first}; busybox rm -f {first}; busybox chmod 777 {target}; "
    attempts = 4 * (len(world.trees) - 1)
    by_root = containers.run(engine, image, lines, script + "true", user="0:0")
    assert by_root.stderr.count("Read-only file system") == attempts, by_root.stderr
    by_user = containers.run(engine, image, lines, script + "id -u; id -g")
    assert by_user.stdout.split() == ["1000", "1000"]
    assert len(by_user.stderr.splitlines()) == attempts, by_user.stderr
    ended = containers.run(
        *(engine, image, lines),
        f"cd {world.writable} && echo more >> today.md && busybox rm large && busybox mkdir new && echo mine > new/a",
    )
    assert (ended.exit_code, ended.stderr) == (0, "")
    mine = containers.read_all(engine, image, lines, world.writable)
    notes = {**NOTES, "today.md": NOTES["today.md"] + b"more\n", "new/a": b"mine\n"}
    del notes["large"]
    assert mine == hashes_of(notes)
    assert (tree_of(place / "cache" / "blobs-v1"), tree_of(place / "cache" / "snapshots-v1")) == kept

    # Another lease gets a copy that knows nothing of it, and asks nobody.
    asked = len(hub.requests)
    again, second = mount_lines(run_cli, world)
    assert containers.read_all(engine, image, again, world.writable) == world.trees[world.writable]
    assert len(hub.requests) == asked
    copies = [source_of(line) for line in (*lines, *again) if "readonly" not in line]
    assert len(set(copies)) == 2

    # When the leases are over, so are the mounts: an engine refuses what is not there, rather than to make it up.
    for held in (lease, second):
        assert run_cli("release", held, env=world.environment).exit_code == 0
    assert not any(copy.exists() for copy in copies)
    assert run_cli("prune", "--max-size", "0", env=world.environment).exit_code == 0
    ended = containers.run(engine, image, lines, "true")
    assert ended.exit_code != 0
    assert not any(source_of(line).exists() for line in lines)


def test_nobody_else_on_the_host_reads_what_containers_read(world: World, run_cli: CommandLine, place: Path) -> None:
    lines, _ = mount_lines(run_cli, world)
    cache = place / "cache"
    assert (place.stat().st_mode & 0o777, cache.stat().st_mode & 0o777, cache.stat().st_uid) == (0o755, 0o700, 0)
    assert as_anybody("ls", str(place)).stdout.split() == ["cache"]
    for path in (cache, *(source_of(line) for line in lines)):
        refused = as_anybody("ls", str(path))
        assert refused.returncode != 0
        assert "Permission denied" in refused.stderr
        # But for the way there, it is open: that is what a container's uid sees.
        assert (path == cache) or path.stat().st_mode & 0o005 == 0o005
    refused = as_anybody(sys.executable, "-m", "fetcher", "ls", "--cache-dir", str(cache))
    assert refused.returncode != 0


def test_mounts_are_named_as_the_engine_sees_the_cache(
    engine: Engine, docker_registry: DockerRegistry, world: World, run_cli: CommandLine, place: Path
) -> None:
    image = containers.shell_image(engine, docker_registry)
    lines, _ = mount_lines(run_cli, world, FETCHER_ENGINE_CACHE_DIR=str(place / "elsewhere"))
    assert all(str(source_of(line)).startswith(f"{place}/elsewhere/") for line in lines)
    assert not (place / "elsewhere").exists()  # the program itself never goes there
    (place / "cache").rename(place / "elsewhere")  # as a volume has one name in a container, and another outside
    for target, tree in world.trees.items():
        assert containers.read_all(engine, image, lines, target) == tree
    (store,) = (source_of(line) for line in lines if OLLAMA_TARGET in line)
    assert list(models_in(store)) == [
        "registry.ollama.ai/library/real-one:1b",
        "registry.ollama.ai/library/real-two:latest",
    ]
