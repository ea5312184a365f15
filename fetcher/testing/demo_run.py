"""``make demo``: a market's list and a job's resources, from plan to mounts, and then the same again as a hit.

Starts the origins in this process and runs the program as its users do, each command as a process of its own. Knows the
command line and nothing of what is behind it. Everything it writes is below one directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from fetcher.model.quantities import format_size
from fetcher.testing.demo import MIB
from fetcher.testing.demo_origins import HUB_TARGET, MARKET, NOTES_TARGET, DemoOrigins, differences

MARKER = ".fetcher-demo"
"""Made in the demo's directory: one without it is somebody's, and nothing in it is touched."""

COMMAND_TIMEOUT_S = 20.0
"""Between the last line of a command and its end."""
GRACE_S = 2.0
"""For a command to end by itself, or after a signal."""
PROGRESS_EVERY_S = 0.5
LOOKED_AT_BYTES_MAX = 1 << 20
"""A plan may read what says of what a model consists."""


class DemoError(Exception):
    """What went wrong, as a sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns its exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    began = time.monotonic()
    try:
        Demo(options.directory, options.size * MIB).run()
    except DemoError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\ndemo: {error.filename or options.directory}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped", file=sys.stderr)
        return 130
    print(f"\nDone in {time.monotonic() - began:.0f} s. The next demo starts from an empty cache again.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fetcher.testing.demo_run",
        description="A market's list and a job, from embedded origins.",
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("demo-cache"), help="where all files go (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=_mebibytes, default=240, metavar="MIB", help="weights of the model (default: 240)"
    )
    return parser


