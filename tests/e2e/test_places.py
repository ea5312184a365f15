"""Whoever runs it, and wherever it is seen from: other users, other umasks, other mount and pid namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import OnRequest, Trickle
from tests.e2e.support import (
    MIB,
    REPO,
    RESUMES,
    Child,
    Gate,
    fetch,
    held_by,
    kept_blocks,
    mixed_files,
    options,
    repo_bytes,
    tree_of,
    wait_until,
)
from tests.support.cli import ORDINARY_UID, CommandLine, User

READ_ALL = 'umask 077; cd "$1" && find . -type f -exec sha256sum {} + && ! touch intruder && ! rm -f config.json'


@pytest.mark.needs("root", "mountns", "debian:setpriv")
@pytest.mark.parametrize("user_id", [ORDINARY_UID, 65534])
def test_a_mount_source_is_read_by_any_user_inside_a_container(
    hub: Hub, cache_dir: Path, ordinary_directory: Path, user_id: int
) -> None:
    hub.add_repo(REPO, files=mixed_files())
    before = os.umask(0o077)
    try:
        snapshot = fetch(hub, cache_dir).snapshot
    finally:
        os.umask(before)
    target = ordinary_directory / "target"
    target.mkdir(mode=0o755)
    target.chmod(0o755)
    script = (
        'mount --make-rprivate / && mount --bind "$1" "$2" && exec setpriv --reuid "$3" --regid "$3" --clear-groups '
        'sh -c "$4" sh "$2"'
    )
    completed = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", snapshot.path, target, str(user_id), READ_ALL],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert completed.returncode == 0, completed.stderr
    seen = {line[66:].removeprefix("./"): line[:64] for line in completed.stdout.splitlines()}
    assert seen == {path: sha256 for path, (_, sha256) in held_by(hub).items()}


@pytest.mark.needs("root", "debian:setpriv")
def test_other_users_of_the_host_do_not_reach_the_cache(hub: Hub, ordinary_directory: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    snapshot = fetch(hub, ordinary_directory / "cache").snapshot
    completed = subprocess.run(
        ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "cat", snapshot.path / "config.json"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert completed.returncode != 0


def test_the_command_line_as_this_user_and_as_an_ordinary_one(hub: Hub, run_cli: CommandLine, cli_user: User) -> None:
    hub.add_repo(REPO, files=mixed_files())
    first = run_cli("get", f"hf://{REPO}", user=cli_user)
    assert first.exit_code == 0, first.stderr
    path = Path(first.stdout.strip())
    assert first.stdout == f"{path}\n", "stdout is the path and nothing else"
    assert tree_of(path) == held_by(hub)
    assert path.stat().st_uid == (ORDINARY_UID if cli_user == "ordinary" else os.geteuid())
    hub.requests.clear()
    second = run_cli("get", f"hf://{REPO}", "--json", user=cli_user)
    assert second.exit_code == 0, second.stderr
    assert second.last["event"] == "snapshot"
    assert (second.last["path"], second.last["hit"], second.last["downloaded"]) == (str(path), True, 0)
    # An operator's hit on a public fresh Snapshot asks nobody, as a job's.
    assert len(hub.requests) == 0


@pytest.mark.needs("root", "pidns")
def test_two_pid_namespaces_on_one_cache(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    hub.faults.add(Trickle(2 * MIB).on("cdn"))
    settings = options(hub, cache_dir, connections_max=4, heartbeat_s=0.2, owner_lost_after_s=30.0)
    prefix = ("unshare", "--pid", "--fork", "--kill-child")
    with Child(settings, prefix=prefix) as first, Child(settings, prefix=prefix) as second:
        results = [first.done(), second.done()]
    assert results[0]["paths"] == results[1]["paths"]
    assert tree_of(Path(results[0]["paths"][0])) == held_by(hub)
    assert hub.body_bytes_sent() == repo_bytes(hub), "each saw that the other was alive"


@pytest.mark.needs("root", "pidns")
def test_a_death_in_another_pid_namespace_is_noticed(hub: Hub, cache_dir: Path) -> None:
    size = 10 * MIB
    hub.add_repo(REPO, files={"weights.bin": Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=6))
    # So long that only the lock can tell of the death.
    settings = options(hub, cache_dir, connections_max=2, owner_lost_after_s=600.0)
    prefix = ("unshare", "--pid", "--fork", "--kill-child")
    with Child(settings, prefix=prefix) as owner:
        assert owner.line()["event"] == "ready"
        wait_until(lambda: hub.body_bytes_sent() > MIB)
        with Child(settings, prefix=prefix) as waiter:
            assert waiter.line()["event"] == "ready"
            wait_until(lambda: hub.count("tree") == 2 and hub.body_bytes_sent() >= 6 * MIB)
            wait_until(lambda: kept_blocks(cache_dir, 6))
            owner.send(signal.SIGKILL)
            owner.process.wait()
            gate.open()
            done = waiter.done()
    assert tree_of(Path(done["paths"][0])) == held_by(hub)
    assert hub.body_bytes_sent() <= size + (2 * 2 * MIB if RESUMES else size)
