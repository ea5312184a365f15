"""What shells are told to complete, judged by the shells themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fetcher.cli.app import COMMANDS
from fetcher.cli.completion import SHELLS, read_parsers
from tests.cli.support import Program

SHARED = {"--json", "--dry-run", "--offline", "--refresh", "--cache-dir", "--limit-rate", "--quiet", "--verbose"}


@pytest.fixture
def script(program: Program, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The script for the shell that the test names, as a file."""
    path = tmp_path / "script"
    path.write_text(program("completion", request.param).out)
    return path


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=cwd,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def by_bash(script: Path, *words: str, cwd: Path | None = None) -> set[str]:
    """What bash offers for the last of ``words``."""
    program = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fetcher; printf "%s\\n" "${COMPREPLY[@]}"'
    return set(run("bash", "--norc", "-c", program, script, *words, cwd=cwd).split())


def by_fish(script: Path, line: str, cwd: Path | None = None) -> set[str]:
    """What fish offers at the end of ``line``, without the descriptions."""
    program = "source $argv[1]; complete -C $argv[2]"
    return {
        line.partition("\t")[0]
        for line in run("fish", "--no-config", "-c", program, script, line, cwd=cwd).splitlines()
    }


@pytest.mark.needs("debian:bash")
@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash(script: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").touch()
    (tmp_path / "models").mkdir()
    assert by_bash(script, "fetcher", "") == set(COMMANDS)
    assert by_bash(script, "fetcher", "--cache-dir", "ls", "pre") == {"prefetch"}
    assert by_bash(script, "fetcher", "get", "--") >= SHARED | {"--file", "--to", "--merge", "--lease", "--endpoint"}
    assert by_bash(script, "fetcher", "--json", "ls", "--l") == {"--limit-rate"}
    assert by_bash(script, "fetcher", "job", "x", "--format", "") == {"table", "docker", "json"}
    assert by_bash(script, "fetcher", "job", "", cwd=tmp_path) >= {"job.json", "models"}
    assert by_bash(script, "fetcher", "get", "x", "--to", "", cwd=tmp_path) == {"models"}
    assert by_bash(script, "fetcher", "get", "", cwd=tmp_path) == set()  # a URI is no path
    assert by_bash(script, "fetcher", "cache", "") == {"dir"}


@pytest.mark.needs("debian:bash")
@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_and_an_equals_sign(script: Path, tmp_path: Path) -> None:
    """A word of its own, as bash has it; or part of the option, where COMP_WORDBREAKS is without it."""
    (tmp_path / "models").mkdir()
    assert by_bash(script, "fetcher", "get", "x", "--to", "=", cwd=tmp_path) == {"models"}
    assert by_bash(script, "fetcher", "get", "x", "--to", "=", "mo", cwd=tmp_path) == {"models"}
    assert by_bash(script, "fetcher", "get", "x", "--to", "=", "no", cwd=tmp_path) == set()
    assert by_bash(script, "fetcher", "get", "x", "--to=mo", cwd=tmp_path) == {"--to=models"}
    assert by_bash(script, "fetcher", "get", "x", "--to=no", cwd=tmp_path) == set()
    assert by_bash(script, "fetcher", "job", "x", "--format", "=", "do") == {"docker"}
    for given in (["--cache-dir", "=", "/x"], ["--cache-dir=/x"], ["--json", "--cache-dir", "=", "/x"]):
        assert by_bash(script, "fetcher", *given, "pre") == {"prefetch"}
        assert by_bash(script, "fetcher", *given, "cache", "") == {"dir"}


@pytest.mark.needs("debian:fish")
@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish(script: Path, tmp_path: Path, isolated_environment: pytest.MonkeyPatch) -> None:
    isolated_environment.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "job.json").touch()
    assert by_fish(script, "fetcher ") == set(COMMANDS)
    assert by_fish(script, "fetcher get --") >= SHARED | {"--file", "--to", "--merge", "--lease", "--endpoint"}
    assert by_fish(script, "fetcher job x --format ") == {"table", "docker", "json"}
    assert "job.json" in by_fish(script, "fetcher job jo", cwd=tmp_path)
    assert by_fish(script, "fetcher cache ") == {"dir"}


@pytest.mark.needs("debian:zsh")
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh(script: Path, tmp_path: Path, isolated_environment: pytest.MonkeyPatch) -> None:
    """Typed into a zsh at a terminal of its own, because its completion works nowhere else."""
    isolated_environment.setenv("HOME", str(tmp_path))
    (tmp_path / "job.json").touch()
    driver = tmp_path / "driver.zsh"
    driver.write_text(
        "zmodload zsh/zpty\n"
        "zpty shell zsh -f -i\n"
        "zpty -w shell 'PS1=; autoload -Uz compinit; compinit -u -d $HOME/dump; source '\"${(q)1}\"\n"
        # In place of the program: says how it was called, once completion has finished the line.
        "zpty -w shell 'fetcher() { print -r -- \"<ran $*>\" }'\n"
        # One key for both: a line that comes while completion works would cut it short.
        "zpty -w shell 'both() { zle complete-word; zle accept-line }; zle -N both; bindkey ^T both'\n"
        "zpty -w shell 'print re\"\"ady'\n"
        "zpty -r -m shell all '*ready*'\n"
        "zpty -w -n shell $2$'\\C-t'\n"
        "zpty -r -m shell shown '*<ran *>*' && print -r -- ${${shown##*<ran }%%>*}\n"
        "zpty -d shell\n"
    )
    for line, completed in [
        ("fetcher pref", "prefetch"),
        ("fetcher get --merg", "get --merge"),
        ("fetcher --json job x --format doc", "--json job x --format docker"),
        ("fetcher job jo", "job job.json"),
        ("fetcher cache di", "cache dir"),
        ("fetcher get jo", "get jo"),  # a URI is no path
    ]:
        assert run("zsh", "-f", driver, script, line, cwd=tmp_path).strip() == completed


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_every_command_and_option_is_in_each_script(script: Path) -> None:
    text = script.read_text()
    _, commands = read_parsers()
    assert [command.name for command in commands] == list(COMMANDS)
    for command in commands:
        assert command.name in text
        for slot in command.options:
            assert all(flag.lstrip("-") in text for flag in slot.flags)


def test_as_json(program: Program) -> None:
    (line,) = program("completion", "bash", "--json").json
    assert line["script"].rstrip() == program("completion", "bash").out.rstrip()


def test_another_shell(program: Program) -> None:
    done = program("completion", "powershell")
    assert done.exit_code == 2
    assert "bash" in done.err
