"""The read side, byte by byte: routes, errors, ranges, what a client takes, and the manners of Ollama's registry."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

import pytest

from fetcher.testing import Synthetic
from fetcher.testing.registry import Registry, registry_in_thread
from fetcher.testing.registry import media as types
from fetcher.testing.registry.routes import OTHER, TOKEN, Route, parse
from tests.hub.raw import Answer, fetch
from tests.registry.tools import EVERY_TYPE, code, manifest, sha256

MIB = 1 << 20
WEIGHTS = Synthetic(2 * MIB + 5, 3)
DIGEST = f"sha256:{WEIGHTS.sha256}"
NOTHING = sha256(b"what nobody has")


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_in_thread() as registry:
        registry.add_model("library/tiny", layers={"model": WEIGHTS, "template": "{{ .Prompt }}"})
        yield registry


def get(registry: Registry, path: str, method: str = "GET", **headers: str) -> Answer:
    return fetch(registry.endpoint + path, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2/", Route("ping")),
        ("/v2", OTHER),
        ("/token", TOKEN),
        ("/v2/token", TOKEN),
        ("/v2/a/tags/list", Route("tags", "a")),
        ("/v2/a/b/c/manifests/latest", Route("manifest", "a/b/c", "latest")),
        ("/v2/tags/list/manifests/x", Route("manifest", "tags/list", "x")),
        ("/v2/manifests/manifests/manifests", Route("manifest", "manifests", "manifests")),
        (f"/v2/a/blobs/{DIGEST}", Route("blob", "a", DIGEST)),
        (f"/v2/a/blobs/sha256%3A{'0' * 64}", Route("blob", "a", "sha256:" + "0" * 64)),
        ("/v2/a/blobs/", OTHER),
        ("/v2/manifests/latest", OTHER),
        ("/v2/_catalog", OTHER),
        ("/v1/a/tags/list", OTHER),
    ],
)
def test_routes(path: str, route: Route) -> None:
    assert parse(path) == route


def test_ping(registry: Registry) -> None:
    answer = get(registry, "/v2/")
    assert (answer.status, answer.body, answer.headers["docker-distribution-api-version"]) == (
        200,
        b"{}",
        "registry/2.0",
    )


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/v2/library/none/manifests/latest", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/tiny/manifests/none", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/library/tiny/manifests/{NOTHING}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/library/tiny/blobs/{NOTHING}", 404, "BLOB_UNKNOWN"),
        ("/v2/library/tiny/blobs/sha256:zz", 400, "DIGEST_INVALID"),
        ("/v2/library/tiny/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/library/none/tags/list", 404, "NAME_UNKNOWN"),
    ],
)
def test_errors_have_codes(registry: Registry, path: str, status: int, word: str) -> None:
    answer = get(registry, path, Accept=EVERY_TYPE)
    assert (answer.status, code(answer)) == (status, word)
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
def test_nothing_is_written(registry: Registry, method: str) -> None:
    for path in ("/v2/library/tiny/manifests/latest", f"/v2/library/tiny/blobs/{DIGEST}"):
        answer = get(registry, path, method)
        assert (answer.status, code(answer)) == (405, "UNSUPPORTED")
    assert get(registry, "/v2/library/tiny/blobs/uploads/", "POST").status in (404, 405)


def test_head_says_what_get_says(registry: Registry) -> None:
    for path in ("/v2/library/tiny/manifests/latest", f"/v2/library/tiny/blobs/{DIGEST}"):
        head, full = (get(registry, path, method, Accept=EVERY_TYPE) for method in ("HEAD", "GET"))
        assert head.status == 200 and head.body == b"" and full.body
        assert {**head.headers, "date": ""} == {**full.headers, "date": ""}
        assert int(head.headers["content-length"]) == len(full.body)
        assert head.headers["docker-content-digest"] == sha256(full.body)
        assert head.headers["etag"] == f'"{sha256(full.body)}"'


def test_blob_ranges(registry: Registry) -> None:
    path = f"/v2/library/tiny/blobs/{DIGEST}"
    for text, start, stop in [("0-9", 0, 10), ("5-", 5, WEIGHTS.size), ("-7", WEIGHTS.size - 7, WEIGHTS.size)]:
        answer = get(registry, path, Range=f"bytes={text}")
        assert (answer.status, answer.body) == (206, WEIGHTS.read(start, stop))
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{WEIGHTS.size}"
    beyond = get(registry, path, Range=f"bytes={WEIGHTS.size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{WEIGHTS.size}")
    assert get(registry, path, Range="bytes=0-9", If_Range='"x"').status == 200
    assert get(registry, path, Range="bytes=0-9", If_Range=f'"{DIGEST}"').status == 206
    assert get(registry, path, If_None_Match=f'"{DIGEST}"').status == 304
    record = registry.requests[0]
    assert (record.route, record.repo, record.path, record.span) == ("blob", "library/tiny", DIGEST, (0, 10))
    assert registry.body_bytes_sent(DIGEST) == 10 + (WEIGHTS.size - 5) + 7 + WEIGHTS.size + 10


def test_a_manifest_is_never_sent_in_part(registry: Registry) -> None:
    answer = manifest(registry, "library/tiny", Range="bytes=0-3")
    assert answer.status == 200 and sha256(answer.body) == answer.headers["docker-content-digest"]
    assert "accept-ranges" not in answer.headers


def test_a_tag_that_has_not_moved_is_304(registry: Registry) -> None:
    etag = manifest(registry, "library/tiny").headers["etag"]
    assert manifest(registry, "library/tiny", **{"If-None-Match": etag}).status == 304
    registry.add_model("library/tiny", layers={"model": b"new"})
    assert manifest(registry, "library/tiny", **{"If-None-Match": etag}).status == 200


def test_tags_in_pages(registry: Registry) -> None:
    for tag in ("b", "a", "c"):
        registry.repository("library/tiny").tag(tag, "latest")
    assert get(registry, "/v2/library/tiny/tags/list").json == {
        "name": "library/tiny",
        "tags": ["a", "b", "c", "latest"],
    }
    seen, path = [], "/v2/library/tiny/tags/list?n=3"
    while path:
        answer = get(registry, path)
        seen += answer.json["tags"]
        link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers.get("link", ""))
        path = link[1] if link else ""
    assert seen == ["a", "b", "c", "latest"]
    assert registry.count("tags") == 3


def test_whoever_tries_tls_first_is_told_at_once(registry: Registry) -> None:
    host, port = registry.host.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        with pytest.raises(ssl.SSLError):
            ssl._create_unverified_context().wrap_socket(connection)
    assert len(registry.requests) == 0


# What the client takes


def test_types_in_several_accept_lines_are_joined(registry: Registry) -> None:
    registry.add_image("acme/app", platforms=("linux/amd64", "linux/arm64"))
    lines = f"{types.DOCKER_MANIFEST}\r\nAccept: {types.DOCKER_LIST}"
    for header in (lines, "\r\nAccept: ".join(reversed(lines.split("\r\nAccept: ")))):
        answer = get(registry, "/v2/acme/app/manifests/latest", Accept=header)
        assert answer.headers["content-type"] == types.DOCKER_LIST


def test_what_is_not_taken_is_refused(registry: Registry) -> None:
    registry.add_image("acme/oci", style="oci")
    registry.add_image("acme/index", platforms=("linux/amd64", "linux/arm64"), style="oci")
    registry.add_image("acme/list", platforms=("linux/arm64", "linux/amd64"))
    for name in ("oci", "index"):
        answer = get(registry, f"/v2/acme/{name}/manifests/latest", Accept=types.DOCKER_MANIFEST)
        assert (answer.status, code(answer)) == (404, "MANIFEST_UNKNOWN")
    # A client that names no type at all gets what nobody takes any more, as from Debian's registry.
    old = get(registry, "/v2/acme/list/manifests/latest", Accept="*/*")
    assert old.headers["content-type"] == types.DOCKER_SCHEMA_1 and old.json["schemaVersion"] == 1
    for accept in ("*/*", "application/json", types.OCI_MANIFEST):
        answer = get(registry, "/v2/library/tiny/manifests/latest", Accept=accept)
        assert (answer.status, code(answer)) == (400, "MANIFEST_INVALID")
    assert get(registry, "/v2/library/tiny/manifests/latest").status == 400
    child = get(registry, "/v2/acme/list/manifests/latest", Accept=f"text/plain, {types.DOCKER_MANIFEST};q=0.5")
    rows = manifest(registry, "acme/list").json["manifests"]
    assert child.headers["docker-content-digest"] == sha256(child.body) == rows[1]["digest"]


# Ollama's manners


@pytest.fixture
def ollama() -> Iterator[Registry]:
    with registry_in_thread(dialect="ollama") as registry:
        registry.add_model("library/tiny", layers={"model": WEIGHTS, "template": "{{ .Prompt }}"})
        yield registry


def test_ollama_has_no_ping_and_no_tags(ollama: Registry) -> None:
    assert get(ollama, "/v2/").status == 404
    assert get(ollama, "/v2/library/tiny/tags/list").status == 404
    missing = get(ollama, "/v2/library/none/manifests/latest")
    assert (missing.status, missing.json["errors"][0]["detail"]) == (404, {"Tag": "latest"})


def test_ollama_tells_the_digest_to_head_only(ollama: Registry) -> None:
    path = "/v2/library/tiny/manifests/latest"
    answers = [get(ollama, path, Accept=accept) for accept in ("", "*/*", types.DOCKER_MANIFEST)]
    for full in answers:
        assert full.status == 200 and full.json["mediaType"] == types.DOCKER_MANIFEST
        assert not [name for name in full.headers if "digest" in name or name == "etag"]
    head = get(ollama, path, "HEAD")
    assert {"sha256:" + head.headers["ollama-content-digest"]} == {sha256(full.body) for full in answers}
    assert head.headers["ollama-push-time"].isdecimal()


def test_ollama_sends_blobs_from_elsewhere(ollama: Registry) -> None:
    answer = get(ollama, f"/v2/library/tiny/blobs/{DIGEST}")
    assert answer.status == 307 and answer.headers["location"].startswith(ollama.cdn_endpoint)
    assert b"Temporary Redirect" in answer.body
    assert fetch(answer.headers["location"]).body == WEIGHTS.read()


def test_a_registry_must_have_been_started() -> None:
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = Registry().endpoint
