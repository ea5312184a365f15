"""Who gets what of a bucket, where credentials go, which addresses a job's URL can make us ask; S3 and registries."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher import DeniedError, Fetcher, FetcherError, ForbiddenError, NotFoundError
from fetcher.engine.asks import Outcome
from fetcher.testing import S3, Synthetic, s3_in_thread
from fetcher.testing.faults import FlipByte, RedirectTo, StallAfter, Status
from fetcher.testing.registry import Challenge, Registry, registry_in_thread
from fetcher.testing.s3 import Key, RedirectElsewhere, S3Error
from tests.e2e.support import (
    HURRIED,
    LOOPBACK,
    MIB,
    bytes_below,
    nothing_visible,
    run_fetch,
    sha256_of,
)
from tests.e2e.test_guard import INSIDE

SECRETS = {"AKIDALICE": "CanarySecretOfAlice", "AKIDBOB": "CanarySecretOfBob"}
TOKEN = "CanarySessionToken"
CONTENT = Synthetic(3 * MIB + 7, 1)
NODE = {
    "AWS_ACCESS_KEY_ID": "AKIDALICE",
    "AWS_SECRET_ACCESS_KEY": SECRETS["AKIDALICE"],
    "AWS_REGION": "us-east-1",
}
"""The node's own environment."""


@pytest.fixture
def s3() -> Iterator[S3]:
    keys = {"AKIDALICE": Key(SECRETS["AKIDALICE"], "alice"), "AKIDBOB": Key(SECRETS["AKIDBOB"], "bob")}
    with s3_in_thread(keys=keys) as running:
        running.add_bucket("closed", readers={"alice"}).put("sub/file.bin", CONTENT)
        running.add_bucket("open", public=True).put("sub/file.bin", CONTENT)
        yield running


def fetch(
    cache_dir: Path, item: Any, *, asker: Any = "job", environ: Any = None, on_event: Any = None, **more: Any
) -> Outcome:
    options = {**HURRIED, "cache_dir": str(cache_dir), **more}
    return run_fetch(lambda: Fetcher(environ=environ or {}, on_event=on_event, **options), item, asker)


def resource(s3: S3, key_id: str | None = None, bucket: str = "closed", secret: str | None = None, **more: Any) -> Any:
    found: dict[str, Any] = {"type": "S3", "url": f"{s3.endpoint}/{bucket}/sub/"}
    if key_id is not None:
        found["IAM"] = {
            "REGION": "us-east-1",
            "ACCESS_KEY_ID": key_id,
            "SECRET_ACCESS_KEY": secret or SECRETS[key_id],
            **more,
        }
    return found


# --- whose bytes -----------------------------------------------------------------------------------------------------


def test_a_private_snapshot_is_for_the_keys_that_opened_it(s3: S3, cache_dir: Path) -> None:
    first = fetch(cache_dir, resource(s3, "AKIDALICE"))
    assert first.snapshot.private
    assert sha256_of(first.snapshot.path / "file.bin") == CONTENT.sha256
    s3.requests.clear()
    again = fetch(cache_dir, resource(s3, "AKIDALICE"))
    assert again.hit and again.snapshot.id == first.snapshot.id
    assert len(s3.requests) == 0, "a hit costs no network"

    # Others get what the origin says to them, and not what is here.
    with pytest.raises(DeniedError) as caught:
        fetch(cache_dir, resource(s3))
    anonymous = len(s3.requests)
    assert anonymous > 0
    with pytest.raises(DeniedError) as bobs:
        fetch(cache_dir, resource(s3, "AKIDBOB"))
    assert len(s3.requests) > anonymous
    with pytest.raises(DeniedError):
        fetch(cache_dir, resource(s3, "AKIDALICE", secret="not-it"))
    for error in (caught.value, bobs.value):
        assert error.exit_code == 22
    assert s3.body_bytes_sent() == 0


