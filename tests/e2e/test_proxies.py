"""The program behind a forward proxy: what goes through, what a job is refused, and that its password is told nobody.

The proxy is real and on loopback, where the environment's proxies are never taken; so it either is stated by
FETCHER_PROXY, or the origin has a name that only the proxy knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub, s3_in_thread
from fetcher.testing.hub import Token
from fetcher.testing.market import market_in_thread
from fetcher.testing.s3 import Key
from tests.e2e.support import REPO, held_by, mixed_files, tree_of
from tests.net.forward_proxy import ORIGIN, ForwardProxy, front_in_thread, proxy_in_thread
from tests.net.wiring import CERTIFICATE
from tests.support.cli import CommandLine, Completed

USER, PASSWORD = "operator", "canary-of-the-proxy"
TOKEN = "hf_CanaryOfTheHubCanaryOfTheHub"
TRUSTED = {"SSL_CERT_FILE": str(CERTIFICATE), "FETCHER_SPACE_FLOOR_BYTES": "0", "FETCHER_API_TIME_MAX_S": "5"}
AT_ORIGIN = {**TRUSTED, "HF_ENDPOINT": f"https://{ORIGIN}"}
INLINE = {"a.txt": "served by the hub itself", "b/c.json": "{}"}


def with_login(proxy: ForwardProxy) -> str:
    return proxy.url.replace("://", f"://{USER}:{PASSWORD}@")


@pytest.fixture
def front(hub: Hub) -> Iterator[int]:
    """The port of the hub's face with TLS, for the name that the certificate is for."""
    with front_in_thread(int(hub.endpoint.rpartition(":")[2])) as port:
        yield port


@pytest.fixture
def proxy(front: int) -> Iterator[ForwardProxy]:
    routes = {f"{ORIGIN}:443": ("127.0.0.1", front), f"{ORIGIN}:80": ("127.0.0.1", front)}
    with proxy_in_thread(routes=routes, login=f"{USER}:{PASSWORD}") as running:
        yield running


def job_of(**resource: Any) -> str:
    arguments = {"image": "x", "resources": [{"target": "/models", **resource}]}
    op = {"type": "container/run", "id": "op", "args": arguments}
    return json.dumps({"version": "0.1", "type": "container", "ops": [op]})


MARKET = "7AtiXMSH6R1jjBxrcYjehCkkSF7zvYWte63gwEDBcGHq"
HF_JOB = job_of(type="HF", repo=REPO)


def assert_fetched(done: Completed, hub: Hub, repo: str = REPO) -> None:
    assert done.exit_code == 0, done.stderr
    assert tree_of(Path(done.last["path"])) == held_by(hub, repo)


# --- through it


def test_a_stated_proxy_carries_everything_if_it_filters(hub: Hub, proxy: ForwardProxy, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=mixed_files())
    environ = {**TRUSTED, "FETCHER_PROXY": with_login(proxy), "FETCHER_PROXY_FILTERS": "true"}
    assert_fetched(run_cli("get", f"hf://{REPO}", "--json", env=environ), hub)
    assert hub.count("cdn") > 0
    # One request per connection, and none came to the hub without the proxy.
    assert len(proxy.heads) == len(hub.requests)
    again = run_cli("job", "-", "--json", input=HF_JOB, env={**environ, "FETCHER_CACHE_DIR": None})
    assert again.exit_code == 0, again.stderr


def test_where_it_does_not_filter_redirects_are_refused_and_the_operators_own_origin_is_not(
    hub: Hub, proxy: ForwardProxy, run_cli: CommandLine
) -> None:
    hub.add_repo(REPO, files=mixed_files())
    hub.add_repo("acme/inline", files=INLINE)
    environ = {**TRUSTED, "FETCHER_PROXY": with_login(proxy)}
    assert_fetched(run_cli("get", "hf://acme/inline", "--json", env=environ), hub, "acme/inline")
    refused = run_cli("get", f"hf://{REPO}", "--json", env=environ)
    assert refused.exit_code == 25, refused.stderr
    assert proxy.url in refused.events("error")[0]["message"]
    assert "FETCHER_PROXY_FILTERS" in refused.events("error")[0]["hint"]
    assert hub.count("cdn") == 0


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "FETCHER_PROXY"])
def test_a_tunnel_to_the_operators_hub(hub: Hub, proxy: ForwardProxy, run_cli: CommandLine, name: str) -> None:
    hub.tokens[TOKEN] = Token("alice")
    hub.add_repo("acme/inline", files=INLINE, private=True)
    done = run_cli("get", "hf://acme/inline", "--json", env={**AT_ORIGIN, name: with_login(proxy), "HF_TOKEN": TOKEN})
    assert_fetched(done, hub, "acme/inline")
    assert set(proxy.targets) == {f"CONNECT {ORIGIN}:443"}
    assert not any(TOKEN in head or "\r\nAuthorization:" in head for head in proxy.heads)


