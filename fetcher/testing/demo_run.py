"""``make demo``: a job from an embedded hub, from its plan to its mounts, and then the same again as a hit.

Starts the hub in this process and runs the program as its users do, each command as a process of its own. Knows the
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
from fetcher.testing.demo import DEMO_MODEL, DEMO_PRIVATE_MODEL, DEMO_TOKEN, MIB, add_demo_repos
from fetcher.testing.hub import Hub, hub_in_thread

MARKER = ".fetcher-demo"
"""Made in the demo's directory: one without it is somebody's, and nothing in it is touched."""

COMMAND_TIMEOUT_S = 20.0
"""Between the last line of a command and its end."""
GRACE_S = 2.0
"""For a command to end by itself, or after a signal."""
PROGRESS_EVERY_S = 0.5

TARGETS = {DEMO_MODEL: "/models/tiny-llama", DEMO_PRIVATE_MODEL: "/models/house-adapter"}


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
        prog="python -m fetcher.testing.demo_run", description="Run a job against an embedded hub, twice."
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
        self._model_bytes = model_bytes
        self._hub = Hub(tokens={DEMO_TOKEN: "demo"})

    def run(self) -> None:
        self._prepare()
        add_demo_repos(self._hub, model_bytes=self._model_bytes)
        with hub_in_thread(self._hub):
            self._introduce()
            self._show_plan()
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
        resources = [
            {"type": "HF", "repo": DEMO_MODEL, "target": TARGETS[DEMO_MODEL]},
            {
                "type": "HF",
                "repo": DEMO_PRIVATE_MODEL,
                "target": TARGETS[DEMO_PRIVATE_MODEL],
                "accessToken": DEMO_TOKEN,
            },
        ]
        op = {"type": "container/run", "id": "serve", "args": {"image": "example.org/server", "resources": resources}}
        job = {"version": "0.1", "type": "container", "ops": [op]}
        self._job.write_text(json.dumps(job, indent=2) + "\n")

    def _introduce(self) -> None:
        _say(
            f"A hub is listening at {self._hub.endpoint}: a stand-in for Hugging Face, on this machine only.",
            f"{self._job} is a Job Definition with two resources: a public model, and a private one with its token.",
        )
        for name, value in self._settings().items():
            print(f"  export {name}={value}")

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _show_plan(self) -> None:
        _say("1. What would be done?")
        self._succeed("job", self._job, "--dry-run")
        if self._hub.body_bytes_sent():
            raise DemoError("the plan alone has fetched file contents")

    def _fetch(self) -> dict[str, Path]:
        """Do it; returns target → directory on the host."""
        _say("2. Do it: fetch, verify, lease, and print the mounts.")
        began = time.monotonic()
        if sys.stderr.isatty():
            mounts = _docker_sources(self._succeed("job", self._job, "--format", "docker", live=True))
        else:
            mounts = self._fetch_in_a_pipe()
        elapsed_s = time.monotonic() - began
        compared = self._compare(mounts)
        sent = self._hub.body_bytes_sent()
        print(
            f"  {format_size(sent)} in {elapsed_s:.1f} s over {len(self._hub.requests)} requests; "
            f"{format_size(compared)} at the mounts compared with the hub's, byte by byte: equal."
        )
        return mounts

    def _fetch_in_a_pipe(self) -> dict[str, Path]:
        """Nobody watches a live display here: the events for programs are read, and now and then one is shown."""
        mounts: dict[str, Path] = {}
        shown_at = float("-inf")

        def show(line: str) -> None:
            nonlocal shown_at
            event = _event(line)
            if event["event"] == "mounts":
                for mount in event["mounts"]:
                    mounts[mount["target"]] = Path(mount["source"])
                    print(f"  {mount['target']} <- {mount['source']}", flush=True)
            elif event["event"] == "progress" and time.monotonic() - shown_at >= PROGRESS_EVERY_S:
                shown_at = time.monotonic()
                print(f"  {_progress(event)}", flush=True)

        self._run(show, "job", self._job, "--json")
        return mounts

    def _hit(self, sources: dict[str, Path]) -> None:
        _say("3. The same again. All of it is here, so nobody is asked.")
        before = len(self._hub.requests)
        began = time.monotonic()
        again = _docker_sources(self._succeed("job", self._job, "--format", "docker"))
        elapsed_s = time.monotonic() - began
        after = len(self._hub.requests)
        print(f"  Requests at the hub: {before} before, {after} after. It took {elapsed_s:.2f} s, start-up included.")
        if after != before:
            raise DemoError("the second run was meant to be a hit, yet it has asked the hub")
        if again != sources:
            raise DemoError("the second run has printed other mounts than the first")

    def _show_cache(self) -> None:
        _say("4. What is in the cache?")
        self._succeed("ls")
        self._succeed("df")

    def _compare(self, sources: dict[str, Path]) -> int:
        """Compare what is at the mounts with what the hub holds; returns the number of bytes."""
        if set(sources) != set(TARGETS.values()):
            raise DemoError(f"mounts for {', '.join(TARGETS.values())} were expected, not for {', '.join(sources)}")
        compared = 0
        for repo in self._hub.repos:
            if repo.id not in TARGETS:
                continue
            directory = sources[TARGETS[repo.id]]
            entries = repo.commits[repo.head].entries
            here = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
            if here != set(entries):
                raise DemoError(f"{directory} does not hold the files of {repo.id}")
            for name, entry in entries.items():
                with (directory / name).open("rb") as file:
                    equal = all(file.read(len(view)) == view for view in entry.content.views()) and not file.read(1)
                if not equal:
                    raise DemoError(f"{directory / name} is not what the hub holds")
                compared += entry.content.size
        return compared

    # -- commands ----------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self._hub.endpoint,
            "FETCHER_ALLOW_NET": "127.0.0.0/8",
            "FETCHER_CACHE_DIR": str(self._cache),
        }

    def _environment(self) -> Mapping[str, str]:
        """Ours without the user's own settings and tokens, which would make it another demonstration."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FETCHER_", "HF_"))}
        return kept | self._settings() | {"XDG_CONFIG_HOME": str(self._directory.absolute() / "config")}

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
    """Target → source of ``--mount type=bind,source=…,target=…,readonly`` lines; other lines are talk."""
    sources = {}
    for line in stdout.splitlines():
        if not line.startswith("--mount "):
            continue
        fields = dict(field.partition("=")[::2] for field in line.removeprefix("--mount ").split(","))
        if not {"source", "target", "readonly"} <= fields.keys():
            raise DemoError(f"not a read-only mount: {line}")
        sources[fields["target"]] = Path(fields["source"])
    return sources


def _say(*sentences: str) -> None:
    print()
    for sentence in sentences:
        print(sentence)


if __name__ == "__main__":
    sys.exit(main())