def test_whoever_is_let_in_fetches_for_himself(s3: S3, cache_dir: Path) -> None:
    """The bytes are here, but only for Alice: that Bob too may read them is between him and the origin."""
    fetch(cache_dir, resource(s3, "AKIDALICE"))
    s3.bucket("closed").readers = frozenset({"alice", "bob"})
    s3.requests.clear()
    outcome = fetch(cache_dir, resource(s3, "AKIDBOB"))
    assert (outcome.hit, outcome.downloaded) == (False, CONTENT.size)
    assert s3.body_bytes_sent() == CONTENT.size


def test_who_lost_access_is_told_so_when_the_time_is_over(s3: S3, cache_dir: Path) -> None:
    fetch(cache_dir, resource(s3, "AKIDALICE"), fresh_for_s=0.0)
    s3.bucket("closed").readers = frozenset({"bob"})
    with pytest.raises(DeniedError):
        fetch(cache_dir, resource(s3, "AKIDALICE"), fresh_for_s=0.0)


def test_a_bucket_that_lists_to_all_and_gives_to_some(s3: S3, cache_dir: Path) -> None:
    """Asked for one object before anything is believed."""
    s3.faults.add(S3Error("AccessDenied").on("object"))
    with pytest.raises(DeniedError):
        fetch(cache_dir, resource(s3, bucket="open"))
    nothing_visible(cache_dir)


@pytest.mark.parametrize("asker", ["job", "operator"])
def test_the_nodes_keys_are_never_a_jobs(s3: S3, cache_dir: Path, asker: str) -> None:
    settings = {"s3_endpoint": s3.endpoint}
    item = "s3://closed/sub/"
    if asker == "operator":
        assert fetch(cache_dir, item, asker="operator", environ=NODE, **settings).snapshot.private
        assert any(record.principal == "alice" for record in s3.requests)
        return
    for each in (item, resource(s3)):
        with pytest.raises(DeniedError):
            fetch(cache_dir, each, environ=NODE, **settings)
    assert len(s3.requests) > 0
    assert not any(record.authorization for record in s3.requests), "not one signature"


def test_what_the_operator_fetched_is_no_jobs(s3: S3, cache_dir: Path) -> None:
    settings = {"s3_endpoint": s3.endpoint}
    fetch(cache_dir, "s3://closed/sub/", asker="operator", environ=NODE, **settings)
    s3.requests.clear()
    with pytest.raises(DeniedError):
        fetch(cache_dir, "s3://closed/sub/", environ=NODE, **settings)
    assert not any(record.authorization for record in s3.requests)


def test_an_operators_keys_do_not_follow_a_url_to_any_host(s3: S3, cache_dir: Path) -> None:
    """They are for the endpoint that is configured. Whatever else somebody types is a stranger."""
    with s3_in_thread(keys={"AKIDALICE": Key(SECRETS["AKIDALICE"], "alice")}) as stranger:
        stranger.add_bucket("open", public=True).put("sub/file.bin", CONTENT)
        fetch(cache_dir, f"{stranger.endpoint}/open/sub/", asker="operator", environ=NODE, s3_endpoint=s3.endpoint)
        assert not any(record.authorization for record in stranger.requests)


# --- where credentials go --------------------------------------------------------------------------------------------

CANARIES = (*SECRETS.values(), TOKEN)


def assert_silent(*places: Path, said: str = "") -> None:
    for place in places:
        found = bytes_below(place)
        for canary in CANARIES:
            assert canary.encode() not in found
        assert b"X-Amz-Signature" not in found, "a signed URL is a credential too"
    assert not [canary for canary in CANARIES if canary in said]
    assert "X-Amz-Signature" not in said


