"""``make demo`` in small: it succeeds twice, says so, writes nowhere else, and ends in sentences when it can't."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import CHECKOUT, ORDINARY_UID, as_ordinary_user

DEMO = [sys.executable, "-m", "fetcher.testing.demo_run"]


def environment(**more: str) -> dict[str, str]:
    """A user with settings and a token of his own, which must not matter."""
    return {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_TOKEN": "hf_of_the_user",
        "HF_ENDPOINT": "https://hub.invalid",
        "FETCHER_CACHE_DIR": "/nonexistent/of-the-user",
        "FETCHER_OFFLINE": "1",
        **more,
    }


def demo(directory: Path, *arguments: str, size: str = "6", command: list[str] = DEMO) -> tuple[int, str, str]:
    done = subprocess.run(
        [*command, "--directory", "demo", "--size", size, *arguments],
        cwd=directory,
        env=environment(HOME=str(directory / "home")),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


MARKET = "97G9NnvBDQ2WpKu6fasoMsAKmfj63C9rhysJnkeWodAf"


def check_story(stdout: str) -> None:
    """The market's plan and its items, the job's plan and mounts, a hit, the cache: each command and what it said."""
    commands = re.findall(r"^\$ fetcher (.*)$", stdout, re.MULTILINE)
    assert commands == [
        f"prefetch {MARKET} --no-images --dry-run",
        f"prefetch {MARKET} --no-images --json",
        "job demo/job.json --dry-run",
        "job demo/job.json --json",
        "job demo/job.json --format docker",
        "ls",
        "df",
    ]
    assert len(re.findall(r"to fetch, .* free: fits", stdout)) == 2
    assert re.search(r"^  done: 100 %|^  fetch: \d+ %|^  resolve …", stdout, re.MULTILINE)
    assert sorted(re.findall(r"^ +(done|skipped)  [a-z]+://", stdout, re.MULTILINE)) == ["done"] * 3 + ["skipped"]
    assert "at 5 mounts compared with the origins', byte by byte: equal" in stdout
    mounts = re.findall(r"^  --mount type=bind,source=(.*),target=([^,]*)(,readonly)?$", stdout, re.MULTILINE)
    writable = {target for _, target, read_only in mounts if not read_only}
    assert len(mounts) == 5 and writable == {"/workspace/notes"}
    before, after = re.findall(r"Requests at the origins: (\d+) before, (\d+) after", stdout)[0]
    assert before == after != "0"
    assert re.search(r"^Done in \d+ s", stdout, re.MULTILINE)


def test_it_tells_its_story_twice_from_an_empty_cache_and_writes_nowhere_else(tmp_path: Path) -> None:
    for _ in range(2):
        code, stdout, stderr = demo(tmp_path)
        assert code == 0, stdout[-3000:] + stderr
        check_story(stdout)
    assert {path.name for path in tmp_path.iterdir()} <= {"demo", "home"}
    assert not list((tmp_path / "home").rglob("*")), "nothing in the user's home"
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {".fetcher-demo", "job.json", "cache"}


@pytest.mark.needs("ordinary-user")
def test_an_ordinary_user_can_run_it(ordinary_directory: Path) -> None:
    code, stdout, stderr = demo(ordinary_directory, command=as_ordinary_user(DEMO))
    assert code == 0, stdout[-3000:] + stderr
    check_story(stdout)
    assert (ordinary_directory / "demo" / "cache").stat().st_uid == ORDINARY_UID


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "demo" / "cache" / "precious"
    theirs.mkdir(parents=True)
    code, stdout, stderr = demo(tmp_path)
    assert code == 1
    assert "demo: demo was not made by the demo" in stderr
    assert stdout == ""
    assert theirs.is_dir()


def test_what_the_disk_refuses_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    code, _, stderr = demo(tmp_path)
    assert code == 1
    assert re.search(r"^demo: demo: ", stderr, re.MULTILINE)


def test_a_failing_command_fails_the_demo(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / ".fetcher-demo").touch()
    (directory / "config").mkdir()
    (directory / "config" / "fetcher").mkdir()
    # Its own configuration directory is the one place by which the program can still be upset.
    (directory / "config" / "fetcher" / "config.toml").write_text("no_such_setting = 1\n")
    code, stdout, stderr = demo(tmp_path)
    assert code == 1
    assert "no_such_setting" in stdout + stderr
    assert "demo: fetcher prefetch has ended with exit code 2" in stderr


@pytest.mark.parametrize("size", ["0", "281", "x", "-5"])
def test_sizes_have_bounds(tmp_path: Path, size: str) -> None:
    code, _, stderr = demo(tmp_path, size=size)
    assert code == 2
    assert "--size" in stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("reaches", ["group", "demo alone"])
def test_stopped_in_the_middle_it_leaves_no_process(tmp_path: Path, number: signal.Signals, reaches: str) -> None:
    """Children, threads and sockets left behind fail every test; a process group of its own is as at a terminal."""
    process = subprocess.Popen(
        [*DEMO, "--directory", "demo", "--size", "280"],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("$ fetcher prefetch") and "--json" in line:
                break
        next(line for line in process.stdout if "resolve" in line or "fetch:" in line)
        if reaches == "group":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130
    assert "demo: stopped" in stderr
    assert "Traceback" not in stderr
