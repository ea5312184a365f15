"""Blobs behind signed URLs: good for one method, one host and every byte, in time, and without a credential."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
import yarl

from fetcher.testing import Synthetic
from fetcher.testing.faults import RedirectAlreadyExpired, UrlUses
from fetcher.testing.registry import Registry, registry_in_thread
from tests.hub.raw import Answer, fetch
from tests.registry.tools import Clock

WEIGHTS = Synthetic((1 << 20) + 3, 5)
DIGEST = f"sha256:{WEIGHTS.sha256}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> Iterator[Registry]:
    with registry_in_thread(redirect_blobs=True, clock=clock) as registry:
        registry.add_model("library/tiny", layers={"model": WEIGHTS})
        yield registry


def locate(registry: Registry, method: str = "GET") -> str:
    answer = fetch(f"{registry.endpoint}/v2/library/tiny/blobs/{DIGEST}", method=method)
    assert answer.status == 307
    return answer.headers["location"]


def refused(answer: Answer, status: int, word: bytes) -> bool:
    return answer.status == status and b"<Code>" + word + b"</Code>" in answer.body


def test_a_blob_is_a_redirect_to_another_origin(registry: Registry) -> None:
    location = locate(registry)
    assert location.startswith(f"{registry.cdn_endpoint}/") and registry.cdn_endpoint != registry.endpoint
    assert WEIGHTS.sha256 in location and "X-Amz-Expires=1200" in location
    answer = fetch(location, headers={"Range": "bytes=5-9"})
    assert (answer.status, answer.body) == (206, WEIGHTS.read(5, 10))
    assert re.fullmatch(r'"[0-9a-f]{32}"', answer.headers["etag"])
    assert "docker-content-digest" not in answer.headers
    assert fetch(location, headers={"Range": f"bytes={WEIGHTS.size}-"}).status == 416
    assert location != locate(registry)
    record = registry.requests.select("cdn")[0]
    assert (record.repo, record.path, record.span) == ("library/tiny", DIGEST, (5, 10))


def test_a_credential_is_refused(registry: Registry) -> None:
    answer = fetch(locate(registry), headers={"Authorization": "Bearer meant-for-the-registry"})
    assert refused(answer, 400, b"InvalidArgument")
    assert "meant-for" not in repr(list(registry.requests))


def test_the_signature_covers_method_host_and_every_byte(registry: Registry) -> None:
    location = locate(registry)
    head, _, query = location.partition("?")
    changes = [
        str(yarl.URL(location)),  # what aiohttp does with a str
        f"{head}?{unquote(query)}",
        location.replace("%28", "("),
        location.replace("~", "%7E"),
        location.replace("%2F", "%2f"),
        location.replace(WEIGHTS.sha256, "0" * 64),
        location.replace("Expires=1200", "Expires=9999"),
        location[:-1] + ("0" if location[-1] != "0" else "1"),
        location + "&x=1",
        head,
    ]
    for changed in changes:
        assert changed != location
        assert fetch(changed).status == 403, changed
    assert refused(fetch(location, headers={"Host": "elsewhere"}), 403, b"SignatureDoesNotMatch")
    assert fetch(location, method="HEAD").status == 403
    assert fetch(locate(registry, "HEAD"), method="HEAD").status == 200
    assert refused(fetch(location, method="PUT"), 405, b"MethodNotAllowed")
    assert fetch(location).body == WEIGHTS.read()


def test_a_url_has_its_time(registry: Registry, clock: Clock) -> None:
    location = locate(registry)
    clock.now += 1199.9
    assert fetch(location).status == 200
    clock.now += 0.1
    late = fetch(location)
    assert refused(late, 403, b"AccessDenied") and b"expired" in late.body
    assert fetch(locate(registry)).status == 200


def test_urls_that_are_born_late_or_wear_out(registry: Registry) -> None:
    registry.faults.add(RedirectAlreadyExpired().on("blob", nth=1), UrlUses(1).on("cdn"))
    assert refused(fetch(locate(registry)), 403, b"AccessDenied")
    location = locate(registry)
    assert [fetch(location).status for _ in range(2)] == [200, 403]


def test_a_registry_need_not_redirect() -> None:
    with registry_in_thread() as registry:
        registry.add_model("library/tiny", layers={"model": WEIGHTS})
        assert fetch(f"{registry.endpoint}/v2/library/tiny/blobs/{DIGEST}").status == 200
        assert fetch(f"{registry.cdn_endpoint}/anything").status == 403