@pytest.mark.parametrize(
    "rule",
    [
        None,
        RedirectElsewhere().on(method="GET"),
        RedirectElsewhere(302).on(),
        Status(403).on("object", method="GET"),
        Status(503).on("list"),
        S3Error("AccessDenied").on("list"),
        FlipByte(1).on(),
        StallAfter(10).on(),
        RedirectTo("http://10.0.0.1{self}", 307).on("object", "list"),
    ],
    ids=lambda rule: "well" if rule is None else f"{rule.name}-{'+'.join(sorted(rule.routes))}",
)
def test_keys_stay_at_their_host_and_in_memory(cache_dir: Path, tmp_path: Path, rule: Any) -> None:
    keys = {"AKIDALICE": Key(SECRETS["AKIDALICE"], "alice", TOKEN)}
    with s3_in_thread(keys=keys) as s3:
        s3.add_bucket("closed").put("sub/file.bin", CONTENT)
        if rule is not None:
            s3.faults.add(rule)
        events: list[Any] = []
        said = ""
        try:
            outcome = fetch(
                cache_dir,
                resource(s3, "AKIDALICE", SESSION_TOKEN=TOKEN),
                on_event=events.append,
                state_dir=str(tmp_path / "state"),
                no_progress_timeout_s=1.0,
                api_time_max_s=1.5,
                api_tries_max=3,
            )
            said = repr(outcome)
        except FetcherError as error:
            said = "".join(traceback.format_exception(error)) + repr(error.__dict__)
        assert any(record.principal == "alice" for record in s3.requests), "the keys were used at all"
        assert_silent(cache_dir, tmp_path / "state", said=said + repr(events))
        elsewhere = s3.requests.select("cdn")
        assert (rule is not None and rule.name.startswith("RedirectElsewhere")) == bool(elsewhere)
        for record in elsewhere:
            assert not record.authorization
            assert not [name for name in record.headers if name.startswith("x-amz-")]


@pytest.mark.parametrize("place", ["list", "object"])
def test_keys_are_not_sent_to_another_s3_that_a_redirect_names(s3: S3, cache_dir: Path, place: str) -> None:
    with s3_in_thread(keys=s3.keys) as other:
        other.add_bucket("closed", public=True).put("sub/file.bin", CONTENT)
        s3.faults.add(RedirectTo(other.endpoint + "{self}", 307).on(place))
        try:
            fetch(cache_dir, resource(s3, "AKIDALICE"), no_progress_timeout_s=1.0, api_tries_max=2)
        except FetcherError:
            nothing_visible(cache_dir)
        assert len(other.requests) > 0
        assert not any(record.authorization for record in other.requests)


def test_a_presigned_url_is_in_no_file_and_no_message(s3: S3, cache_dir: Path) -> None:
    events: list[Any] = []
    url = s3.presign("closed", "sub/file.bin", "AKIDALICE")
    outcome = fetch(cache_dir, url, on_event=events.append)
    assert outcome.snapshot.private
    assert_silent(cache_dir, said=repr((events, outcome)))
    wrong = url[:-4] + ("0000" if not url.endswith("0000") else "1111")
    with pytest.raises(DeniedError) as caught:
        fetch(cache_dir, wrong, on_event=events.append)
    assert_silent(cache_dir, said="".join(traceback.format_exception(caught.value)) + repr(events))


# --- which addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", INSIDE)
def test_a_job_asks_no_address_of_the_hosts_own_network(cache_dir: Path, url: str) -> None:
    with pytest.raises((ForbiddenError, FetcherError)) as caught:
        fetch(cache_dir, {"type": "S3", "url": url}, allow_net="", environ=NODE)
    assert caught.value.exit_code in (10, 25), repr(caught.value)
    nothing_visible(cache_dir)


def test_a_job_does_not_reach_the_loopback(s3: S3, cache_dir: Path) -> None:
    for item in (resource(s3, bucket="open"), resource(s3, "AKIDALICE")):
        with pytest.raises(ForbiddenError, match=r"127\.0\.0\.1") as caught:
            fetch(cache_dir, item, allow_net="", environ=NODE)
        assert "FETCHER_ALLOW_NET" in str(caught.value.hint)
    assert len(s3.requests) == 0


