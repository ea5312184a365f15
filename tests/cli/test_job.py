"""``job`` against the embedded hub: all or nothing, leases, holds, and what a job is not given."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache.schema import SCHEMA_VERSION
from fetcher.cli import hold as hold_room
from fetcher.testing import Hub, Synthetic, Token, s3_in_thread
from fetcher.testing.faults import OnRequest
from tests.cli.support import check, told_to_nobody
from tests.e2e.support import MIB, Gate, wait_until
from tests.support.cli import CommandLine, Completed, User

TINY = {"type": "HF", "repo": "acme/tiny", "target": "/data"}


def document(*resources: object) -> str:
    return json.dumps({"ops": [{"id": "run", "type": "container/run", "args": {"resources": list(resources)}}]})


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.json"
    path.write_text(document(TINY))
    return path


@pytest.fixture
def stocked(hub: Hub) -> Hub:
    hub.add_repo("acme/tiny", files={"config.json": b"{}", "model.bin": b"1" * 5000})
    hub.add_repo("acme/other", files={"x": b"2"})
    return hub


def lines(done: Completed) -> list[dict[str, Any]]:
    for line in done.json:
        check(line)
    return done.json


def leases(run_cli: CommandLine) -> list[dict[str, Any]]:
    return [lease for entry in lines(run_cli("ls", "--json")) for lease in entry["leases"]]


def test_a_job_as_any_user(stocked: Hub, run_cli: CommandLine, cli_user: User) -> None:
    text = document({**TINY, "target": "/data/in"}, TINY, {**TINY, "repo": "acme/other", "target": "/other"})
    done = run_cli("job", "-", "--json", "--quiet", input=text, user=cli_user)
    assert done.exit_code == 0, done.stdout
    (line,) = lines(done)
    assert [mount["target"] for mount in line["mounts"]] == ["/data", "/other", "/data/in"]
    assert (Path(line["mounts"][1]["source"]) / "x").read_bytes() == b"2"
    assert line["lease"]["expires_at"] == pytest.approx(time.time() + 86_400, abs=60)
    asked = len(stocked.requests)
    again = run_cli("job", "-", "--json", "--lease", "1h", input=text, user=cli_user)
    (line,) = lines(again)
    assert line["lease"]["expires_at"] == pytest.approx(time.time() + 3_600, abs=60)
    assert len(stocked.requests) == asked


def test_all_or_nothing(stocked: Hub, run_cli: CommandLine) -> None:
    text = document(TINY, {**TINY, "repo": "acme/none", "target": "/none"})
    done = run_cli("job", "-", "--json", "--quiet", input=text)
    assert done.exit_code == 21
    (line,) = lines(done)
    assert (line["kind"], line["resource"]) == ("not_found", "hf://acme/none@main")
    assert line["at"] == "$.ops[0].args.resources[1]"
    assert leases(run_cli) == []
    assert "at: $.ops[0].args.resources[1]" in run_cli("job", "-", input=text).stderr


def test_a_dry_run(stocked: Hub, run_cli: CommandLine, job: Path) -> None:
    (plan,) = lines(run_cli("job", job, "--dry-run", "--json", "--quiet"))
    assert (plan["event"], plan["bytes_to_fetch"]) == ("plan", 5002)
    assert lines(run_cli("ls", "--json")) == []


def test_a_dry_run_counts_the_private_copies(stocked: Hub, run_cli: CommandLine) -> None:
    with s3_in_thread() as s3:
        s3.add_bucket("models", {"p/a": b"x" * 5000}, public=True)
        mine = {"type": "S3", "url": s3.url("models", "p/a"), "allowWrite": True}
        text = document({**mine, "target": "/one"}, {**mine, "target": "/two"})
        (plan,) = lines(run_cli("job", "-", "--dry-run", "--json", "--quiet", input=text))
        assert (plan["bytes_to_fetch"], plan["bytes_to_copy"]) == (5000, 10_000)
        assert len(plan["resources"]) == 1
        assert "10.0 kB more for copies that jobs may write to" in run_cli("job", "-", "--dry-run", input=text).stdout


def test_a_job_reaches_no_private_address(stocked: Hub, run_cli: CommandLine, job: Path) -> None:
    done = run_cli("job", job, "--json", "--quiet", env={"FETCHER_ALLOW_NET": ""})
    assert done.exit_code == 25
    assert lines(done)[0]["kind"] == "forbidden"
    assert not len(stocked.requests)
    # What a person configured is that person's own business.
    assert run_cli("get", "hf://acme/other", env={"FETCHER_ALLOW_NET": ""}).exit_code == 0


def test_a_job_does_not_get_the_operators_token(stocked: Hub, run_cli: CommandLine) -> None:
    stocked.tokens["hf_operator_canary"] = Token("alice", frozenset({"acme/secret"}))
    stocked.add_repo("acme/secret", files={"a": b"1"}, private=True)
    secret = {**TINY, "repo": "acme/secret"}
    environment = {"HF_TOKEN": "hf_operator_canary"}
    done = run_cli("job", "-", input=document(secret), env=environment)
    assert done.exit_code == 21
    assert done.stderr.count("HF_TOKEN") == 1
    assert not [record for record in stocked.requests if record.authorization]
    own = run_cli("job", "-", "--json", "--quiet", input=document({**secret, "accessToken": "hf_operator_canary"}))
    assert own.exit_code == 0
    assert "canary" not in own.stdout + own.stderr


# --- leases that end with something


def _ends(run_cli: CommandLine, within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while leases(run_cli):
        if time.monotonic() > deadline:
            return False
    return True


def test_a_lease_ends_with_its_owner(stocked: Hub, run_cli: CommandLine, job: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as owner:
        try:
            done = run_cli("job", job, "--owner-pid", str(owner.pid), "--json", "--quiet")
            assert done.exit_code == 0
            assert [lease["id"] for lease in leases(run_cli)] == [done.last["lease"]["id"]]
        finally:
            owner.kill()
    assert _ends(run_cli)


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [
        pytest.param(_close_stdin, 0, id="stdin"),
        pytest.param(lambda process: process.send_signal(signal.SIGTERM), 0, id="SIGTERM"),
        pytest.param(lambda process: process.send_signal(signal.SIGINT), 0, id="SIGINT"),
        pytest.param(lambda process: process.kill(), -9, id="SIGKILL"),
    ],
)
def test_a_hold(
    stocked: Hub,
    run_cli: CommandLine,
    job: Path,
    end: Callable[[subprocess.Popen[bytes]], None],
    exit_code: int,
) -> None:
    with run_cli.start("job", job, "--hold", "--json", "--quiet", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        mounts = json.loads(process.stdout.readline())
        check(mounts)
        assert mounts["lease"]["expires_at"] is None
        assert leases(run_cli) == [{"id": mounts["lease"]["id"], "kind": "process", "expires_at": None}]
        end(process)
        assert process.wait(timeout=30) == exit_code
        assert process.stdout.read() == b""
    assert _ends(run_cli)


def test_a_hold_with_a_time(stocked: Hub, run_cli: CommandLine, job: Path) -> None:
    run_cli("get", "hf://acme/tiny")  # a hit is held like a download
    with run_cli.start("job", job, "--hold", "--lease", "1h", "--json", "--quiet", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        mounts = json.loads(process.stdout.readline())
        assert mounts["lease"]["expires_at"] == pytest.approx(time.time() + 3_600, abs=60)
        _close_stdin(process)
        assert process.wait(timeout=30) == 0
    assert leases(run_cli) == []


def test_nobody_told_is_no_lease(stocked: Hub, run_cli: CommandLine, job: Path) -> None:
    for _ in range(2):  # cold, then from the cache
        told_to_nobody(run_cli, "job", job, "--format", "json", "--quiet")
        assert leases(run_cli) == []


def test_mounts_that_nobody_reads_are_left_by_a_second_signal(
    stocked: Hub, run_cli: CommandLine, tmp_path: Path
) -> None:
    many = tmp_path / "many.json"
    many.write_text(document(*({"type": "HF", "repo": "acme/tiny", "target": f"/d{n}"} for n in range(200))))
    reader, writer = os.pipe()
    try:
        pipe_bytes = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        process = run_cli.start("job", many, "--hold", "--json", "--quiet", stdin=subprocess.PIPE, stdout=writer)
        with process:
            try:
                wait_until(lambda: held_bytes(reader) >= pipe_bytes)
                for _ in range(400):
                    process.send_signal(signal.SIGTERM)  # two that come before the process runs again are one
                    time.sleep(0.05)
                    if process.poll() is not None:
                        break
                assert process.poll() == 128 + signal.SIGTERM
            finally:
                process.kill()
    finally:
        os.close(reader)
        os.close(writer)
    assert _ends(run_cli)


def held_bytes(pipe: int) -> int:
    """What was written to it and is not read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_hold_ends_with_the_owner_or_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_room, "LOOK_EVERY_S", 0.01)
    with subprocess.Popen(["true"]) as gone:
        pass
    asyncio.run(asyncio.wait_for(hold_room.hold(parent_pid=os.getppid(), owner_pid=gone.pid), 20))
    parents = iter([100, 100, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    asyncio.run(asyncio.wait_for(hold_room.hold(parent_pid=100, owner_pid=None), 20))


PARENT = """
import subprocess, sys
command = [sys.executable, "-m", "fetcher", "job", "-", "--hold", "--json", "--quiet"]
with open(sys.argv[1], "rb") as document, open(sys.argv[2], "wb") as told:
    child = subprocess.Popen(command, stdin=document, stdout=told)
print(child.pid, flush=True)
child.wait()
"""


def test_a_hold_ends_at_once_whose_parent_died_during_the_download(
    stocked: Hub, run_cli: CommandLine, job: Path, tmp_path: Path
) -> None:
    stocked.add_repo("acme/large", files={"weights.safetensors": Synthetic(3 * MIB, 1)})
    job.write_text(document({**TINY, "repo": "acme/large"}))
    gate, told = Gate(), tmp_path / "told"
    stocked.faults.add(OnRequest(gate).on("cdn"))
    command = [sys.executable, "-c", PARENT, str(job), str(told)]
    with subprocess.Popen(command, env=run_cli.environment(), stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            wait_until(lambda: stocked.count("cdn") > 0)
        finally:
            parent.kill()
    gate.open()
    wait_until(lambda: os.waitpid(child, os.WNOHANG)[0] == child)  # an orphan of ours is our child
    assert leases(run_cli) == []
    assert json.loads(told.read_text())["lease"]["expires_at"] is None


def test_a_hold_whose_lease_was_ended_by_hand_ends_in_order(stocked: Hub, run_cli: CommandLine, job: Path) -> None:
    with run_cli.start("job", job, "--hold", "--lease", "1h", "--json", "--quiet", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        mounts = json.loads(process.stdout.readline())
        assert run_cli("release", mounts["lease"]["id"]).exit_code == 0
        _close_stdin(process)
        assert process.wait(timeout=30) == 0
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


@pytest.mark.parametrize("version", [SCHEMA_VERSION, SCHEMA_VERSION + 1])
@pytest.mark.parametrize("lease", [[], ["--lease", "1h"]], ids=["of its process", "timed"])
def test_a_hold_beside_an_index_that_was_made_anew_ends_in_order(
    stocked: Hub, run_cli: CommandLine, job: Path, version: int, lease: list[str]
) -> None:
    """The package is updated while it holds: its lease goes over to the new index, and it is told nothing it needs."""
    with run_cli.start("job", job, "--hold", *lease, "--json", "--quiet", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        mounts = json.loads(process.stdout.readline())
        index = run_cli.home() / "cache/index-v1.sqlite"
        set_version(index, 1)
        assert run_cli("prune").exit_code == 0
        assert [known["id"] for known in leases(run_cli)] == [mounts["lease"]["id"]]
        set_version(index, version)
        _close_stdin(process)
        assert process.wait(timeout=30) == 0
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    set_version(index, SCHEMA_VERSION)
    assert len(leases(run_cli)) == (version > SCHEMA_VERSION and bool(lease)), "a later version's is left alone"


def set_version(index: Path, version: int) -> None:
    rows = sqlite3.connect(index)
    rows.execute(f"PRAGMA user_version = {version}")
    rows.close()


def test_every_resource_that_is_refused_is_told(stocked: Hub, run_cli: CommandLine) -> None:
    """All or nothing, but who mends a job wants to hear of both slips at once."""
    gone, absent = ({**TINY, "repo": f"acme/{name}", "target": f"/{name}"} for name in ("gone", "absent"))
    done = run_cli("job", "-", "--json", "--quiet", input=document(gone, TINY, absent))
    assert done.exit_code == 21
    told = [(line["event"], line["resource"], line["at"]) for line in lines(done)]
    assert told == [
        ("error", "hf://acme/gone@main", "$.ops[0].args.resources[0]"),
        ("error", "hf://acme/absent@main", "$.ops[0].args.resources[2]"),
    ]
    assert stocked.count("bodies") == 0, "nothing is fetched for a job that can't start"


def test_docker_arguments_are_of_one_container(stocked: Hub, run_cli: CommandLine) -> None:
    ops = [
        {"id": name, "type": "container/run", "args": {"resources": [{**TINY, "repo": f"acme/{repo}"}]}}
        for name, repo in (("first", "tiny"), ("second", "other"))
    ]
    text = json.dumps({"ops": ops})
    refused = run_cli("job", "-", "--format", "docker", input=text)
    assert refused.exit_code == 2
    assert "first" in refused.stderr
    assert "second" in refused.stderr
    assert stocked.count("*") == 0
    assert len(lines(run_cli("job", "-", "--json", "--quiet", input=text))[-1]["mounts"]) == 2
