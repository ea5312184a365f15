"""Commands without help fail here; what the help says is what there is."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from fetcher.cli import app
from fetcher.cli.app import COMMANDS, build_parser
from tests.cli.support import Program
from tests.support.cli import CommandLine

ROOM = Path(app.__file__).parent
NOT_COMMANDS = {
    "lax",
    "__init__",
    "app",
    "context",
    "entries",
    "fetching",
    "hold",
    "live",
    "output",
    "progress",
    "terminal",
}


def _subparser(command: str) -> argparse.ArgumentParser:
    parser = build_parser([command])
    (action,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    found: argparse.ArgumentParser = action.choices[command]
    return found


def test_every_module_of_the_room_is_a_command_or_known_to_be_none() -> None:
    assert {path.stem for path in ROOM.glob("*.py")} - NOT_COMMANDS == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_every_argument_has_help(command: str) -> None:
    parser = _subparser(command)
    assert len(COMMANDS[command]) > 10
    silent = [action for action in parser._actions if not action.help]
    assert not silent
    text = parser.format_help()
    for action in parser._actions:
        assert not action.option_strings or action.option_strings[-1] in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_data_and_no_error(program: Program, command: str) -> None:
    done = program(command, "--help")
    assert (done.exit_code, done.err) == (0, "")
    assert done.out.startswith(f"usage: fetcher {command}")


def test_the_help_of_the_program_lists_every_command(program: Program) -> None:
    done = program("--help")
    assert done.exit_code == 0
    for command, summary in COMMANDS.items():
        assert f"{command} " in done.out
        assert summary in done.out


def test_help_of_get_says_that_it_takes_no_lease(program: Program) -> None:
    assert "takes no lease" in " ".join(program("get", "--help").out.split())


def test_version(program: Program) -> None:
    done = program("--version")
    assert done.exit_code == 0
    assert done.out.startswith("fetcher 0.1.0 (Python 3.")
    assert "core: " in done.out


def test_plain_mode_says_so(run_cli: CommandLine) -> None:
    plain = {"FETCHER_NATIVE": "plain"}
    assert "core: plain (no block trees" in run_cli("--version", env=plain).stdout
    checks = {check["name"]: check for check in run_cli("doctor", "--json", env=plain).last["checks"]}
    assert checks["core"]["status"] == "warn"
    assert "plain (no block trees" in checks["core"]["message"]
    assert "gcc" in checks["core"]["hint"]


SHARED = [
    (["--json"], "json_lines", True),
    (["--dry-run"], "dry_run", True),
    (["--offline"], "offline", True),
    (["--refresh"], "refresh", True),
    (["--cache-dir", "/c"], "cache_dir", "/c"),
    (["--limit-rate", "50M"], "limit_rate", 50_000_000),
    (["--max-connections", "4"], "max_connections", 4),
    (["--quiet"], "quiet", True),
    (["--verbose"], "verbose", True),
]
CALLS = {
    "get": ["hf://acme/tiny"],
    "job": ["-"],
    "prefetch": ["-"],
    "inspect": ["hf://acme/tiny"],
    "pin": ["hf://acme/tiny", "--name", "x"],
    "unpin": ["x"],
    "rm": ["hf://acme/tiny"],
    "release": ["x"],
    "renew": ["x"],
    "cache": ["dir"],
    "completion": ["bash"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("option", "name", "value"), SHARED, ids=[option[0] for option, _, _ in SHARED])
def test_shared_options_stand_before_or_after_the_command(
    command: str, option: list[str], name: str, value: object
) -> None:
    words = CALLS.get(command, [])
    for arguments in ([*option, command, *words], [command, *words, *option], [command, *option, *words]):
        options = build_parser(arguments).parse_args(arguments)
        assert getattr(options, name) == value, arguments
    assert not hasattr(build_parser([command]).parse_args([command, *words]), name)
