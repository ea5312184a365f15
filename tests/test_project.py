"""The project's own frame: one version, one list of packages, errors that tell themselves apart, a guard that bites."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import fetcher
from fetcher import errors
from tests.support import needs
from tests.support.cli import ORDINARY_UID, CommandLine, as_ordinary_user
from tests.support.leftovers import Belongings, left_behind

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def test_one_version() -> None:
    assert fetcher.__version__ == PROJECT["project"]["version"]
    assert f"## {fetcher.__version__}" in (CHECKOUT / "CHANGELOG.md").read_text()


def test_debian_packages_are_named_once() -> None:
    script = (CHECKOUT / "tests/support/debian.sh").read_text()
    (listed,) = re.findall(r"^PACKAGES=\((.*)\)$", script, re.MULTILINE)
    assert listed.split() == sorted({*needs.DEBIAN_PACKAGES.values(), *needs.DEBIAN_HEADERS.values()})


def test_make_help_names_every_target() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    # As from a shell, also when these tests were started by make itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "help"], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    nobody_calls = {"help", "base-is-given"}
    assert {line.split()[1] for line in shown.splitlines()} == set(phony.split()) - nobody_calls


def test_error_kinds_and_exit_codes_are_unique() -> None:
    assert len({error.kind for error in errors.ERROR_CLASSES}) == len(errors.ERROR_CLASSES)
    assert len({error.exit_code for error in errors.ERROR_CLASSES}) == len(errors.ERROR_CLASSES)
    # Rooms have errors of their own that never leave them; the tree of those that do is in one module.
    told = {error for error in errors.FetcherError.__subclasses__() if error.__module__ == errors.__name__}
    assert told == set(errors.ERROR_CLASSES)


def test_the_machines_in_texts_are_nobodys() -> None:
    """No path of a developer's machine in code or documents."""
    texts = [path for end in ("py", "pyx", "md", "toml", "sh", "c", "h") for path in CHECKOUT.glob(f"*/**/*.{end}")]
    texts += [path for path in CHECKOUT.iterdir() if path.is_file()]
    texts = [path for path in texts if not {".venv", ".git", "build"}.intersection(path.relative_to(CHECKOUT).parts)]
    # Containers have homes, too: a job's target may be below root's.
    telling = re.compile("/ro" + r"ot/(?:\.py" + r"env|\S*fetcher)|/wo" + "rk/|/ho" + r"me/[a-z]+/\S*fetcher")
    assert texts
    assert not [str(path) for path in texts if telling.search(path.read_text(errors="replace"))]


@contextmanager
def _a_child() -> Iterator[None]:
    # An orphan: its own parent, the shell, is gone at once.
    shell = subprocess.run(
        ["sh", "-c", "sleep 30 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    yield
    subprocess.run(["kill", "-9", shell.stdout.strip()], check=True)


@contextmanager
def _a_thread() -> Iterator[None]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="planted")
    thread.start()
    yield
    end.set()
    thread.join()


@contextmanager
def _a_listener() -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)):
        yield


@pytest.mark.parametrize(
    ("plant", "word"), [(_a_child, "sleep 30"), (_a_thread, "'planted'"), (_a_listener, "listening socket port")]
)
def test_what_a_test_leaves_behind_is_found(plant: Callable[[], AbstractContextManager[None]], word: str) -> None:
    before = Belongings.now()
    with plant():
        (found,) = left_behind(before, grace_s=0)
        assert word in found
    assert left_behind(before, grace_s=2) == []


def test_what_ends_by_itself_is_given_time() -> None:
    before = Belongings.now()
    threading.Thread(target=time.sleep, args=(0.2,)).start()
    assert left_behind(before, grace_s=2) == []


def test_what_is_not_run_is_listed_and_fails_when_all_must_run(tmp_path: Path) -> None:
    missing = "@pytest.mark.skip(reason='no such machine')"
    for everything, exit_code in (("0", 0), ("1", 1)):
        done = _run_planted(tmp_path, missing, FETCHER_TEST_ALL=everything)
        assert "no such machine:\n" in done.stdout, done.stdout + done.stderr
        assert "::test_does_not_run" in done.stdout
        assert done.returncode == exit_code, done.stdout


def test_what_plain_mode_has_not_is_listed_and_not_missed(tmp_path: Path) -> None:
    done = _run_planted(tmp_path, "@pytest.mark.needs('native')", FETCHER_TEST_ALL="1", FETCHER_NATIVE="plain")
    assert "FETCHER_NATIVE=plain chooses to do without:\n" in done.stdout, done.stdout + done.stderr
    assert "::test_does_not_run" in done.stdout
    assert done.returncode == 0, done.stdout


def _run_planted(directory: Path, mark: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A run of two tests, one of them with ``mark``."""
    test = directory / "test_planted.py"
    test.write_text(f"import pytest\ndef test_runs(): pass\n{mark}\ndef test_does_not_run(): pass\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n1", "--rootdir", CHECKOUT, "-p", "tests.conftest", test],
        cwd=CHECKOUT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(directory), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.needs("ordinary-user")
def test_an_ordinary_user_can_run_the_program_of_this_checkout(run_cli: CommandLine) -> None:
    script = "import os, aiohttp, fetcher; print(os.getuid(), os.getgid(), os.getgroups(), fetcher.__file__)"
    done = subprocess.run(
        as_ordinary_user([sys.executable, "-c", script]),
        env=run_cli.environment(user="ordinary"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=3)[:3] == [str(ORDINARY_UID), str(ORDINARY_UID), "[]"]
    assert str(CHECKOUT) in done.stdout
