"""A secret of each kind, used in full runs at the highest verbosity with failures forced: afterwards no output, file,
log, command line, event or error holds it, and each went to its own origin only.

What the harness is worth is shown first: a leak planted in each sink is found.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fetcher.model.asker import Asker
from fetcher.model.job import parse_resource
from fetcher.model.secret import AWSKeys, Login, Secret
from fetcher.net.request import Request
from fetcher.testing import Synthetic, hub_in_thread, market_in_thread, registry_in_thread, s3_in_thread
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
    assert found_in(b"Basic " + base64.b64encode(b"user:" + canary.text.encode()), [canary]) == ["it"]


def test_a_planted_leak_is_found_in_every_sink(watch: Watch) -> None:
    secret = watch.add("planted", "PlantedCanary0123456789")
    with hub_in_thread() as hub:
        hub.add_repo("acme/open", files={"a": b"1"})
        env = {**HURRIED, "HF_ENDPOINT": hub.endpoint}
        assert watch.run("get", "hf://acme/open", "--verbose", env=env) == 0
        assert watch.leaks() == [], "\n".join(watch.leaks())
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
        with pytest.raises(ZeroDivisionError) as caught:
            fail_with(secret)
        assert "planted" in found_in(told_of(caught.value).encode(), watch.canaries)


def fail_with(word: str) -> float:
    """An error whose message is harmless, and whose frame is not."""
    return len(word) / 0


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
            RedirectTo(other.endpoint + "/elsewhere").on("cdn"),
            RedirectTo(hub.cdn_endpoint + "{self}").on("info"),
            RedirectTo("http://localhost:1{self}").on("info"),
            RedirectTo("https://127.0.0.1:1{self}").on("resolve"),
        ]
        for number, fault in enumerate(faults):
            shutil.rmtree(watch.home / "cache" / "blobs-v1", ignore_errors=True)
            shutil.rmtree(watch.home / "cache" / "snapshots-v1", ignore_errors=True)
            hub.faults.clear()
            hub.faults.add(fault)
            runs[number % 3]()
        hub.faults.clear()
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
        assert watch.leaks() == [], "\n".join(watch.leaks())


# --- S3 --------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_keys_and_queries_of_s3(watch: Watch) -> None:
    keys = {
        "job": ("AKIAJOBCANARY0123456", "JobSecret/Canary+0123456789=abcdefghij", "JobSession/Canary+0123456789=="),
        "environment": (
            "AKIAENVCANARY0123456",
            "EnvSecret/Canary+0123456789=abcdefghij",
            "EnvSession/Canary+01234567==",
        ),
        "profile": ("AKIAPROCANARY0123456", "ProSecret/Canary+0123456789=abcdefghij", "ProSession/Canary+01234567=="),
    }
    with ExitStack() as stack:
        known = {id_: Key(secret, name, session_token=token) for name, (id_, secret, token) in keys.items()}
        s3 = stack.enter_context(s3_in_thread(keys=known))
        other = stack.enter_context(s3_in_thread(keys=known))
        for each in (s3, other):
            each.add_bucket("closed", {f"d/{name}": body for name, body in FILES.items()}, readers=list(keys))
        open_bucket = s3.add_bucket("site", {"d/a.bin": Synthetic(2 * MIB, 9), "d/b": b"b"}, public=True)
        site = s3.add_site(open_bucket, "plain")
        presigned = s3.presign("closed", "d/small.bin", keys["environment"][0])
        watch.add("presigned query", presigned.partition("X-Amz-Signature=")[2].partition("&")[0], s3.endpoint)
        sesame = watch.add("secret query", "SesameCanary0123456789", site.endpoint)
        for name, (id_, secret, token) in keys.items():
            watch.add(f"{name} key id", id_, s3.endpoint)
            watch.add(f"{name} secret key", secret)  # signs, and is sent to nobody
            watch.add(f"{name} session token", token, s3.endpoint)
        id_, secret, token = keys["profile"]
        lines = f"[default]\naws_access_key_id = {id_}\naws_secret_access_key = {secret}\naws_session_token = {token}\n"
        watch.plant(watch.home / ".aws" / "credentials", lines)
        base: dict[str, str | None] = {**HURRIED, "AWS_ENDPOINT_URL_S3": s3.endpoint, "AWS_REGION": "us-east-1"}
        id_, secret, token = keys["environment"]
        variables = {"AWS_ACCESS_KEY_ID": id_, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}
        with_variables = {**base, **variables}
        id_, secret, token = keys["job"]
        iam = {"REGION": "us-east-1", "ACCESS_KEY_ID": id_, "SECRET_ACCESS_KEY": secret, "SESSION_TOKEN": token}
        item = {"type": "S3", "url": f"{s3.endpoint}/closed/d/", "IAM": iam}
        queried = {"type": "S3", "url": f"{site.endpoint}/d/a.bin?sig={sesame}"}
        in_list = {
            "type": "S3",
            "url": f"{s3.endpoint}/closed/d/",
            "IAM": {name.lower(): it for name, it in iam.items()},
        }
        runs: list[Callable[[], int]] = [
            lambda: watch.run("get", "s3://closed/d/", "--verbose", env=with_variables),
            lambda: watch.run("get", "s3://closed/d/", "--json", env=base),  # the profile's keys
            lambda: watch.run("job", "-", "--json", "--verbose", env=with_variables, document=a_job(item, queried)),
            lambda: watch.run(
                "job", "-", "--verbose", env=with_variables, document=a_job({"type": "S3", "url": presigned})
            ),
            lambda: watch.run(
                *("prefetch", "-", "--json", "--pin", "market:abc"),
                env=base,
                document={"required_remote_resources": [in_list]},
            ),
        ]
        assert [run() for run in runs] == [0, 0, 0, 0, 0]
        anonymous = a_job({"type": "S3", "url": f"{s3.endpoint}/closed/d/"})
        assert watch.run("job", "-", "--json", env=with_variables, document=anonymous) in (21, 22)
        faults = [
            *(Status(status).on(place) for status in (401, 403, 404, 500) for place in ("api", "object")),
            CutAfter(50_000).on("object"),
            FlipByte(5).on("object"),
            RedirectTo(f"{other.endpoint}/closed/d/small.bin", 307).on("object"),
            RedirectTo(f"{other.endpoint}/closed/?list-type=2&prefix=d/", 307).on("api"),
            RedirectTo(f"{site.endpoint}/elsewhere", 307).on("object"),
            RedirectTo("http://localhost:1/x").on("api", "object"),
            RedirectTo("https://127.0.0.1:1/x").on("api", "object"),
        ]
        for number, fault in enumerate(faults):
            for name in ("blobs-v1", "snapshots-v1"):
                shutil.rmtree(watch.home / "cache" / name, ignore_errors=True)
            s3.faults.clear()
            s3.faults.add(fault)
            runs[number % 5]()
            runs[(number + 2) % 5]()
        s3.faults.clear()
        assert len(other.requests) > 0, "somebody was led there"
        for kind in (INTERRUPT, KILL):
            s3.bucket("closed").put(f"cut-{kind}/a.bin", Synthetic(8 * MIB, kind))
            s3.faults.add(StallAfter(MIB // 2).on("object"))
            watch.run(
                *("get", f"s3://closed/cut-{kind}/", "--verbose"),
                env={**with_variables, "FETCHER_NO_PROGRESS_TIMEOUT_S": "20", "FETCHER_PART_IDLE_TIMEOUT_S": "20"},
                cut=(kind, file_appears(watch.home / "cache" / "partials-v1", "*/data")),
            )
        assert list((watch.home / "cache").glob("partials-v1/*/journal")), "a Partial stays"
        bad = [
            a_job(
                {**item, "files": [iam["SECRET_ACCESS_KEY"]], "bucket": iam["SECRET_ACCESS_KEY"]},
                {**item, "IAM": [iam]},
            ),
            a_job({**item, "IAM": {**iam, "SECRET": iam["SECRET_ACCESS_KEY"]}, "url": f"{s3.endpoint}?x={sesame}"}),
            a_job({**item, "url": presigned}, {"type": "S3", "url": f"https://u:{sesame}@127.0.0.1/a"}),
        ]
        for document in bad:
            for talk in ("--json", "--verbose"):
                assert watch.run("job", "-", talk, env=with_variables, document=document) == 10
        look_around(watch, with_variables, "s3://closed/d/", presigned.partition("?")[0])
        for index in (watch.home / "cache").glob("index-v1.sqlite*"):
            index.write_bytes(b"damaged" * 5000)
        look_around(watch, with_variables, "s3://closed/d/")
        for name in keys:
            assert watch.used(f"{name} key id")
            assert watch.used(f"{name} session token")
        assert watch.used("presigned query")
        assert watch.used("secret query")
        assert watch.leaks() == [], "\n".join(watch.leaks())


# --- markets, registries, models -------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_logins_of_lists_and_tokens_of_registries(watch: Watch) -> None:
    with ExitStack() as stack:
        password = "PasswordCanary/0123456789+abc"
        token = "hf_ListCanary0123456789abcdef"
        registry = stack.enter_context(
            registry_in_thread(users={"alice": password}, separate_token_service=True, redirect_blobs=True)
        )
        models = stack.enter_context(
            registry_in_thread(dialect="ollama", auth="bearer", separate_token_service=True, seed=7)
        )
        hub = stack.enter_context(hub_in_thread(tokens={token: "alice"}))
        other = stack.enter_context(market_in_thread())
        market = stack.enter_context(market_in_thread())
        engine = stack.enter_context(engine_in_thread())
        registry.add_image("acme/app", "1", private=True)
        models.add_model("library/tiny", "1b")
        hub.add_repo("acme/private", files=FILES, private=True)
        watch.add("password of a list", password, registry.endpoint, registry.token_url.removesuffix("/token"))
        watch.add("token of a list", token, hub.endpoint)
        key = watch.add("key of the market", "MarketKeyCanary0123456789", market.endpoint)
        typed = watch.add("query of a typed list", "TypedCanary0123456789", market.endpoint, typed=True)
        login = {"name": f"{registry.host}/acme/app:1", "username": "alice", "password": password}
        document = {
            "required_images": [login, {**login, "name": f"{registry.host}/acme/none:1"}],
            "required_remote_resources": [
                {"type": "HF", "url": "acme/private", "accessToken": token},
                {"type": "Ollama", "model": "tiny:1b"},
            ],
        }
        market.set("canary-market", document)
        env: dict[str, str | None] = {
            **HURRIED,
            "HF_ENDPOINT": hub.endpoint,
            "FETCHER_OLLAMA_URL": models.endpoint,
            "FETCHER_MARKET_URL": f"{market.template}?key={key}",
            "DOCKER_HOST": f"unix://{engine.socket}",
        }

        def prefetch(*more: str) -> int:
            return watch.run("prefetch", "canary-market", *more, env=env)

        assert prefetch("--json", "--dry-run") in (0, 11)
        assert prefetch("--verbose") in (0, 11)
        assert engine.auth, "the login came to the engine"
        assert all(header is not None for header in engine.auth)
        faults: list[tuple[Any, Any]] = [
            *(
                (place, Status(status).on(route))
                for status in (401, 403, 404, 500)
                for place, route in ((registry, "manifest"), (registry, "token"), (models, "blob"), (models, "token"))
            ),
            (market, Status(500).on("market")),
            (market, RedirectTo(f"{other.endpoint}/elsewhere", 307).on("market")),
            (registry, RedirectTo(f"{other.endpoint}/elsewhere", 307).on("manifest", "token", "blob")),
            (models, RedirectTo(f"{other.endpoint}/elsewhere", 307).on("manifest", "blob")),
            (models, CutAfter(1000).on("bodies")),
            (models, FlipByte(1).on("bodies")),
        ]
        for number, (place, fault) in enumerate(faults):
            for name in ("blobs-v1", "snapshots-v1"):
                shutil.rmtree(watch.home / "cache" / name, ignore_errors=True)
            engine.tags.clear()
            place.faults.add(fault)
            engine.pull_status = 500 if number % 2 else 200
            prefetch("--json" if number % 2 else "--verbose", *(["--dry-run"] if number % 3 == 0 else []))
            place.faults.clear()
        assert len(other.requests) > 0, "somebody was led there"
        bad = {
            "required_images": [
                {**login, "name": password},
                {**login, "user": password},
                {**login, "password": [password]},
            ],
            "required_remote_resources": [{"type": "HF", "url": token, "accessToken": token}, {"type": token}],
        }
        for talk in ("--json", "--verbose"):
            watch.run("prefetch", "-", talk, env=env, document=bad)
            watch.run("prefetch", "-", talk, env=env, document=json.dumps(document)[:-3])
            watch.run("prefetch", f"{market.url('canary-market')}?key={typed}", talk, env=env)
            watch.run("prefetch", f"{market.url('nobody')}?key={typed}", talk, env=env)
        market.remove("canary-market")
        prefetch("--verbose", "--offline")
        look_around(watch, env, "hf://acme/private", "ollama://tiny:1b")
        for name in ("password of a list", "token of a list", "key of the market"):
            assert watch.used(name), name
        issued = {
            registry: watch.add_signatures(
                "token of the registry", r"Bearer (embedded\.[0-9a-f]{64}\.pull)", registry.endpoint
            ),
            models: watch.add_signatures(
                "token of the models' registry", r"Bearer (embedded\.[0-9a-f]{64}\.pull)", models.endpoint
            ),
        }
        assert all(issued.values()), issued
        assert watch.add_signatures(
            "signature of the models' CDN", r"[Ss]ignature=([A-Za-z0-9%_~-]{20,})", models.cdn_endpoint
        )
        assert watch.leaks() == [], "\n".join(watch.leaks())


def test_another_name_of_the_same_machine_is_another_origin(watch: Watch) -> None:
    """A redirect to the same address and port under another name: the tap, which knows ports, could not tell."""
    token, password = "hf_NameCanary0123456789abcdef", "NamePassword0123456789"
    key_id, secret = "AKIANAMECANARY012345", "NameSecret/Canary+0123456789=abcdefghij"
    with ExitStack() as stack:
        hub = stack.enter_context(hub_in_thread(tokens={token: "alice"}))
        s3 = stack.enter_context(s3_in_thread(keys={key_id: secret}))
        registry = stack.enter_context(registry_in_thread(users={"alice": password}, auth="basic"))
        engine = stack.enter_context(engine_in_thread())
        hub.add_repo("acme/private", files=FILES, private=True)
        s3.add_bucket("closed", {"d/a": b"1"}, readers=[key_id])
        registry.add_image("acme/app", "1", private=True)
        iam = {"REGION": "us-east-1", "ACCESS_KEY_ID": key_id, "SECRET_ACCESS_KEY": secret}
        listed = {
            "required_images": [{"name": f"{registry.host}/acme/app:1", "username": "alice", "password": password}],
            "required_remote_resources": [
                {"type": "HF", "url": "acme/private", "accessToken": token},
                {"type": "S3", "url": f"{s3.endpoint}/closed/d/", "IAM": iam},
            ],
        }
        env: dict[str, str | None] = {
            **HURRIED,
            "FETCHER_ALLOW_NET": "127.0.0.0/8,::1",
            "HF_ENDPOINT": hub.endpoint,
            "DOCKER_HOST": f"unix://{engine.socket}",
        }
        watch.run("prefetch", "-", "--json", "--dry-run", env=env, document=listed)
        for routes in (("info", "list", "bucket", "manifest"), ("resolve", "resolve-cache", "object", "tree")):
            for origin in (hub, s3, registry):
                origin.faults.clear()
                elsewhere = origin.endpoint.replace("127.0.0.1", "localhost")
                origin.faults.add(RedirectTo(elsewhere + "{self}", 307).on(*routes, times=1))
            engine.tags.clear()
            watch.run("prefetch", "-", "--json", env=env, document=listed)
            watch.run("prefetch", "-", "--json", "--dry-run", env=env, document=listed)
        for origin in (hub, s3, registry):
            there = [record for record in origin.requests if record.headers["host"].startswith("localhost")]
            assert there, f"somebody was led there: {origin}"
            assert not any(record.authorization for record in there)
            assert any(record.authorization for record in origin.requests), f"it was used: {origin}"


# --- what proxies are told -------------------------------------------------------------------------------------------


def test_a_proxys_password(watch: Watch) -> None:
    """Whatever a proxy in the environment means for a run, its password is nowhere."""
    with hub_in_thread() as hub, market_in_thread() as proxy:
        hub.add_repo("acme/open", files={"a": b"1"})
        password = watch.add("proxy password", "ProxyCanary0123456789abc", proxy.endpoint)
        address = proxy.endpoint.replace("http://", f"http://user:{password}@")
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        env: dict[str, str | None] = {**HURRIED, "HF_ENDPOINT": hub.endpoint, **dict.fromkeys(names, address)}
        for talk in ("--json", "--verbose"):
            watch.run("get", "hf://acme/open", talk, env=env)
            watch.run("job", "-", talk, env=env, document=a_job({"type": "HF", "repo": "acme/open"}))
            watch.run("doctor", talk, env=env)
        assert watch.leaks() == [], "\n".join(watch.leaks())


# --- the library -----------------------------------------------------------------------------------------------------


def told_of(error: BaseException) -> str:
    """All that a crash reporter takes along: the message, the whole chain, and the locals of every frame."""
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format(chain=True))
    return shown + repr(error) + str(error) + repr(vars(error))


async def once(settings: dict[str, Any], resource: Any, events: list[Any], errors: list[BaseException]) -> None:
    from fetcher import Fetcher, FetcherError

    async with Fetcher(on_event=events.append, **settings) as fetcher:
        try:
            async with fetcher.lease(resource, asker="job") as lease:
                events += [lease, lease.snapshot]
        except FetcherError as error:
            errors.append(error)


@pytest.mark.timeout(120)
def test_the_library_tells_nobody(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    token = "hf_LibraryCanary0123456789abc"
    key_id, secret, session = "AKIALIBCANARY0123456", "LibSecret/Canary+0123456789=abcdefghij", "LibSession/Canary+01=="
    with ExitStack() as stack:
        hub = stack.enter_context(hub_in_thread(tokens={token: "alice"}))
        s3 = stack.enter_context(s3_in_thread(keys={key_id: Key(secret, "alice", session_token=session)}))
        other = stack.enter_context(market_in_thread())
        hub.add_repo("acme/private", files=FILES, private=True)
        s3.add_bucket("closed", {f"d/{name}": body for name, body in FILES.items()}, readers=["alice"])
        watch.add("token", token, hub.endpoint)
        watch.add("key id", key_id, s3.endpoint)
        watch.add("secret key", secret)
        watch.add("session token", session, s3.endpoint)
        iam = {"REGION": "us-east-1", "ACCESS_KEY_ID": key_id, "SECRET_ACCESS_KEY": secret, "SESSION_TOKEN": session}
        items: list[Any] = [
            {"type": "HF", "repo": "acme/private", "accessToken": token},
            {"type": "S3", "url": f"{s3.endpoint}/closed/d/", "IAM": iam},
        ]
        settings = {
            **{name.removeprefix("FETCHER_").lower(): value for name, value in HURRIED.items()},
            "hf_endpoint": hub.endpoint,
            "cache_dir": str(watch.home / "cache"),
        }
        events: list[Any] = []
        errors: list[BaseException] = []
        faults = [
            *(Status(status).on(place) for status in (401, 403, 404, 500) for place in ("api", "bodies")),
            CutAfter(1000).on("bodies"),
            FlipByte(5).on(),
            RedirectTo(f"{other.endpoint}/elsewhere", 307).on("info", "api", "resolve", "object", "cdn"),
            RedirectTo("http://10.0.0.1/x", 307).on("info", "api", "resolve", "object", "cdn"),
            None,
        ]
        for fault in faults:
            for origin in (hub, s3):
                origin.faults.clear()
                if fault is not None:
                    origin.faults.add(fault)
            for item in items:
                asyncio.run(once(settings, parse_resource(item), events, errors), debug=True)
        assert len(errors) > 15
        assert any(isinstance(event, object) and "Lease" in type(event).__name__ for event in events)
        pickled = []
        for one in [*events, *errors]:
            try:
                pickled.append(pickle.dumps(one))
            except (TypeError, AttributeError, pickle.PicklingError):
                pass  # not at all is well, too
        watch.said += [
            ("events", repr(events).encode() + str(events).encode()),
            ("pickles", b"\n".join(pickled)),
            ("log records", "\n".join(f"{each.getMessage()} {each.args!r}" for each in caplog.records).encode()),
        ]
        watch.said += [(f"traceback of {error!r:.110}", told_of(error).encode()) for error in errors]
        assert watch.add_signatures("signature of the CDN", r"[&?]Signature=([A-Za-z0-9_~-]{20,})", hub.cdn_endpoint)
        assert watch.add_signatures("signature of a request", r"Signature=([0-9a-f]{64})", s3.endpoint)
        assert watch.used("token")
        assert watch.used("session token")
        assert watch.leaks() == [], "\n".join(watch.leaks())


@pytest.mark.parametrize(
    "value",
    [
        Secret("ValueCanary0123456789"),
        Login("somebody", Secret("ValueCanary0123456789")),
        AWSKeys("AKIAVALUE", Secret("ValueCanary0123456789"), Secret("ValueCanary0123456789")),
        parse_resource({"type": "HF", "repo": "acme/x", "accessToken": "ValueCanary0123456789"}),
        parse_resource({"type": "S3", "url": "https://models.example.org/a?sig=ValueCanary0123456789"}),
        Asker("job", Secret("ValueCanary0123456789")),
        Request(
            "GET", "https://models.example.org/a?sig=ValueCanary0123456789", credential=Secret("ValueCanary0123456789")
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_shows_no_secret(value: Any) -> None:
    shown = f"{value} {value!r} {value!s:>200} {[value]} { ({'it': value}) }"
    assert "ValueCanary" not in shown
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(value)
