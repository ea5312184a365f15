"""What holds for every test: a clean environment, nothing left behind, fixed seeds, and nothing silently not run.

- ``@pytest.mark.needs(...)``: what the machine must have; see tests/support/needs.py. What was not run is listed at the
  end by name; with ``FETCHER_TEST_ALL=1`` it fails the run.
- ``FETCHER_NATIVE=plain``: everything in plain mode. What is about block trees is listed too, but is not missed.
- ``FETCHER_TEST_SEED``: seed of every random test, printed at the start. The default is fixed: two runs do the same.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, configuration, settings

from tests.support import needs
from tests.support.cli import ORDINARY_UID, CommandLine, User
from tests.support.leftovers import Belongings, adopt_orphans, end_children, left_behind

# Real servers (swift_s3, rclone_s3, docker_registry, dockerd, podman, engine), started when a test first asks for one.
pytest_plugins = ["tests.support.servers.fixtures"]

SEED = int(os.environ.get("FETCHER_TEST_SEED") or 1)
ALL = os.environ.get("FETCHER_TEST_ALL") == "1"
PLAIN = os.environ.get("FETCHER_NATIVE") == "plain"
NO_TREES = "about block trees, and FETCHER_NATIVE=plain chooses to do without"

LEFTOVER_GRACE_S = 15.0
"""A closed server's thread or a killed child may take a moment to be gone, on a machine with all cores busy."""

LOOPBACK = "127.0.0.0/8,::1/128"

# Names by which a developer's own machine would reach into a test.
_STRIPPED = (
    *("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "AWS_", "XDG_"),
    *("NO_COLOR", "FORCE_COLOR", "COLUMNS", "DOCKER_HOST", "CONTAINER_HOST", "OLLAMA_", "NETRC"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FETCHER_"),
)
# The run itself is steered by these.
_OURS = ("FETCHER_TEST_", "FETCHER_NATIVE")


def pytest_configure(config: pytest.Config) -> None:
    adopt_orphans()
    os.umask(0o022)
    # derandomize: the same examples in every run; without a database nothing is written into the checkout.
    settings.register_profile(
        "fetcher",
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=50,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("fetcher")
    home = tempfile.mkdtemp(prefix="fetcher-hypothesis-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    configuration.set_hypothesis_home_dir(home)


def pytest_report_header(config: pytest.Config) -> str:
    mode = ", plain mode" if PLAIN else ""
    return f"seed: {SEED} (FETCHER_TEST_SEED), {'everything must run' if ALL else 'what the machine allows'}{mode}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("needs"):
            for need in marker.args:
                if need == "native" and PLAIN:
                    item.add_marker(pytest.mark.skip(reason=NO_TREES))
                    continue
                try:
                    reason = needs.missing(need)
                except KeyError:
                    raise pytest.UsageError(f"{item.nodeid}: tests/support/needs.py knows no {need!r}") from None
                if reason:
                    item.add_marker(pytest.mark.skip(reason=f"needs {need}: {reason}"))


# --- what was not run ------------------------------------------------------------------------------------------------


def _not_run(terminal: Any) -> dict[str, list[str]]:
    """Reason → names. With xdist the reports of all workers arrive here, in the controller."""
    found: dict[str, list[str]] = {}
    for report in terminal.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        found.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    return found


def _missed(not_run: dict[str, list[str]]) -> bool:
    return bool(not_run.keys() - {NO_TREES})


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    is_worker = hasattr(session.config, "workerinput")
    if ALL and not is_worker and terminal and _missed(_not_run(terminal)) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    not_run = _not_run(terminalreporter)
    if not not_run:
        return
    fails = ALL and _missed(not_run)
    terminalreporter.section("not run", red=fails, yellow=not fails)
    for reason, names in sorted(not_run.items()):
        terminalreporter.write_line(f"{reason}:")
        for name in sorted(names):
            terminalreporter.write_line(f"    {name}")
    if fails:
        terminalreporter.write_line("FETCHER_TEST_ALL=1: what was not run fails the run", red=True)


# --- every test ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails the test that leaves a child process, a thread or a listening socket."""
    before = Belongings.now()
    yield
    found = left_behind(before, grace_s=LEFTOVER_GRACE_S)
    end_children(before)
    assert not found, f"left behind: {'; '.join(found)}"


@pytest.fixture(autouse=True)
def isolated_environment(
    nothing_left_behind: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """No setting, token, proxy or directory of the machine's user reaches a test. To add some, use what it returns."""
    for name in list(os.environ):
        if name.upper().startswith(_STRIPPED) and not name.startswith(_OURS):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    for name, place in (
        ("CACHE", ".cache"),
        ("CONFIG", ".config"),
        ("STATE", ".local/state"),
    ):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / place))
    return monkeypatch


# --- for the rooms ---------------------------------------------------------------------------------------------------


@pytest.fixture
def seed() -> int:
    """The run's seed; the same in every test."""
    return SEED


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A source of random numbers of this test's own, so that neither order nor other tests change what it draws."""
    return random.Random(f"{SEED}:{request.node.nodeid}")


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """Where a cache may be made; does not exist yet. The same that ``run_cli`` uses."""
    return tmp_path / "home" / "cache"


@pytest.fixture
def hub(isolated_environment: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running embedded hub (fetcher.testing), already the HF_ENDPOINT of this test and of what it starts."""
    from fetcher.testing.hub import hub_in_thread

    with hub_in_thread() as running:
        isolated_environment.setenv("HF_ENDPOINT", running.endpoint)
        isolated_environment.setenv("FETCHER_ALLOW_NET", LOOPBACK)
        yield running


@pytest.fixture
def ordinary_directory() -> Iterator[Path]:
    """A directory that the ordinary user owns and can reach, unlike tmp_path. Needs root."""
    directory = Path(tempfile.mkdtemp(prefix="fetcher-test-"))
    try:
        os.chown(directory, ORDINARY_UID, ORDINARY_UID)
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["current", pytest.param("ordinary", marks=pytest.mark.needs("ordinary-user"))])
def cli_user(request: pytest.FixtureRequest) -> User:
    """For what must hold for whoever runs the program: pass it on as ``run_cli(..., user=cli_user)``."""
    user: User = request.param
    return user


@pytest.fixture
def run_cli(request: pytest.FixtureRequest, tmp_path: Path) -> CommandLine:
    """``run_cli("get", "hf://org/name", "--json", env=…, input=…, user=…)``; see tests/support/cli.py."""
    ordinary_home = None
    if os.geteuid() == 0:
        ordinary_home = request.getfixturevalue("ordinary_directory") / "home"
    return CommandLine(home=tmp_path / "home", ordinary_home=ordinary_home)
