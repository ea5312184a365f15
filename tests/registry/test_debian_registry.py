"""The judge: Debian's docker-registry, holding the same bytes, gives the same statuses, codes and headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetcher.testing import Synthetic
from fetcher.testing.registry import Registry, registry_in_thread
from fetcher.testing.registry import media as types
from tests.hub.raw import Answer, fetch
from tests.registry.tools import EVERY_TYPE, debian_registry, push, sha256

pytestmark = pytest.mark.needs("debian:docker-registry")

NOTHING = sha256(b"what nobody has")
_HEADERS = (
    "content-type docker-content-digest etag content-length content-range accept-ranges docker-distribution-api-version"
)


def fill(registry: Registry) -> None:
    registry.add_model("library/tiny", "1b", layers={"model": Synthetic(70_001, 3), "template": "{{ .Prompt }}"})
    registry.repository("library/tiny").tag("latest", "1b")
    registry.add_image("acme/app", "docker")
    registry.add_image("acme/app", "oci", style="oci")
    registry.add_image("acme/app", "list", platforms=("linux/arm64", "linux/amd64"))
    registry.add_image("acme/app", "index", platforms=("linux/amd64", "linux/arm64"), style="oci", attestation=True)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Registry, str]]:
    with debian_registry(tmp_path) as theirs, registry_in_thread() as registry:
        fill(registry)
        for repository in registry.repositories:
            push(theirs, repository)
        yield registry, theirs


def _facts(answer: Answer, method: str) -> dict[str, object]:
    facts: dict[str, object] = {"status": answer.status}
    if answer.headers.get("content-type") == types.DOCKER_SCHEMA_1:
        # Made on the spot and signed with a key of the moment: no two are equal.
        facts["type"] = types.DOCKER_SCHEMA_1
    elif answer.status in (200, 206):
        facts |= {name: answer.headers.get(name) for name in _HEADERS.split()}
        facts["body"] = answer.body
    elif (
        method != "HEAD"
        and answer.status != 405
        and answer.headers.get("content-type", "").startswith("application/json")
    ):
        error = answer.json["errors"][0]
        facts |= {"code": error["code"], "message": error["message"]}
    return facts


def test_it_takes_what_we_made_and_answers_alike(pair: tuple[Registry, str]) -> None:
    registry, theirs = pair
    app, tiny = registry.repository("acme/app"), registry.repository("library/tiny")
    blob = tiny["latest"].document["layers"][0]["digest"]
    accepts = [
        "",
        "*/*",
        EVERY_TYPE,
        types.DOCKER_MANIFEST,
        types.OCI_MANIFEST,
        f"{types.OCI_INDEX}, {types.OCI_MANIFEST}",
        f"{types.DOCKER_LIST}\r\nAccept: {types.DOCKER_MANIFEST}",
        f"{types.DOCKER_MANIFEST};q=0.1",
    ]
    asked = [
        (method, f"/v2/acme/app/manifests/{reference}", {"Accept": accept})
        for method in ("GET", "HEAD")
        for reference in [*app.tags, *app.manifests]
        for accept in accepts
    ]
    some = {"Accept": EVERY_TYPE}
    asked += [(method, "/v2/", {}) for method in ("GET", "HEAD")]
    asked += [
        ("GET", "/v2/library/tiny/manifests/latest", some),
        ("GET", "/v2/library/tiny/manifests/latest", {**some, "Range": "bytes=0-9"}),
        ("GET", "/v2/library/tiny/manifests/latest", {**some, "If-None-Match": f'"{tiny["latest"].digest}"'}),
        ("GET", "/v2/library/tiny/manifests/none", some),
        ("GET", f"/v2/library/tiny/manifests/{NOTHING}", some),
        ("GET", f"/v2/library/tiny/manifests/{app['docker'].digest}", some),
        ("GET", "/v2/library/none/manifests/latest", some),
        ("GET", "/v2/library/none/tags/list", {}),
        ("GET", "/v2/library/tiny/nonsense", {}),
        ("GET", f"/v2/library/tiny/blobs/{NOTHING}", {}),
        ("GET", f"/v2/acme/app/blobs/{blob}", {}),
        ("GET", "/v2/library/tiny/blobs/sha256:zz", {}),
        ("GET", f"/v2/library/tiny/blobs/md5:{'0' * 32}", {}),
        ("PATCH", "/v2/library/tiny/manifests/latest", {}),
        ("HEAD", f"/v2/library/tiny/blobs/{blob}", {}),
    ]
    ranges = ("", "bytes=0-9", "bytes=70000-", "bytes=-5", "bytes=70001-", "bytes=0-99999999")
    asked += [("GET", f"/v2/library/tiny/blobs/{blob}", {"Range": each} if each else {}) for each in ranges]
    asked += [
        ("GET", f"/v2/library/tiny/blobs/{blob}", {"If-None-Match": f'"{blob}"'}),
        ("GET", f"/v2/library/tiny/blobs/{blob}", {"Range": "bytes=0-9", "If-Range": f'"{blob}"'}),
        ("GET", f"/v2/library/tiny/blobs/{blob}", {"Range": "bytes=0-9", "If-Range": '"x"'}),
    ]
    differences = []
    for method, path, headers in asked:
        mine, real = (fetch(base + path, method=method, headers=headers) for base in (registry.endpoint, theirs))
        if _facts(mine, method) != _facts(real, method):
            differences.append((method, path, headers, _facts(mine, method), _facts(real, method)))
    assert differences == []
    assert len(asked) > 150


def test_tags_are_the_same(pair: tuple[Registry, str]) -> None:
    registry, theirs = pair
    mine, real = (fetch(f"{base}/v2/acme/app/tags/list").json for base in (registry.endpoint, theirs))
    assert mine == {**real, "tags": sorted(real["tags"])}


@pytest.mark.needs("python:cryptography")
def test_challenges_are_the_same(tmp_path: Path) -> None:
    from tests.support.servers.certificates import self_signed

    trusted = self_signed(tmp_path, "token-service").certificate
    auth = (
        "auth:\n  token:\n    realm: http://127.0.0.1:1/token\n    service: embedded-registry\n    issuer: nobody\n"
        f"    rootcertbundle: {trusted}\n"
    )
    with debian_registry(tmp_path, auth) as theirs, registry_in_thread(users={"alice": "a"}) as registry:
        fill(registry)
        for path in ("/v2/", "/v2/acme/app/manifests/oci", f"/v2/acme/app/blobs/{NOTHING}", "/v2/acme/app/tags/list"):
            for headers in ({}, {"Authorization": "Bearer made-up"}):
                mine, real = (fetch(base + path, headers=headers) for base in (registry.endpoint, theirs))
                assert (mine.status, mine.json["errors"][0]["code"]) == (real.status, real.json["errors"][0]["code"])
                challenges = [
                    re.sub(r'realm="[^"]*"', "realm", answer.headers["www-authenticate"]) for answer in (mine, real)
                ]
                assert challenges[0] == challenges[1]
