"""What manifests and indexes of registries say, hostile ones included."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fetcher.errors import FetcherError, ForbiddenError, NotFoundError, TransportError
from fetcher.net.registry_documents import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    LayeredManifest,
    Platform,
    check_is_document,
    choose_platform,
    image_bytes,
    is_digest,
    parse_document,
)
from fetcher.testing.registry import HOSTILE_MANIFESTS

CONFIG = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": "sha256:" + "a" * 64, "size": 3}
LAYER = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": "sha256:" + "b" * 64, "size": 7}
IMAGE = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": CONFIG, "layers": [LAYER, LAYER]}


def parsed(document: Any, content_type: str = "text/plain; charset=utf-8") -> LayeredManifest | Index:
    return parse_document(json.dumps(document).encode(), content_type, "acme/app:1")


def index(*platforms: str, **more: Any) -> Index:
    rows = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": f"sha256:{number:064x}",
            "size": 1,
            "platform": dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False)),
        }
        for number, text in enumerate(platforms)
    ]
    document = parsed({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows, **more})
    assert isinstance(document, Index)
    return document


def test_a_manifest_is_read_and_the_same_layer_counts_once() -> None:
    document = parsed(IMAGE)
    assert isinstance(document, LayeredManifest)
    assert (document.media_type, len(document.layers)) == (DOCKER_MANIFEST, 2)
    assert image_bytes(document, "acme/app:1") == 10


def test_the_header_counts_where_the_document_says_nothing() -> None:
    bare = {name: value for name, value in IMAGE.items() if name != "mediaType"}
    assert parsed(bare, OCI_MANIFEST).media_type == OCI_MANIFEST
    for header in ("", "text/plain", "application/json"):
        with pytest.raises(ForbiddenError, match=r"does not say its type|unknown type"):
            parsed(bare, header)


@pytest.mark.parametrize(
    ("document", "header"),
    [
        (IMAGE, DOCKER_LIST),
        ({**IMAGE, "manifests": []}, DOCKER_MANIFEST),
        ({**IMAGE, "mediaType": DOCKER_LIST, "manifests": []}, DOCKER_LIST),
        ({**IMAGE, "mediaType": DOCKER_LIST}, DOCKER_LIST),
    ],
)
def test_what_could_be_read_as_two_things_is_refused(document: Any, header: str) -> None:
    with pytest.raises(ForbiddenError):
        parsed(document, header)


def test_schema_1_is_refused_with_the_cure() -> None:
    for document, header in (
        ({"schemaVersion": 1, "fsLayers": [{"blobSum": "sha256:" + "a" * 64}]}, "application/json"),
        ({"schemaVersion": 2}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ):
        with pytest.raises(ForbiddenError, match="schema 1") as caught:
            parsed(document, header)
        assert caught.value.hint is not None and "pushed again" in caught.value.hint


GOOD = {"no-layers", "layers-null", "layers-empty", "no-config", "config-null", "many-layers", "large"}
GOOD |= {"size-understated", "size-overstated", "size-petabyte", "digest-of-nothing", "digest-sha512"}
GOOD |= {"type-unknown", "type-missing"}
"""Hostile elsewhere: lies that only the blobs show, or for whoever knows what the manifest should be of."""
NOT_JSON = {"html", "empty", "truncated"}


@pytest.mark.parametrize("kind", HOSTILE_MANIFESTS)
def test_no_hostile_manifest_makes_it_stumble(kind: str) -> None:
    made = HOSTILE_MANIFESTS[kind](json.loads(json.dumps(IMAGE)))
    body = made if isinstance(made, bytes) else json.dumps(made).encode()
    try:
        parse_document(body, "text/plain", "acme/app:1")
        said: FetcherError | None = None
    except FetcherError as error:
        said = error
    assert (said is None) == (kind in GOOD)
    assert said is None or isinstance(said, ForbiddenError)
    if kind in NOT_JSON:
        with pytest.raises(TransportError, match="not the JSON"):
            check_is_document(body, "https://registry.example")
    else:
        check_is_document(body, "https://registry.example")  # the same next time: no use in asking again


def test_digests_are_sha256_or_sha512_in_lower_case() -> None:
    assert is_digest("sha256:" + "0" * 64) and is_digest("sha512:" + "f" * 128)
    for text in ("latest", "sha256:" + "A" * 64, "sha256:" + "0" * 63, "sha1:" + "0" * 40, "sha256:" + "0" * 64 + "\n"):
        assert not is_digest(text)


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        (("linux/amd64", "linux/arm64"), "linux/arm64", 1),
        (("linux/arm64/v8",), "linux/arm64", 0),
        (("linux/arm64",), "linux/arm64/v8", 0),
        (("linux/arm/v5", "linux/arm/v6", "linux/arm/v7"), "linux/arm/v6", 1),
        (("linux/arm/v5", "linux/arm/v6", "linux/arm/v7"), "linux/arm/v7", 2),
        (("linux/amd64/v3", "linux/amd64"), "linux/amd64", 1),
        (("linux/amd64", "linux/amd64/v2", "linux/amd64/v3"), "linux/amd64/v2", 1),
        (("linux/amd64", "linux/amd64"), "linux/amd64", 0),
        (("unknown/unknown", "linux/riscv64"), "linux/riscv64", 1),
        (("windows/amd64", "linux/amd64"), "linux/amd64", 1),
    ],
)
def test_the_best_platform_that_runs_is_chosen(there: tuple[str, ...], wanted: str, chosen: int) -> None:
    system, architecture, *variant = wanted.split("/")
    found = choose_platform(index(*there), Platform(system, architecture, *variant), "acme/app:1")
    assert found.digest.hex == f"{chosen:064x}"


def test_no_platform_lists_what_there_is() -> None:
    with pytest.raises(NotFoundError, match="no image for linux/s390x") as caught:
        choose_platform(index("linux/amd64", "linux/arm/v7", "unknown/unknown"), Platform("linux", "s390x"), "acme/app")
    assert caught.value.hint == "it has linux/amd64, linux/arm/v7"
    with pytest.raises(NotFoundError):
        choose_platform(index("linux/amd64/v3"), Platform("linux", "amd64"), "acme/app")


def test_attestations_and_unknown_children_are_no_images() -> None:
    amd64 = {"os": "linux", "architecture": "amd64"}
    statement = {"vnd.docker.reference.type": "attestation-manifest"}
    rows: list[dict[str, Any]] = [
        {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "c" * 64, "platform": amd64, "annotations": statement},
        {"mediaType": "application/x", "digest": "sha256:" + "d" * 64, "platform": amd64},
        {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "e" * 64},
    ]
    rows = [{**row, "size": 1} for row in rows]
    odd = parsed({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows})
    assert isinstance(odd, Index)
    with pytest.raises(NotFoundError, match="no image for"):
        choose_platform(odd, Platform("linux", "amd64"), "acme/app")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"config": None}, "something else"),
        ({"config": {**CONFIG, "mediaType": "application/vnd.cncf.helm.config.v1+json"}}, "something else"),
        ({"layers": [{**LAYER, "mediaType": "application/vnd.in-toto+json"}]}, "in-toto"),
        ({"layers": [{**LAYER, "mediaType": "application/vnd.ollama.image.model"}]}, "no container image"),
    ],
)
def test_what_is_no_image_has_no_image_size(changes: dict[str, Any], word: str) -> None:
    document = parsed({**IMAGE, **changes})
    assert isinstance(document, LayeredManifest)
    with pytest.raises(ForbiddenError, match=word):
        image_bytes(document, "acme/app:1")


def test_this_machine_has_a_platform() -> None:
    here = Platform.here()
    assert here.os == "linux" and here.architecture not in ("x86_64", "aarch64", "")
