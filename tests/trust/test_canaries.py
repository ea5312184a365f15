"""A secret of each kind, used in full runs at the highest verbosity with failures forced: afterwards no output, file,
log, command line, event or error holds it, and each went to its own origin only.

What the harness is worth is shown first: a leak planted in each sink is found.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fetcher import Fetcher, FetcherError
from fetcher.model.secret import AWSKeys, Login, Secret
from fetcher.testing import (
    Hub,
    S3,
    Registry,
    Synthetic,
    hub_in_thread,
    market_in_thread,
    registry_in_thread,
    s3_in_thread,
)
from fetcher.testing.faults import CutAfter, FlipByte, RedirectAlreadyExpired, RedirectTo, StallAfter, Status, UrlUses
from fetcher.testing.s3.access import Key
from tests.images.stub import engine_in_thread
from tests.support.cli import CommandLine
from tests.trust.canaries import INTERRUPT, KILL, Canary, Watch, file_appears, forms, found_in

MIB = 1 << 20
LOOPBACK = "127.0.0.0/8"
FILES = {"config.json": b'{"a": 1}', "model.safetensors": Synthetic(3 * MIB + 7, 3), "small.bin": Synthetic(200_000, 4)}
HURRIED = {
    "FETCHER_ALLOW_NET": LOOPBACK,
    "FETCHER_PART_BYTES": "1MiB",
    "FETCHER_SPACE_FLOOR_BYTES": "0",
    "FETCHER_API_TRIES_MAX": "2",
    "FETCHER_API_TIME_MAX_S": "3",
    "FETCHER_NO_PROGRESS_TIMEOUT_S": "2",
    "FETCHER_PART_IDLE_TIMEOUT_S": "1",
    "FETCHER_BACKOFF_MIN_S": "0.01",
    "FETCHER_BACKOFF_MAX_S": "0.05",
    "FETCHER_FRESH_FOR_S": "0",
}
"""So that each run ends soon, however it fails, and each asks its origin."""


@pytest.fixture
def watch(run_cli: CommandLine) -> Iterator[Watch]:
    """With secrets lying about in HOME that nobody may even look at."""
    watch = Watch(run_cli)
    netrc = watch.add("netrc password", "NetrcCanary/0123456789+abc")
    for name in (".netrc", "_netrc"):
        lines = (f"machine {host} login canary password {netrc}" for host in ("127.0.0.1", "localhost"))
        watch.plant(watch.home / name, "\n".join([*lines, f"default login canary password {netrc}", ""]))
    with watch.tapped():
        yield watch


def a_job(*resources: dict[str, Any]) -> dict[str, Any]:
    arguments = {"image": "x", "resources": [{"target": f"/m{number}", **one} for number, one in enumerate(resources)]}
    return {"version": "0.1", "type": "container", "ops": [{"type": "container/run", "id": "op", "args": arguments}]}


def look_around(watch: Watch, env: dict[str, str | None], *uris: str) -> None:
    """The commands that show, and that must show nothing."""
    for talk in ("--json", "--verbose"):
        for command in (["ls"], ["df"], ["doctor"], ["verify"], *(["inspect", uri] for uri in uris)):
            watch.run(*command, talk, env=env)


# --- the harness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", range(12))
def test_a_planted_leak_is_found_in_every_form(how: int) -> None:
    canary = Canary("it", "Canary/With+Odd=Letters~0123456789")
    form = sorted(forms(canary.text))[how % len(forms(canary.text))]
    assert found_in(b"...." + form + b"....", [canary]) == ["it"]
    assert found_in(b"CanaryWithOddLetters", [canary]) == []
    assert found_in(b"Basic " + __import__("base64").b64encode(b"user:" + canary.text.encode()), [canary]) == ["it"]


def test_a_planted_leak_is_found_in_every_sink(watch: Watch) -> None:
    secret = watch.add("planted", "PlantedCanary0123456789")
    with hub_in_thread() as hub:
        hub.add_repo("acme/open", files={"a": b"1"})
        env = {**HURRIED, "HF_ENDPOINT": hub.endpoint}
        assert watch.run("get", "hf://acme/open", "--verbose", env=env) == 0
        assert watch.leaks() == []
        watch.run("get", f"hf://acme/{secret}", env=env)
        found = watch.leaks()
        port = hub.endpoint.rpartition(":")[2]
        assert f"planted sent to port {port}" in found
        assert "planted in a command line" in found
        assert any("planted in stderr of" in each for each in found)
        cache = watch.home / "cache"
        for place in (cache / "index-v1.sqlite-wal", cache / "journal", watch.home / "tmp" / "x", watch.log):
            place.write_bytes(place.read_bytes() + secret.encode() if place.exists() else secret.encode())
            assert f"planted in file {place}" in watch.leaks()
        (cache / f"{secret}.json").touch()
        assert "planted in a name" in watch.leaks()
        watch.run("cache", "dir", env={**env, "NETRC": str(watch.home / ".netrc")})
        assert "a netrc file was opened" not in watch.leaks()
        watch.log.write_bytes(b"OPENED-NETRC")
        assert "a netrc file was opened" in watch.leaks()


# --- the Hub ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_tokens_of_the_hub(watch: Watch) -> None:
    with ExitStack() as stack:
        tokens = {
            "job": "hf_JobCanary0123456789abcdef",
            "environment": "hf_EnvironmentCanary0123456789",
            "file": "hf_FileCanary0123456789abcdef",
        }
        hub = stack.enter_context(hub_in_thread(tokens={text: name for name, text in tokens.items()}))
        other = stack.enter_context(hub_in_thread(tokens={text: name for name, text in tokens.items()}))
        for each in (hub, other):
            each.add_repo("acme/private", files=FILES, private=True)
            each.add_repo("acme/open", files={"a": b"1"})
        for name, text in tokens.items():
            watch.add(f"{name} token", text, hub.endpoint)
        watch.plant(watch.home / ".cache" / "huggingface" / "token", tokens["file"])
        base: dict[str, str | None] = {**HURRIED, "HF_ENDPOINT": hub.endpoint}
        with_variable = {**base, "HF_TOKEN": tokens["environment"]}
        item = {"type": "HF", "repo": "acme/private", "accessToken": tokens["job"]}
        uri = "hf://acme/private"
        runs: list[Callable[[], int]] = [
            lambda: watch.run("get", uri, "--verbose", "--lease", "1h", env=with_variable),
            lambda: watch.run("get", uri, "--json", "--refresh", env=base),  # the file's token
            lambda: watch.run("job", "-", "--json", "--verbose", "--refresh", env=with_variable, document=a_job(item)),
            lambda: watch.run(
                "prefetch",
                "-",
                "--json",
                "--pin",
                "market:abc",
                "--refresh",
                env=with_variable,
                document={
                    "required_remote_resources": [{"type": "HF", "url": "acme/private", "accessToken": tokens["job"]}]
                },
            ),
        ]
        assert [run() for run in runs] == [0, 0, 0, 0]
        anonymous = watch.run(
            "job", "-", "--json", env=with_variable, document=a_job({"type": "HF", "repo": "acme/private"})
        )
        assert anonymous == 21, "the node's own tokens are not a job's"
        faults = [
            *(Status(status).on(place) for status in (401, 403, 404, 500) for place in ("api", "cdn")),
            CutAfter(100_000).on("cdn"),
            FlipByte(5).on(),
            UrlUses(1).on("cdn"),
            RedirectAlreadyExpired().on(),
            RedirectTo(other.endpoint + "{self}").on("info", "tree", "resolve", "resolve-cache"),
            RedirectTo(other.endpoint + "{self}").on("cdn"),
            RedirectTo(hub.cdn_endpoint + "{self}").on("info"),
            RedirectTo("http://localhost:1{self}").on("info"),
            RedirectTo("https://127.0.0.1:1{self}").on("resolve"),
        ]
        for number, fault in enumerate(faults):
            shutil.rmtree(watch.home / "cache" / "blobs-v1", ignore_errors=True)
            shutil.rmtree(watch.home / "cache" / "snapshots-v1", ignore_errors=True)
            hub.faults.clear() if hasattr(hub.faults, "clear") else None
            rule = hub.faults.add(fault)
            runs[number % 3]()
            hub.faults.remove(rule) if hasattr(hub.faults, "remove") else None
        assert len(other.requests) > 0, "somebody was led there"
        for kind in (INTERRUPT, KILL):
            shutil.rmtree(watch.home / "cache" / "blobs-v1", ignore_errors=True)
            hub.add_repo(f"acme/cut-{kind}", files={"a.bin": Synthetic(8 * MIB, kind)}, private=True)
            hub.faults.add(StallAfter(MIB // 2).on(path="a.bin"))
            watch.run(
                *("get", f"hf://acme/cut-{kind}", "--verbose"),
                env={**with_variable, "FETCHER_NO_PROGRESS_TIMEOUT_S": "20", "FETCHER_PART_IDLE_TIMEOUT_S": "20"},
                cut=(kind, file_appears(watch.home / "cache" / "partials-v1", "*/data")),
            )
        assert list((watch.home / "cache").glob("partials-v1/*/journal")), "a Partial stays"
        bad = a_job(
            {**item, "revision": tokens["job"] + "\n"}, {"type": "HF", "repo": tokens["job"], "token": tokens["job"]}
        )
        for talk in ("--json", "--verbose"):
            assert watch.run("job", "-", talk, env=with_variable, document=bad) == 10
            assert watch.run("job", "-", talk, env=with_variable, document=json.dumps(bad)[:-9]) == 10
        look_around(watch, with_variable, uri)
        for index in (watch.home / "cache").glob("index-v1.sqlite*"):
            index.write_bytes(b"damaged" * 5000)
        look_around(watch, with_variable, uri)
        watch.run("get", "hf://acme/open", "--verbose", env={**with_variable, "HF_TOKEN": "hf_with a blank"})
        assert all(watch.used(f"{name} token") for name in tokens)
        assert (
            watch.add_signatures("signature of the CDN", r"[&?]Signature=([A-Za-z0-9_~-]{20,})", hub.cdn_endpoint) > 10
        )
        assert watch.leaks() == []