def _mebibytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 280):
        raise argparse.ArgumentTypeError("1 to 280 (MiB)")
    return int(text)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class Demo:
    """The demonstration in ``directory``; ``run`` once."""

    def __init__(self, directory: Path, model_bytes: int) -> None:
        self._directory = directory
        self._cache = directory / "cache"
        self._job = directory / "job.json"
        self._origins = DemoOrigins(model_bytes)

    def run(self) -> None:
        self._prepare()
        with self._origins.running():
            self._introduce()
            self._show_plan()
            self._prefetch()
            sources = self._fetch()
            self._hit(sources)
            self._show_cache()

    def _prepare(self) -> None:
        """An empty cache, in a directory that is ours."""
        directory = self._directory
        if directory.exists() and not (directory / MARKER).exists() and any(directory.iterdir()):
            raise DemoError(f"{directory} was not made by the demo; name another with --directory (DEMO_DIR=…)")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARKER).touch()
        if self._cache.exists():
            shutil.rmtree(self._cache)

    def _introduce(self) -> None:
        self._job.write_text(json.dumps(self._origins.job(), indent=2) + "\n")
        _say(
            "Stand-ins listen on this machine only: a market's endpoint, a hub, an S3 (one bucket behind a CDN,",
            "one private), and a registry of Ollama models.",
            f"{self._job} is a Job Definition: it needs what the market requires, and what only its owner",
            "may have: a private repo with its token, and a private prefix with its keys, as a copy to write to.",
        )
        for name, value in self._settings().items():
            print(f"  export {name}={value}")

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _show_plan(self) -> None:
        _say("1. What does the market require, and what would have to be fetched?")
        self._succeed("prefetch", MARKET, "--no-images", "--dry-run")
        if self._origins.bytes_sent() > LOOKED_AT_BYTES_MAX:
            raise DemoError("the plan alone has fetched file contents")

    def _prefetch(self) -> None:
        _say("2. Make this node hold it. (Images are left alone here: they would go into your own container engine.)")
        began = time.monotonic()
        if sys.stderr.isatty():
            self._succeed("prefetch", MARKET, "--no-images", live=True)
        else:
            summary = self._in_a_pipe("summary", "prefetch", MARKET, "--no-images")
            for item in summary["items"]:
                print(f"  {item['status']:>7}  {item['resource']}", flush=True)
        self._told_cost(began)

    def _fetch(self) -> dict[str, Path]:
        """The job, whole; returns target → directory on the host."""
        _say("3. A job comes. Most of what it needs is here; what is private comes with its own credentials.")
        self._succeed("job", self._job, "--dry-run")
        began = time.monotonic()
        if sys.stderr.isatty():
            sources = _docker_sources(self._succeed("job", self._job, "--format", "docker", live=True))
        else:
            mounts = self._in_a_pipe("mounts", "job", self._job)["mounts"]
            sources = {mount["target"]: Path(mount["source"]) for mount in mounts}
            for target, source in sources.items():
                print(f"  {target} <- {source}", flush=True)
        self._told_cost(began)
        self._compare(sources)
        return sources

    def _told_cost(self, began: float) -> None:
        elapsed_s = time.monotonic() - began
        sent = format_size(self._origins.bytes_sent())
        print(f"  {elapsed_s:.1f} s; so far the origins have sent {sent} over {self._origins.requests()} requests.")

    def _in_a_pipe(self, last: str, *arguments: str | Path) -> dict[str, Any]:
        """Nobody watches a live display here: the events for programs are read, and now and then one is shown.

        Returns the event named ``last``.
        """
        answers: list[dict[str, Any]] = []
        shown_at = float("-inf")

        def show(line: str) -> None:
            nonlocal shown_at
            event = _event(line)
            if event["event"] == last:
                answers.append(event)
            elif event["event"] == "error":
                print(f"  error: {event['message']}", flush=True)
            elif event["event"] == "progress" and time.monotonic() - shown_at >= PROGRESS_EVERY_S:
                shown_at = time.monotonic()
                print(f"  {_progress(event)}", flush=True)

        self._run(show, *arguments, "--json")
        if not answers:
            raise DemoError(f"fetcher {arguments[0]} has not told its {last}")
        return answers[-1]

    def _hit(self, sources: dict[str, Path]) -> None:
        _say("4. The same job again. All of it is here, so nobody is asked; the writable copy is a new one.")
        before = self._origins.requests()
        began = time.monotonic()
        again = _docker_sources(self._succeed("job", self._job, "--format", "docker"))
        elapsed_s = time.monotonic() - began
        after = self._origins.requests()
        print(f"  Requests at the origins: {before} before, {after} after. {elapsed_s:.2f} s, start-up included.")
        if after != before:
            raise DemoError("the second run was meant to be a hit, yet it has asked an origin")
        if again.keys() != sources.keys() or again[HUB_TARGET] != sources[HUB_TARGET]:
            raise DemoError("the second run has printed other mounts than the first")
        if again[NOTES_TARGET] == sources[NOTES_TARGET]:
            raise DemoError("two jobs were given one writable copy")

    def _show_cache(self) -> None:
        _say("5. What is in the cache?")
        self._succeed("ls")
        self._succeed("df")

    def _compare(self, sources: dict[str, Path]) -> None:
        """Compare what is at the mounts with what the origins hold."""
        expected = self._origins.expected()
        if set(sources) != set(expected):
            raise DemoError(f"mounts for {', '.join(expected)} were expected, not for {', '.join(sources)}")
        for target, files in expected.items():
            fault = differences(sources[target], files)
            if fault:
                raise DemoError(fault)
        compared = sum(content.size for files in expected.values() for content in files.values())
        print(f"  {format_size(compared)} at {len(expected)} mounts compared with the origins', byte by byte: equal.")

    # -- commands ----------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, str]:
        return {
            **self._origins.settings,
            "FETCHER_CACHE_DIR": str(self._cache),
        }

    def _environment(self) -> Mapping[str, str]:
        """Ours without the user's own settings and tokens, which would make it another demonstration."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FETCHER_", "HF_", "AWS_"))}
        config = str(self._directory.absolute() / "config")
        return kept | self._settings() | {"XDG_CONFIG_HOME": config, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}

    def _succeed(self, *arguments: str | Path, live: bool = False) -> str:
        """Run a command and show what it says, which is returned. ``live``: it draws on the terminal meanwhile, so what
        it says comes after that, and its stderr is not in it."""
        lines: list[str] = []

        def show(line: str) -> None:
            lines.append(line)
            if not live:
                print(f"  {line.rstrip()}", flush=True)

        self._run(show, *arguments, stderr=None if live else subprocess.STDOUT)
        if live:
            print("".join(f"  {line}" for line in lines), end="")
        return "".join(lines)

    def _run(self, show: Callable[[str], None], *arguments: str | Path, stderr: int | None = None) -> None:
        """Run a command to its end; ``show`` gets each line of its stdout as it comes. Raises DemoError if it fails."""
        words = [str(argument) for argument in arguments]
        print(f"\n$ fetcher {' '.join(words)}", flush=True)
        with self._started(words, stderr) as process:
            assert process.stdout is not None
            for line in process.stdout:
                show(line)
            try:
                code = process.wait(COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise DemoError(f"fetcher {words[0]} does not end") from None
        if code == 130:
            raise KeyboardInterrupt
        if code != 0:
            raise DemoError(f"fetcher {words[0]} has ended with exit code {code}")

    @contextmanager
    def _started(self, words: Sequence[str], stderr: int | None) -> Iterator[subprocess.Popen[str]]:
        """A command under way; however this is left, it is over then."""
        process = subprocess.Popen(
            [sys.executable, "-m", "fetcher", *words],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            yield process
        except BaseException:
            _end(process)
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()


def _end(process: subprocess.Popen[str]) -> None:
    """See to it that the command ends. Ctrl-C at a terminal has reached it too, so at first it is only waited for."""
    for number, grace_s in ((None, GRACE_S), (signal.SIGINT, GRACE_S), (signal.SIGKILL, None)):
        if number is not None:
            process.send_signal(number)
        try:
            process.wait(grace_s)
            return
        except subprocess.TimeoutExpired:
            pass


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or "event" not in event:
        raise DemoError(f"not an event: {line.rstrip()}")
    return event


def _progress(event: dict[str, Any]) -> str:
    """One ``progress`` event in words."""
    if not event["bytes_total"]:
        return f"{event['phase']} …"
    return (
        f"{event['phase']}: {100 * event['bytes_done'] // event['bytes_total']} %, "
        f"{format_size(event['bytes_done'])} of {format_size(event['bytes_total'])} "
        f"at {format_size(int(event['rate_bytes_per_s']))}/s, "
        f"{event['files_done']} of {event['files_total']} files, {event['connections']} connections"
    )


def _docker_sources(stdout: str) -> dict[str, Path]:
    """Target → source of ``--mount type=bind,source=…,target=…[,readonly]`` lines; other lines are talk."""
    sources = {}
    for line in stdout.splitlines():
        if not line.startswith("--mount "):
            continue
        fields = dict(field.partition("=")[::2] for field in line.removeprefix("--mount ").split(","))
        if not {"source", "target"} <= fields.keys():
            raise DemoError(f"not a mount: {line}")
        if ("readonly" in fields) == (fields["target"] == NOTES_TARGET):
            raise DemoError(f"only {NOTES_TARGET} may be written to: {line}")
        sources[fields["target"]] = Path(fields["source"])
    return sources


def _say(*sentences: str) -> None:
    print()
    for sentence in sentences:
        print(sentence)


if __name__ == "__main__":
    sys.exit(main())