def test_signed_requests_reach_an_s3_through_it(run_cli: CommandLine) -> None:
    with s3_in_thread(keys={"AKID": Key("secret", "alice")}) as s3, proxy_in_thread() as proxy:
        s3.add_bucket("models", {"a/b.txt": b"one", "a/ü %27.bin": bytes(300_000)}, readers=["alice"])
        environ = {
            **TRUSTED,
            "AWS_ENDPOINT_URL": s3.endpoint,
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "FETCHER_PROXY": proxy.url,
        }
        refused = run_cli("get", "s3://models/a/", "--json", env=environ)
        assert refused.exit_code == 25 and "token is not sent" in refused.events("error")[0]["message"]
        assert proxy.connections == 0
        done = run_cli("get", "s3://models/a/", "--json", env={**environ, "FETCHER_ALLOW_NET": "127.0.0.1"})
        assert done.exit_code == 0, done.stderr
        assert done.last["files"] == 2
        assert len(proxy.heads) == len(s3.requests) > 0


def test_a_markets_list_comes_through_it(hub: Hub, run_cli: CommandLine) -> None:
    hub.add_repo("acme/inline", files=INLINE)
    document = {"required_images": [], "required_remote_resources": [{"type": "HF", "repo": "acme/inline"}]}
    with market_in_thread() as market, front_in_thread(int(market.endpoint.rpartition(":")[2])) as front:
        market.set(MARKET, document)
        with proxy_in_thread(routes={f"{ORIGIN}:443": ("127.0.0.1", front)}) as proxy:
            template = market.template.replace(market.endpoint, f"https://{ORIGIN}")
            environ = {**TRUSTED, "FETCHER_MARKET_URL": template, "HTTPS_PROXY": proxy.url}
            done = run_cli("prefetch", MARKET, "--no-images", "--json", env=environ)
            assert done.exit_code == 0, done.stderr
            assert [item["status"] for item in done.last["items"]] == ["done"]
            # The list alone: the item's hub is on loopback, where no proxy of the environment is taken.
            assert proxy.targets == [f"CONNECT {ORIGIN}:443"]


def test_it_can_be_told_not_to_be_there(hub: Hub, proxy: ForwardProxy, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=mixed_files())
    for word in ("none", "direct"):
        environ = {**TRUSTED, "HTTP_PROXY": with_login(proxy), "ALL_PROXY": with_login(proxy), "FETCHER_PROXY": word}
        done = run_cli("job", "-", "--json", input=HF_JOB, env=environ)
        assert done.exit_code == 0, done.stderr
    assert proxy.connections == 0


# --- a job


VARIABLES = ["HTTPS_PROXY", "all_proxy", "FETCHER_PROXY"]
JOBS = {
    "hub": HF_JOB,
    "s3": job_of(type="S3", url=f"https://{ORIGIN}/bucket/key"),
    "s3-address": job_of(type="S3", url="https://1.1.1.1/bucket/key"),
    "ollama": job_of(type="Ollama", model=f"{ORIGIN}/library/tiny"),
}


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("name", VARIABLES)
def test_a_job_is_refused_and_nothing_reaches_the_proxy(
    hub: Hub, proxy: ForwardProxy, run_cli: CommandLine, name: str, kind: str
) -> None:
    hub.add_repo(REPO, files=mixed_files())
    refused = run_cli("job", "-", "--json", input=JOBS[kind], env={**AT_ORIGIN, name: with_login(proxy)})
    assert refused.exit_code == 25, refused.stderr
    (error,) = refused.events("error")
    assert error["kind"] == "forbidden"
    assert f"{proxy.url} ({name})" in error["message"] and "FETCHER_PROXY_FILTERS" in error["hint"]
    assert proxy.connections == 0 and len(hub.requests) == 0


