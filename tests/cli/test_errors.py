"""Whatever goes wrong: a sentence, a hint, the right exit code, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fetcher.cli import app, cache
from fetcher.errors import ERROR_CLASSES, FetcherError
from tests.cli.support import Program
from tests.support.cli import CommandLine


@pytest.mark.parametrize(
    ("arguments", "code", "words", "hint"),
    [
        ([], 2, "no command", "--help"),
        (["gte"], 2, "no such command: gte", "did you mean get?"),
        (["xyzzy"], 2, "no such command: xyzzy", "--help"),
        (["verify", "hf://acme/tiny"], 21, "not in the cache", "fetcher ls"),
        (["verify", "acme/tiny"], 10, "no scheme", "hf://acme/tiny"),
        (["unpin", "nothing"], 21, "no pin nothing", "fetcher ls"),
        (["pin", "hf://acme/tiny", "--name", "a b"], 2, "not a name for a pin", ""),
        (["get"], 2, "required: URI", "fetcher get --help"),
        (["get", "hf://a/b", "--frobnicate"], 2, "unrecognized arguments: --frobnicate", "--help"),
        (["get", "hf://a/b", "--merge"], 2, "--merge goes with --to", ""),
        (["get", "hf://a/b", "hf://a/c", "--to", "x"], 2, "one URI", ""),
        (["get", "hf://a/b", "--lease", "soon"], 2, "not a duration", ""),
        (["get", "hf://a/b", "--lease", "0"], 2, "no time", ""),
        (["get", "hf://a/b", "--limit-rate", "50Mbit"], 2, "divide bits by 8", ""),
        (["get", "hf://a/b", "--max-connections", "0"], 2, "must not be less than 1", ""),
        (["get", "hf://a/b", "--endpoint", "hub"], 2, "must be http", ""),
        (["get", "hf://a/b", "--offline", "--refresh"], 2, "exclude each other", ""),
        (["get", "hf://a/b/c.bin"], 10, "never part of the URI", "--file c.bin"),
        (["get", "s3://b/x"], 10, "not a bucket name", ""),
        (["get", "ollama://a b"], 10, "", "ollama://"),
        (["get", "hf://acme/tiny", "--offline"], 24, "not in the cache", "--offline"),
        (["inspect", "hf://acme/tiny"], 21, "not in the cache", "fetcher ls"),
        (["inspect", "/nowhere"], 21, "not in a snapshot", "fetcher ls"),
        (["rm", "hf://acme/tiny"], 21, "not in the cache", "fetcher ls"),
        (["rm", "acme/tiny"], 10, "no scheme", "hf://acme/tiny"),
        (["release", "nonsense"], 60, "lease", ""),
        (["renew", "nonsense"], 60, "lease", ""),
        (["prune", "--max-size", "big"], 2, "not a size", ""),
        (["job", "/nowhere.json"], 2, "can't read /nowhere.json", ""),
        (["job", "x", "--owner-pid", "0"], 2, "not a process id", ""),
        (["job", "x", "--format", "yaml"], 2, "invalid choice", ""),
        (["cache", "rid"], 2, "invalid choice", ""),
        (["ls", "--cache-dir", "/dev/null/x"], 51, "", ""),
    ],
)
def test_errors_say_what_and_how_to_go_on(
    program: Program, arguments: list[str], code: int, words: str, hint: str
) -> None:
    done = program(*arguments)
    assert (done.exit_code, done.out) == (code, "")
    first, _, rest = done.err.partition("\n")
    assert first.startswith("error: ")
    assert words in done.err
    assert f"\n\nhint: {hint}"[:8] in done.err or not hint
    assert hint in rest

    in_json = program(*arguments, "--json")
    assert in_json.exit_code == code
    line = in_json.json[-1]
    assert [line["event"] for line in in_json.json if line["event"] != "progress"] == ["error"]
    assert {cls.kind: cls.exit_code for cls in ERROR_CLASSES}[line["kind"]] == code
    assert words in line["message"] or words in done.err
    assert in_json.err == ""


def test_every_bad_uri_is_told_and_nothing_is_fetched(program: Program) -> None:
    done = program("get", "hf://acme/tiny", "s3://x/y", "hf://a/b/c", "ollama://a//b", "--json")
    assert done.exit_code == 10
    assert [line["resource"] for line in done.json] == ["s3://x/y", "hf://a/b/c", "ollama://a//b"]


def _bad_job(tmp_path: Path) -> Path:
    job = tmp_path / "job.json"
    resources = [{"type": "HF", "repo": "acme/tiny", "target": "data", "oops": 1}, {"type": "S3"}]
    job.write_text(json.dumps({"ops": [{"id": "run", "args": {"resources": resources}}]}))
    return job


def test_every_fault_of_a_document_with_its_path(program: Program, tmp_path: Path) -> None:
    done = program("job", _bad_job(tmp_path))
    assert done.exit_code == 10
    at = "$.ops[0].args.resources"
    for place in (f"{at}[0].oops: ", f"{at}[0].target: ", f"{at}[1].url: ", f"{at}[1].target: "):
        assert f"\n  {place}" in done.err
    assert done.err.startswith("error: the Job Definition has 4 faults")
    assert done.err.count("    hint: ") == 4


def test_every_fault_of_a_document_as_an_object(program: Program, tmp_path: Path) -> None:
    done = program("job", _bad_job(tmp_path), "--json")
    assert done.exit_code == 10
    assert [line["at"] for line in done.json] == [
        "$.ops[0].args.resources[0].oops",
        "$.ops[0].args.resources[0].target",
        "$.ops[0].args.resources[1].url",
        "$.ops[0].args.resources[1].target",
    ]
    assert all(line["kind"] == "resource" and line["hint"] for line in done.json)


@pytest.mark.parametrize("cls", ERROR_CLASSES)
def test_every_kind_leads_to_its_exit_code(
    program: Program, monkeypatch: pytest.MonkeyPatch, cls: type[FetcherError]
) -> None:
    def run(context: object) -> int:
        raise cls("it broke", hint="mend it", resource="hf://acme/tiny@main", at="$.ops[0]")

    monkeypatch.setattr(cache, "run", run)
    done = program("cache", "dir")
    expected = "error: it broke\n  resource: hf://acme/tiny@main\n  at: $.ops[0]\n\nhint: mend it\n"
    assert (done.exit_code, done.out, done.err) == (cls.exit_code, "", expected)
    (line,) = program("cache", "dir", "--json").json
    assert line == {
        "event": "error",
        "kind": cls.kind,
        "message": "it broke",
        "hint": "mend it",
        "resource": "hf://acme/tiny@main",
        "at": "$.ops[0]",
    }


def test_a_fault_of_our_own_is_a_sentence(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(context: object) -> int:
        raise ZeroDivisionError("oops\x1b[2J")

    monkeypatch.setattr(cache, "run", run)
    done = program("cache", "dir")
    assert done.exit_code == 1
    assert "ZeroDivisionError: oops\\x1b[2J" in done.err
    assert "FETCHER_DEBUG=1" in done.err
    monkeypatch.setenv("FETCHER_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        app.main(["cache", "dir"])


def test_ctrl_c_before_anything_began(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(context: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "run", run)
    assert program("cache", "dir").exit_code == 130


def test_terminal_codes_in_messages_are_made_harmless(program: Program) -> None:
    done = program("get", "hf://a/\x1b[2Jb")
    assert done.exit_code == 10
    assert "\x1b" not in done.err


def test_errors_are_told_even_when_quiet(program: Program) -> None:
    assert program("get", "s3://x/y", "--quiet").err.startswith("error: ")


@pytest.mark.parametrize("arguments", [["cache", "dir"], ["--help"]])
def test_a_reader_that_leaves_ends_the_program_quietly(run_cli: CommandLine, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process: subprocess.Popen[bytes] = run_cli.start(*arguments, stdout=writer)
    finally:
        os.close(writer)
    with process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, b"")


def test_as_a_process(run_cli: CommandLine) -> None:
    done = run_cli("get", "nonsense")
    assert (done.exit_code, done.stdout) == (10, "")
    assert done.stderr.startswith("error: ")


def test_a_wrong_variable_is_named(program: Program, isolated_environment: Any) -> None:
    isolated_environment.setenv("FETCHER_PART_BYTES", "many")
    done = program("ls")
    assert done.exit_code == 2
    assert "FETCHER_PART_BYTES=many" in done.err


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_stdout_that_takes_no_more_is_told_alone(run_cli: CommandLine, json_lines: bool) -> None:
    with open("/dev/full", "wb") as full:
        process = run_cli.start("cache", "dir", *(["--json"] if json_lines else []), stdout=full.fileno())
        with process:
            _, err = process.communicate(timeout=30)
    assert process.returncode == 2, err
    assert err.startswith(b"error: can't write to stdout: No space left on device\n")
    assert b"Exception ignored" not in err


def test_a_stderr_that_takes_no_more_leaves_the_exit_code(run_cli: CommandLine) -> None:
    with open("/dev/full", "wb") as full:
        process = run_cli.start("get", "nonsense", stderr=full.fileno())
        with process:
            out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (10, b"")