@pytest.mark.parametrize("place", ["list", "object"])
@pytest.mark.parametrize("url", INSIDE)
def test_redirects_of_a_bucket_into_the_hosts_own_network(s3: S3, cache_dir: Path, url: str, place: str) -> None:
    s3.faults.add(RedirectTo(url, 307).on(place))
    with pytest.raises(FetcherError) as caught:
        fetch(cache_dir, resource(s3, bucket="open"), allow_net="127.0.0.1/32")
    assert caught.value.exit_code == 25, repr(caught.value)
    assert s3.faults.fired
    nothing_visible(cache_dir)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_in_thread(dialect="ollama") as running:
        running.add_model("library/tiny")
        yield running


def test_a_job_reaches_no_registry_on_the_loopback(registry: Registry, cache_dir: Path) -> None:
    for item in ("ollama://tiny", f"ollama://{registry.host}/library/tiny"):
        with pytest.raises(ForbiddenError, match=r"127\.0\.0\.1"):
            fetch(cache_dir, item, ollama_url=registry.endpoint, allow_net="")
    assert len(registry.requests) == 0


@pytest.mark.parametrize("place", ["manifest", "blob"])
@pytest.mark.parametrize("url", INSIDE)
def test_redirects_of_a_registry_into_the_hosts_own_network(
    registry: Registry, cache_dir: Path, url: str, place: str
) -> None:
    registry.faults.add(RedirectTo(url, 307).on(place))
    for asker in ("job", "operator"):
        with pytest.raises(FetcherError) as caught:
            fetch(cache_dir, "ollama://tiny", asker=asker, ollama_url=registry.endpoint, allow_net="127.0.0.1/32")
        assert caught.value.exit_code == 25, repr(caught.value)
    nothing_visible(cache_dir)


@pytest.mark.parametrize("realm", INSIDE)
def test_a_registry_can_not_send_us_to_a_token_service_inside(registry: Registry, cache_dir: Path, realm: str) -> None:
    challenge = f'Bearer realm="{realm}",service="x",scope="repository:library/tiny:pull"'
    registry.faults.add(Challenge(challenge).on("manifest"))
    for asker in ("job", "operator"):
        with pytest.raises(FetcherError) as caught:
            fetch(cache_dir, "ollama://tiny", asker=asker, ollama_url=registry.endpoint, allow_net="127.0.0.1/32")
        assert caught.value.exit_code == 25, repr(caught.value)
    nothing_visible(cache_dir)


def test_an_operators_own_registry_needs_no_permission_and_its_token_service_does(cache_dir: Path) -> None:
    with registry_in_thread(dialect="ollama", auth="bearer", redirect_blobs=False) as registry:
        registry.add_model("library/tiny")
        outcome = fetch(cache_dir, "ollama://tiny", asker="operator", ollama_url=registry.endpoint, allow_net="")
        assert outcome.snapshot.verified_by == "sha256"
    with registry_in_thread(
        dialect="ollama", auth="bearer", redirect_blobs=False, separate_token_service=True
    ) as registry:
        registry.add_model("library/tiny")
        with pytest.raises(ForbiddenError):
            fetch(
                cache_dir.with_name("other"),
                "ollama://tiny",
                asker="operator",
                ollama_url=registry.endpoint,
                allow_net="",
            )
        assert registry.count("token") == 0


def test_loopback_is_allowed_where_it_is_allowed(registry: Registry, cache_dir: Path) -> None:
    assert fetch(cache_dir, "ollama://tiny", ollama_url=registry.endpoint, allow_net=LOOPBACK).downloaded > 5 * MIB


def test_a_model_that_is_not_there(registry: Registry, cache_dir: Path) -> None:
    with pytest.raises(NotFoundError):
        fetch(cache_dir, "ollama://absent", ollama_url=registry.endpoint)