def test_a_job_goes_through_a_proxy_that_filters(hub: Hub, proxy: ForwardProxy, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=INLINE)
    environ = {**AT_ORIGIN, "HTTPS_PROXY": with_login(proxy), "FETCHER_PROXY_FILTERS": "1"}
    done = run_cli("job", "-", "--json", input=HF_JOB, env=environ)
    assert done.exit_code == 0, done.stderr
    assert set(proxy.targets) == {f"CONNECT {ORIGIN}:443"}
    for inside in ("http://169.254.169.254/x", "https://10.0.0.1/x", "https://localhost/x", "https://127.1/x"):
        refused = run_cli(
            "job", "-", "--json", input=job_of(type="S3", url=inside), env={**environ, "FETCHER_ALLOW_NET": ""}
        )
        assert refused.exit_code in (10, 25), refused.stdout
    assert set(proxy.targets) == {f"CONNECT {ORIGIN}:443"}


# --- its password, and its faults


def test_its_password_is_told_nobody(hub: Hub, run_cli: CommandLine, cache_dir: Path) -> None:
    """Where the proxy refuses, is not there, or is written wrong; at the highest verbosity."""
    with proxy_in_thread(login="somebody:else") as wrong:
        faults = {
            with_login(wrong): 25,
            f"http://{USER}:{PASSWORD}@127.0.0.1:9": 30,
            f"socks5://{USER}:{PASSWORD}@127.0.0.1:9": 2,
            f"http://{USER}:{PASSWORD}@127.0.0.1:{PASSWORD}": 2,
        }
        for url, exit_code in faults.items():
            for name in ("HTTPS_PROXY", "FETCHER_PROXY"):
                environ = {**AT_ORIGIN, name: url, "FETCHER_API_TRIES_MAX": "2", "FETCHER_DEBUG": "1"}
                done = run_cli("get", "hf://acme/x", "--verbose", env=environ)
                assert done.exit_code == exit_code, done.stderr
                told = done.stdout + done.stderr
                assert PASSWORD not in told and USER not in told
                assert name in told
                doctor = run_cli("doctor", "--json", env=environ)
                assert PASSWORD not in doctor.stdout + doctor.stderr
    for path in cache_dir.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()


def test_a_proxy_that_nobody_can_use_hurts_no_hit(hub: Hub, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=INLINE)
    socks = {**TRUSTED, "ALL_PROXY": "socks5h://127.0.0.1:9"}
    assert_fetched(run_cli("get", f"hf://{REPO}", "--json", env=socks), hub)  # the hub is on loopback
    assert run_cli("ls", env=socks).exit_code == 0
    stated = {**AT_ORIGIN, "ALL_PROXY": "socks5h://127.0.0.1:9"}
    refused = run_cli("get", "hf://acme/x", "--json", env=stated)
    assert refused.exit_code == 2
    (error,) = refused.events("error")
    assert "ALL_PROXY is a SOCKS proxy" in error["message"] and "FETCHER_PROXY" in error["hint"]


def test_doctor_tells_of_it(hub: Hub, proxy: ForwardProxy, run_cli: CommandLine) -> None:
    def told(**environ: str) -> dict[str, Any]:
        checks = run_cli("doctor", "--json", env=environ).last["checks"]
        return next(check for check in checks if check["name"] == "proxy")

    assert told()["status"] == "ok"
    assert told(HTTPS_PROXY="http://p:1", FETCHER_PROXY="none")["status"] == "ok"
    lax = told(HTTPS_PROXY=with_login(proxy), FETCHER_PROXY_FILTERS="1")
    strict = told(HTTPS_PROXY=with_login(proxy))
    assert (lax["status"], strict["status"]) == ("ok", "warn")
    assert proxy.url in lax["message"] and "HTTPS_PROXY" in lax["message"] and "are refused" in strict["message"]
