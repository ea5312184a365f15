"""``get`` against the embedded hub, in processes of its own, as users run it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fetcher import Fetcher, hashing
from fetcher.cache.records import Lease
from fetcher.cache.store import Cache
from fetcher.testing import Hub, Synthetic, Token
from tests.cli.support import Program, check, told_to_nobody
from tests.support.cli import CommandLine, Completed, User

MIB = 1 << 20
URI = "hf://acme/tiny"
FEW_AT_ONCE = {"FETCHER_PART_BYTES": "1MiB", "FETCHER_CONNECTIONS_MAX": "2"}
"""So that under a limited rate the first block is soon whole, and the last one not for long."""
FILES: dict[str, Any] = {"config.json": b"{}", "empty": b"", "weights/model.bin": Synthetic(3 * MIB + 7, 1)}


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def held() -> dict[str, bytes]:
    return {name: data if isinstance(data, bytes) else data.read(0, data.size) for name, data in FILES.items()}


def lines(done: Completed) -> list[dict[str, Any]]:
    for line in done.json:
        check(line)
    return done.json


@pytest.fixture
def stocked(hub: Hub) -> Hub:
    hub.add_repo("acme/tiny", files=FILES)
    return hub


def test_get_as_any_user(stocked: Hub, run_cli: CommandLine, cli_user: User) -> None:
    done = run_cli("get", URI, user=cli_user)
    assert (done.exit_code, done.stderr) == (0, "")
    (path,) = done.stdout.splitlines()
    assert tree(Path(path)) == held()
    asked = len(stocked.requests)
    again = run_cli("get", URI, "--json", user=cli_user)
    (line,) = lines(again)
    assert (line["hit"], line["downloaded"], line["path"], line["lease"]) == (True, 0, path, None)
    assert len(stocked.requests) == asked


def test_the_last_line_is_the_snapshot_and_progress_is_bounded(stocked: Hub, run_cli: CommandLine) -> None:
    began = time.monotonic()
    done = run_cli("get", URI, "--json", "--limit-rate", "3MB")
    took_s = time.monotonic() - began
    *progress, last = lines(done)
    assert {line["event"] for line in progress} == {"progress"}
    assert len(progress) <= 10 * took_s + 1
    assert took_s >= 0.7  # 3.1 MB at 3 MB/s, with a small burst allowed
    assert last["event"] == "snapshot"
    assert (last["downloaded"], last["files"], last["verified_by"]) == (3 * MIB + 9, 3, "git-sha1")
    counts = [line["bytes_done"] for line in progress]
    assert counts == sorted(counts)
    assert done.stderr == ""


def test_quiet_says_nothing(stocked: Hub, run_cli: CommandLine) -> None:
    done = run_cli("get", URI, "--json", "--quiet")
    assert [line["event"] for line in lines(done)] == ["snapshot"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("selectors", "names"),
    [
        (["config.json"], {"config.json"}),
        (["*.json", "empty"], {"config.json", "empty"}),
        (["weights/*"], {"weights/model.bin"}),
    ],
)
def test_some_files(stocked: Hub, run_cli: CommandLine, selectors: list[str], names: set[str]) -> None:
    options = [word for selector in selectors for word in ("--file", selector)]
    done = run_cli("get", URI, *options)
    assert set(tree(Path(done.stdout.strip()))) == names


def test_one_that_fails_does_not_stop_the_others(stocked: Hub, run_cli: CommandLine) -> None:
    done = run_cli("get", "hf://acme/none", URI, "hf://acme/nothing", "--json", "--quiet")
    assert done.exit_code == 21
    assert {line["resource"] for line in lines(done) if line["event"] == "error"} == {
        "hf://acme/none@main",
        "hf://acme/nothing@main",
    }
    (found,) = done.events("snapshot")
    assert tree(Path(found["path"])) == held()


def test_failures_of_several_kinds_are_partial(stocked: Hub, run_cli: CommandLine) -> None:
    stocked.add_repo("acme/gated", files={"a": b"1"}, gated=True)
    done = run_cli("get", "hf://acme/none", "hf://acme/gated", "--quiet")
    assert (done.exit_code, done.stdout) == (11, "")
    assert done.stderr.count("error: ") == 2


def test_a_copy_is_the_users_own(stocked: Hub, run_cli: CommandLine, tmp_path: Path) -> None:
    target = tmp_path / "out" / "model"
    done = run_cli("get", URI, "--to", target)
    assert (done.exit_code, done.stdout) == (0, f"{target}\n")
    assert tree(target) == held()
    (target / "config.json").write_bytes(b"mine")
    cached = Path(run_cli("get", URI).stdout.strip())
    assert tree(cached) == held()

    asked = len(stocked.requests)
    occupied = run_cli("get", URI, "--refresh", "--to", target)
    assert occupied.exit_code == 2
    assert "--merge" in occupied.stderr
    assert len(stocked.requests) == asked  # refused before anything is fetched
    (target / "notes").write_bytes(b"mine")
    (line,) = lines(run_cli("get", URI, "--to", target, "--merge", "--json", "--quiet"))
    assert line["path"] == str(target)
    assert tree(target) == held() | {"notes": b"mine"}


def test_a_path_that_is_no_utf8_is_printed_byte_for_byte(stocked: Hub, run_cli: CommandLine, tmp_path: Path) -> None:
    target = os.fsencode(tmp_path) + b"/mod\xe8les"
    with run_cli.start("get", URI, "--to", os.fsdecode(target)) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, target + b"\n", b"")
    assert tree(Path(os.fsdecode(target))) == held()


def test_a_dry_run_fetches_nothing(stocked: Hub, run_cli: CommandLine) -> None:
    done = run_cli("get", URI, "--dry-run", "--json", "--quiet")
    (plan,) = lines(done)
    assert (plan["event"], plan["bytes_to_fetch"], plan["fits"]) == ("plan", 3 * MIB + 9, True)
    assert plan["resources"][0]["files_to_fetch"] == 2
    assert not stocked.requests.select("bodies")
    assert "3.1 MB to fetch" in run_cli("get", URI, "--dry-run").stdout
    assert run_cli("ls").stdout == ""
    run_cli("get", URI)
    (plan,) = lines(run_cli("get", URI, "--dry-run", "--json", "--quiet"))
    assert (plan["resources"][0]["hit"], plan["bytes_to_fetch"]) == (True, 0)


def test_the_endpoint_of_the_argument_wins(stocked: Hub, run_cli: CommandLine) -> None:
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run_cli("get", URI, "--endpoint", f"{stocked.endpoint}/", "--json", "--quiet", env=environment)
    assert done.exit_code == 0, done.stdout
    (entry,) = lines(run_cli("ls", "--json"))
    assert entry["endpoint"] == stocked.endpoint


def test_the_operators_token_opens_what_is_private(stocked: Hub, run_cli: CommandLine) -> None:
    stocked.tokens["hf_operator_canary"] = Token("alice", frozenset({"acme/secret"}))
    stocked.add_repo("acme/secret", files={"a": b"1"}, private=True)
    denied = run_cli("get", "hf://acme/secret")
    assert denied.exit_code == 21
    assert "private" in denied.stderr
    done = run_cli("get", "hf://acme/secret", env={"HF_TOKEN": "hf_operator_canary"})
    assert done.exit_code == 0
    assert run_cli("get", "hf://acme/secret").exit_code == 21  # what one principal fetched is not another's
    (entry,) = lines(run_cli("ls", "--json"))
    assert entry["private"]
    for path in run_cli.home().rglob("*"):
        assert not path.is_file() or b"hf_operator_canary" not in path.read_bytes()


def test_an_unreachable_origin(run_cli: CommandLine) -> None:
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "FETCHER_API_TIME_MAX_S": "0.5s",
        "FETCHER_BACKOFF_MAX_S": "0.2s",
    }
    done = run_cli("get", URI, env=environment)
    assert (done.exit_code, done.stdout) == (30, "")
    assert "\nhint: " in done.stderr


# --- stopping


def _until_bytes_came(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["bytes_done"] > MIB:
            return
    raise AssertionError("ended before it could be stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_what_came_and_says_so(stocked: Hub, run_cli: CommandLine, number: signal.Signals) -> None:
    stocked.add_repo("acme/large", files={"model.bin": Synthetic(24 * MIB, 2)})
    with run_cli.start("get", "hf://acme/large", "--json", "--limit-rate", "2MiB", env=FEW_AT_ONCE) as process:
        _until_bytes_came(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    error = json.loads(out.splitlines()[-1])
    check(error)
    assert error["kind"] == "interrupted"
    assert re.fullmatch(r"stopped; .* of 25\.2 MB .*are kept", error["message"])
    done = run_cli("get", "hf://acme/large", "--json", "--quiet")
    assert done.exit_code == 0
    downloaded = done.last["downloaded"]
    assert 0 < downloaded < 24 * MIB if hashing.HAS_TREE else downloaded == 24 * MIB


def test_stopping_twice_leaves_at_once(stocked: Hub, run_cli: CommandLine) -> None:
    stocked.add_repo("acme/large", files={"model.bin": Synthetic(24 * MIB, 2)})
    with run_cli.start("get", "hf://acme/large", "--json", "--limit-rate", "1MiB", env=FEW_AT_ONCE) as process:
        _until_bytes_came(process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


# --- on a terminal


def _on_a_terminal(run_cli: CommandLine, *arguments: str, env: dict[str, str | None]) -> tuple[bytes, bytes]:
    """stdout, and what a terminal on stderr got."""
    ours, theirs = pty.openpty()
    try:
        process = run_cli.start(*arguments, env={"TERM": "xterm-256color", **env}, stderr=theirs)
        os.close(theirs)
        shown = b""
        with process:
            assert process.stdout is not None
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if select.select([ours], [], [], 0.1)[0]:
                    try:
                        shown += os.read(ours, 1 << 16)
                    except OSError:  # EIO: the other side is closed
                        break
            out = process.stdout.read()
        assert process.returncode == 0
        return out, shown
    finally:
        os.close(ours)


@pytest.mark.parametrize("colours", [True, False])
def test_a_live_display_on_a_terminal(stocked: Hub, run_cli: CommandLine, colours: bool) -> None:
    out, shown = _on_a_terminal(run_cli, "get", URI, "--limit-rate", "3MB", env={"NO_COLOR": None if colours else "1"})
    assert re.fullmatch(rb"/\S+/snapshots-v1/[0-9a-f]+\n", out)
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert "hf://acme/tiny@main" in text
    assert "MB/s" in text
    assert "files" in text
    assert "connections" in text
    assert (re.search(rb"\x1b\[[0-9;]*3[0-9]", shown) is not None) == colours


def test_a_dumb_terminal_gets_no_display(stocked: Hub, run_cli: CommandLine) -> None:
    assert _on_a_terminal(run_cli, "get", URI, env={"TERM": "dumb"})[1] == b""


def test_what_is_evicted_before_it_could_be_leased_is_fetched_again(
    stocked: Hub, program: Program, isolated_environment: pytest.MonkeyPatch
) -> None:
    isolated_environment.setenv("HF_ENDPOINT", stocked.endpoint)
    isolated_environment.setenv("FETCHER_ALLOW_NET", "127.0.0.0/8")
    real, evicted = Cache.lease_timed, list[str]()

    def lease_timed(cache: Cache, ids: Sequence[str], duration_s: float, **more: Any) -> Lease:
        if not evicted:
            evicted.extend(cache.remove(ids).snapshots)
        return real(cache, ids, duration_s, **more)

    isolated_environment.setattr(Cache, "lease_timed", lease_timed)
    done = program("get", URI, "--lease", "1h", "--json")
    assert done.exit_code == 0 and len(evicted) == 1
    assert done.json[-1]["lease"]["id"] and tree(Path(done.json[-1]["path"])) == held()


# --- leases that nobody was told of


def leases(run_cli: CommandLine) -> list[str]:
    return [lease["id"] for entry in lines(run_cli("ls", "--json")) for lease in entry["leases"]]


def test_a_lease_ends_that_could_not_be_told(stocked: Hub, run_cli: CommandLine) -> None:
    for _ in range(2):  # cold, then from the cache
        told_to_nobody(run_cli, "get", URI, "--lease", "1h", "--quiet")
        assert leases(run_cli) == []


def test_a_lease_ends_if_its_copy_fails(stocked: Hub, run_cli: CommandLine, tmp_path: Path) -> None:
    target = tmp_path / "out"
    (target / "config.json").mkdir(parents=True)
    refused = run_cli("get", URI, "--to", target, "--merge", "--lease", "1h", "--quiet")
    assert (refused.exit_code, refused.stdout) == (51, "")
    assert leases(run_cli) == []
    (target / "config.json").rmdir()
    done = run_cli("get", URI, "--to", target, "--merge", "--lease", "1h", "--json", "--quiet")
    assert leases(run_cli) == [done.last["lease"]["id"]]


@pytest.fixture
def at_the_hub(stocked: Hub, program: Program, isolated_environment: pytest.MonkeyPatch) -> Program:
    """The program in-process, with the embedded hub as its origin."""
    isolated_environment.setenv("HF_ENDPOINT", stocked.endpoint)
    isolated_environment.setenv("FETCHER_ALLOW_NET", "127.0.0.0/8")
    return program


def leased(program: Program) -> list[str]:
    return [lease["id"] for entry in program("ls", "--json").json for lease in entry["leases"]]


def test_a_lease_ends_with_who_is_stopped_while_he_copies(
    at_the_hub: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    leased_meanwhile: list[str] = []

    async def copy_out(fetcher: Fetcher, *_: object, **__: object) -> int:
        leased_meanwhile.extend(lease.id for lease in fetcher.cache.leases())
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)
        return 0

    monkeypatch.setattr(Fetcher, "copy_out", copy_out)
    with pytest.raises(asyncio.CancelledError):
        at_the_hub("get", URI, "--to", tmp_path / "out", "--lease", "1h")
    assert len(leased_meanwhile) == 1
    assert leased(at_the_hub) == []


def test_of_several_hits_of_which_one_has_gone_each_is_leased_once(
    stocked: Hub, at_the_hub: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    stocked.add_repo("acme/other", files={"x": b"2"})
    both = (URI, "hf://acme/other")
    assert at_the_hub("get", *both).exit_code == 0
    real, asked = Cache.lease_timed, list[str]()

    def lease_timed(cache: Cache, ids: Sequence[str], duration_s: float, **more: Any) -> Lease:
        asked.extend(ids)
        if len(asked) == len(both):
            cache.remove(ids)
        return real(cache, ids, duration_s, **more)

    monkeypatch.setattr(Cache, "lease_timed", lease_timed)
    done = at_the_hub("get", *both, "--lease", "1h", "--json", "--quiet")
    assert (done.exit_code, len(asked)) == (0, 4)
    assert sorted(leased(at_the_hub)) == sorted(line["lease"]["id"] for line in done.json)
