"""Every client is pid 1 of a container of its own, and the cache is a volume that each of them has at another path.

The containers are namespaces (pid, mount, host name) made by ``unshare``; tests/real/test_clients_in_containers.py has
a container engine make them.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import OnRequest, Trickle
from tests.e2e.support import (
    MIB,
    REPO,
    RESUMES,
    Child,
    Gate,
    Told,
    held_by,
    kept_blocks,
    mixed_files,
    patient,
    repo_bytes,
    tree_of,
    wait_until,
)
from tests.e2e.test_faces import job_of
from tests.support.cli import CHECKOUT

pytestmark = [pytest.mark.needs("root", "pidns", "mountns"), pytest.mark.timeout(120)]

WEIGHTS = "weights.bin"
ITEM = f"hf://{REPO}"


class Container:
    """Where a client lives: the volume has another path in it, and the host another name."""

    def __init__(self, volume: Path, number: int) -> None:
        self.name = f"box-{number}"
        self.volume = volume
        self.place = volume.parent / self.name / "cache"
        """The volume, as it is called inside. Outside this directory stays empty."""
        for directory in (volume, self.place):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def prefix(self) -> tuple[str, ...]:
        """Before a command: it is pid 1 then."""
        unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts")
        enter = 'hostname "$0"; mount --bind "$1" "$2"; shift 2; exec "$@"'
        return (*unshare, "sh", "-ec", enter, self.name, str(self.volume), str(self.place))

    def command(self, hub: Hub, *arguments: str, text: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """A whole run of the program, as pid 1."""
        return subprocess.run(
            [*self.prefix, sys.executable, "-m", "fetcher", *arguments],
            env=self.environ(hub, **environ),
            input=text,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def environ(self, hub: Hub, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(CHECKOUT),
            "HOME": "/nonexistent",
            "FETCHER_CACHE_DIR": str(self.place),
            "FETCHER_ALLOW_NET": "127.0.0.0/8",
            "FETCHER_SPACE_FLOOR_BYTES": "0",
            "HF_ENDPOINT": hub.endpoint,
            **more,
        }

    def outside(self, inside: str) -> Path:
        """A path that a client told, as we see it."""
        return self.volume / Path(inside).relative_to(self.place)


@contextmanager
def clients(hub: Hub, containers: Sequence[Container], items: Sequence[str] = (ITEM,), **more: Any) -> Iterator[Any]:
    """One client in each container; all have ended when the block is left."""
    hold = more.pop("hold", False)
    with ExitStack() as stack:
        told = []
        for container in containers:
            settings = patient(hub, container.place, **more)
            child = stack.enter_context(Child(settings, items, tell=True, hold=hold, prefix=container.prefix))
            told.append(Told(child))
            stack.callback(told[-1].join)
            stack.callback(child.process.kill)
        yield told


def kill_pid_1(told: Told) -> None:
    """kill -9 of the client itself, from outside; ``unshare`` ends with it."""
    parent = told.client.process.pid
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    told.client.process.wait(20)


def assert_right(hub: Hub, container: Container, told: Told) -> None:
    (path,) = told.done()["paths"]
    assert path.startswith(f"{container.place}/")
    assert tree_of(container.outside(path)) == held_by(hub)


@pytest.fixture
def volume(cache_dir: Path) -> Path:
    """The cache, as the host has it."""
    return cache_dir


def boxes(volume: Path, count: int) -> list[Container]:
    return [Container(volume, number) for number in range(count)]


# --- one download, and takeover --------------------------------------------------------------------------------------


def test_five_containers_download_it_once(hub: Hub, volume: Path) -> None:
    hub.add_repo(REPO, files=mixed_files() | {f"{n}.txt": f"text {n}" for n in range(30)})
    hub.faults.add(Trickle(MIB).on("cdn"))
    containers = boxes(volume, 5)
    with clients(hub, containers, connections_max=3) as all_told:
        for container, told in zip(containers, all_told, strict=True):
            assert_right(hub, container, told)
            ready = told.facts[0]
            assert (ready["pid"], ready["host"]) == (1, container.name)
    assert hub.body_bytes_sent() == repo_bytes(hub)
    assert all(list(container.place.iterdir()) == [] for container in containers), "it was mounted inside only"


def test_when_pid_1_of_one_is_killed_another_takes_over(hub: Hub, volume: Path) -> None:
    size, connections = 16 * MIB, 2
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=8))
    first, *others = boxes(volume, 4)
    with clients(hub, [first], connections_max=connections) as [owner]:
        wait_until(lambda: hub.count("cdn") >= 8)
        with clients(hub, others, connections_max=connections) as waiters:
            wait_until(lambda: all(told.bytes_done > 0 for told in waiters))
            wait_until(lambda: kept_blocks(volume, 8))
            kill_pid_1(owner)
            gate.open()
            for container, told in zip(others, waiters, strict=True):
                assert_right(hub, container, told)
    downloaded = sorted(told.facts[-1]["downloaded"] for told in waiters)
    assert downloaded == [0, 0, 8 * MIB if RESUMES else size]
    assert hub.body_bytes_sent() <= size + (connections * (MIB + MIB // 2) if RESUMES else size)


# --- leases ----------------------------------------------------------------------------------------------------------


def pruned(hub: Hub, container: Container) -> list[str]:
    """Ids of what ``prune`` of everything removes, asked in this container."""
    done = container.command(hub, "prune", "--max-size", "0", "--json")
    assert done.returncode == 0, done.stderr
    return removed(done.stdout.splitlines()[-1])


def removed(line: str) -> list[str]:
    return [snapshot["id"] for snapshot in json.loads(line)["snapshots"]]


def test_a_process_lease_is_seen_in_other_containers_and_ends_with_pid_1(hub: Hub, volume: Path) -> None:
    """All of them are pid 1: what is asked is the lock, never the number."""
    hub.add_repo(REPO, files=mixed_files())
    one, two, three = boxes(volume, 3)
    with clients(hub, [one], hold=True) as [holder], clients(hub, [two], hold=True) as [second]:
        wait_until(lambda: holder.has("leased") and second.has("leased"))
        path = one.outside(holder.facts[-1]["path"])
        assert pruned(hub, three) == []
        kill_pid_1(holder)
        assert pruned(hub, three) == [], "the other one still has it"
        assert tree_of(path) == held_by(hub)
        kill_pid_1(second)
        assert pruned(hub, three) == [path.name]
        assert not path.exists()


def test_a_timed_lease_bound_to_a_process_of_another_container(hub: Hub, volume: Path) -> None:
    """Its pid means nothing elsewhere: there, the lease is held to last until its own end; where the process was, it is
    seen to be over. A number that is in use in both containers misleads nobody."""
    hub.add_repo(REPO, files=mixed_files())
    one, two = boxes(volume, 2)
    fetcher = f"{shlex.quote(sys.executable)} -m fetcher"
    script = (
        "sleep 1000 & process=$!; "
        f'printf %s "$JOB" | {fetcher} job - --owner-pid $process --lease 1h --json; '
        f"read word; {fetcher} prune --max-size 0 --json; "
        f"kill -9 $process; wait; {fetcher} prune --max-size 0 --json; read word"
    )
    job = json.dumps(job_of({"type": "HF", "repo": REPO, "target": "/models"}))
    with subprocess.Popen(
        [*one.prefix, "bash", "-c", script],
        env=one.environ(hub, JOB=job),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        try:
            assert shell.stdout is not None and shell.stdin is not None
            while (mounted := json.loads(shell.stdout.readline()))["event"] != "mounts":
                pass
            snapshot = Path(mounted["mounts"][0]["source"]).name
            assert pruned(hub, two) == []
            # Here a process with that very number has just come and gone.
            shell.stdin.write("\n")
            shell.stdin.flush()
            assert removed(shell.stdout.readline()) == [], "the process lives"
            assert removed(shell.stdout.readline()) == [snapshot], "and now it does not"
        finally:
            shell.kill()
    # The next one outlives its container: nobody else can know, and its end is known.
    held = one.command(hub, "job", "-", "--owner-pid", "1", "--lease", "2s", "--json", text=job)
    assert held.returncode == 0, held.stderr
    ends_at = json.loads(held.stdout.splitlines()[-1])["lease"]["expires_at"]
    assert pruned(hub, two) == [] or time.time() >= ends_at
    wait_until(lambda: time.time() > ends_at)
    pruned(hub, two)
    assert list((volume / "snapshots-v1").glob("*.json")) == []


# --- gc --------------------------------------------------------------------------------------------------------------


def test_collecting_in_one_container_harms_no_download_in_another(hub: Hub, volume: Path) -> None:
    """With no grace for anything, again and again, while two others are at work."""
    hub.add_repo(REPO, files=mixed_files() | {f"{n}.txt": f"text {n}" for n in range(30)})
    hub.faults.add(Trickle(MIB).on("cdn"))
    one, two, three = boxes(volume, 3)
    with clients(hub, [one, two], connections_max=2, gc_grace_s=0.0, partial_keep_s=0.0) as all_told:
        wait_until(lambda: hub.body_bytes_sent() > 0)
        rounds = 0
        while not all(told.has("done") or told.has("error") for told in all_told):
            done = three.command(
                hub, "prune", "--json", FETCHER_GC_GRACE_S="0", FETCHER_PARTIAL_KEEP_S="0", FETCHER_KEEP_FOR_S="1h"
            )
            assert done.returncode == 0, done.stderr
            rounds += 1
        for container, told in zip((one, two), all_told, strict=True):
            assert_right(hub, container, told)
    assert rounds >= 2
    assert hub.body_bytes_sent() == repo_bytes(hub)


# --- paths -----------------------------------------------------------------------------------------------------------


def test_sources_are_named_as_the_engine_has_the_volume(hub: Hub, volume: Path) -> None:
    """Each container has the cache elsewhere, and both tell the engine the same path: its own."""
    hub.add_repo(REPO, files=mixed_files())
    job = json.dumps(job_of({"type": "HF", "repo": REPO, "target": "/models"}))
    sources = []
    for container in boxes(volume, 2):
        done = container.command(hub, "job", "-", "--format", "docker", text=job, FETCHER_ENGINE_CACHE_DIR=str(volume))
        assert done.returncode == 0, done.stderr
        words = shlex.split(done.stdout)
        fields = dict(field.partition("=")[::2] for field in words[1].split(","))
        sources.append(Path(fields["source"]))
    assert sources[0] == sources[1]
    assert tree_of(sources[0]) == held_by(hub)
    assert hub.body_bytes_sent() == repo_bytes(hub)


def test_a_state_directory_that_each_container_has_elsewhere(hub: Hub, volume: Path, tmp_path: Path) -> None:
    """The cache says where its index is. That place has another name in each container, and is the same."""
    hub.add_repo(REPO, files=mixed_files())
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    for turn in range(2):
        for container in boxes(volume, 2):
            inside = container.place.with_name("state")
            inside.mkdir(exist_ok=True)
            prefix = (*container.prefix, "sh", "-ec", 'mount --bind "$0" "$1"; shift; exec "$@"', state, inside)
            done = subprocess.run(
                [*prefix, sys.executable, "-m", "fetcher", "get", ITEM, "--json"],
                env=container.environ(hub, FETCHER_STATE_DIR=str(inside)),
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout.splitlines()[-1])["hit"] is (turn > 0 or container.name != "box-0")
    assert hub.body_bytes_sent() == repo_bytes(hub)
    assert (state / "index-v1.sqlite").exists() and not (volume / "index-v1.sqlite").exists()
