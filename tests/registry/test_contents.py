"""Models and images are what their own tools would have pushed, under digests of their exact bytes; and they change."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator

import pytest

from fetcher.testing import Synthetic
from fetcher.testing.contents import ContentLike
from fetcher.testing.registry import Layer, Registry, model_layers, registry_in_thread
from fetcher.testing.registry import media as types
from fetcher.testing.registry.demo import DEMO_IMAGE, DEMO_MODEL, DEMO_PRIVATE_MODEL, add_demo_repositories
from tests.hub.raw import fetch
from tests.registry.tools import code, manifest, sha256


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_in_thread() as registry:
        yield registry


def blob(registry: Registry, name: str, digest: str) -> bytes:
    answer = fetch(f"{registry.endpoint}/v2/{name}/blobs/{digest}")
    assert answer.status == 200 and sha256(answer.body) == digest
    return answer.body


# Models


def test_a_model_of_the_usual_layers(registry: Registry) -> None:
    made = registry.add_model("library/tiny")
    answer = manifest(registry, "library/tiny")
    assert answer.status == 200
    assert answer.headers["content-type"] == types.DOCKER_MANIFEST == answer.json["mediaType"]
    assert answer.headers["docker-content-digest"] == sha256(answer.body) == made.digest
    assert answer.json["schemaVersion"] == 2
    kinds = [row["mediaType"].removeprefix("application/vnd.ollama.image.") for row in answer.json["layers"]]
    assert kinds == ["model", "license", "template", "params"]
    for row in answer.json["layers"]:
        assert len(blob(registry, "library/tiny", row["digest"])) == row["size"]
    config = json.loads(blob(registry, "library/tiny", answer.json["config"]["digest"]))
    assert config["model_format"] == "gguf"
    assert config["rootfs"]["diff_ids"] == [row["digest"] for row in answer.json["layers"]]
    assert answer.json["config"]["mediaType"] == types.DOCKER_CONFIG


def test_a_model_of_layers_of_ones_own(registry: Registry) -> None:
    pairs: list[tuple[str, ContentLike]] = [
        ("model", Synthetic(9)),
        ("license", "one"),
        ("license", "two"),
        ("text/x-odd", b""),
        ("license", "one"),
    ]
    registry.add_model("someone/else", "7b-q4_K_M", layers=pairs, config={"model_family": "gemma"})
    answer = manifest(registry, "someone/else", "7b-q4_K_M").json
    assert [row["mediaType"].rpartition(".")[2] for row in answer["layers"][:3]] == ["model", "license", "license"]
    assert answer["layers"][3]["mediaType"] == "text/x-odd" and answer["layers"][3]["size"] == 0
    assert answer["layers"][4] == answer["layers"][1]  # the same digest twice is lawful
    assert json.loads(blob(registry, "someone/else", answer["config"]["digest"]))["model_family"] == "gemma"


def test_a_name_as_the_hugging_face_hub_gives_it(registry: Registry) -> None:
    registry.add_model("bartowski/Llama-3.2-1B-Instruct-GGUF", "Q4_K_M", layers={"model": Synthetic(1000)})
    assert manifest(registry, "bartowski/Llama-3.2-1B-Instruct-GGUF", "Q4_K_M").status == 200
    assert manifest(registry, "bartowski/llama-3.2-1b-instruct-gguf", "Q4_K_M").status == 404


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a b", "a/-b", "a:b"])
def test_names_that_no_registry_has(name: str) -> None:
    with pytest.raises(ValueError, match="no registry has such a name"):
        Registry().add_model(name)


@pytest.mark.parametrize("tag", ["", "-a", ".a", "a/b", "a" * 129, "a:b"])
def test_tags_that_no_registry_has(tag: str) -> None:
    with pytest.raises(ValueError, match="no registry has such a tag"):
        Registry().add_model("library/tiny", tag)


# Images


@pytest.mark.parametrize("style", ["docker", "oci"])
def test_an_image_for_one_platform(registry: Registry, style: str) -> None:
    registry.add_image("acme/app", "1", layers=[{"srv/page": "hello\n"}], style=style, config={"Cmd": ["/srv/page"]})  # type: ignore[arg-type]
    answer = manifest(registry, "acme/app", "1")
    docker = style == "docker"
    assert answer.headers["content-type"] == (types.DOCKER_MANIFEST if docker else types.OCI_MANIFEST)
    config = json.loads(blob(registry, "acme/app", answer.json["config"]["digest"]))
    assert (config["os"], config["architecture"], config["config"]["Cmd"]) == ("linux", "amd64", ["/srv/page"])
    assert len(config["history"]) == len(answer.json["layers"]) == 2
    for row, diff_id in zip(answer.json["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert row["mediaType"] == (types.DOCKER_LAYER if docker else types.OCI_LAYER)
        plain = gzip.decompress(blob(registry, "acme/app", row["digest"]))
        assert sha256(plain) == diff_id
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
            names = archive.getnames()
        assert names in (["srv", "srv/page"], ["etc", "etc/platform"])


@pytest.mark.parametrize("style", ["docker", "oci"])
def test_an_index_of_platforms_with_an_attestation(registry: Registry, style: str) -> None:
    platforms = ("linux/amd64", "linux/arm64/v8", "windows/amd64")
    registry.add_image("acme/app", platforms=platforms, style=style, attestation=True)  # type: ignore[arg-type]
    index = manifest(registry, "acme/app")
    assert index.headers["content-type"] == (types.DOCKER_LIST if style == "docker" else types.OCI_INDEX)
    rows = index.json["manifests"]
    assert [row["platform"]["os"] for row in rows] == ["linux", "linux", "windows", "unknown"]
    assert rows[1]["platform"] == {"architecture": "arm64", "os": "linux", "variant": "v8"}
    assert rows[3]["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
    assert rows[3]["annotations"]["vnd.docker.reference.digest"] == rows[0]["digest"]
    for row in rows:
        child = manifest(registry, "acme/app", row["digest"])
        assert (sha256(child.body), len(child.body)) == (row["digest"], row["size"])
        assert child.headers["content-type"] == row["mediaType"]
    layers = [
        {layer["digest"] for layer in manifest(registry, "acme/app", row["digest"]).json["layers"]} for row in rows
    ]
    assert len(layers[0] & layers[1]) == 1 and layers[0] != layers[1]


def test_an_image_may_be_an_index_of_one_platform_or_a_layer_of_ones_own(registry: Registry) -> None:
    layer = Layer(Layer.of_files({"a": b"1"}, mode=0o755).content, sha256(b"?"), "application/vnd.example.layer")
    made = registry.add_image("acme/app", layers=[layer], index=True)
    assert made.media_type == types.DOCKER_LIST and len(made.document["manifests"]) == 1
    child = manifest(registry, "acme/app", made.document["manifests"][0]["digest"]).json
    assert child["layers"][0]["mediaType"] == "application/vnd.example.layer"
    with pytest.raises(ValueError, match="a platform is os/architecture"):
        registry.add_image("acme/app", platforms=("linux",))


def test_layers_are_the_same_every_time_and_keep_their_mode() -> None:
    one, two = (Layer.of_files({"bin/run": b"#!", "bin/stop": b"#"}, mode=0o755) for _ in range(2))
    assert one.content.sha256 == two.content.sha256
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(one.content.read()))) as archive:
        entries = archive.getmembers()
    assert [(entry.name, entry.mode, entry.uid) for entry in entries] == [
        ("bin", 0o755, 0),
        ("bin/run", 0o755, 0),
        ("bin/stop", 0o755, 0),
    ]


# Change


def test_a_tag_moves_and_goes(registry: Registry) -> None:
    old = registry.add_model("library/tiny", layers=model_layers(100, seed=1))
    new = registry.add_model("library/tiny", layers=model_layers(100, seed=2))
    assert old.digest != new.digest
    repository = registry.repository("library/tiny")
    assert manifest(registry, "library/tiny").headers["docker-content-digest"] == new.digest
    assert manifest(registry, "library/tiny", old.digest).body == old.body
    repository.tag("latest", old.digest)
    repository.tag("again", "latest")
    assert manifest(registry, "library/tiny", "again").body == old.body
    repository.delete("again")
    assert code(manifest(registry, "library/tiny", "again")) == "MANIFEST_UNKNOWN"
    repository.delete(old.digest)
    assert manifest(registry, "library/tiny", old.digest).status == 404
    assert manifest(registry, "library/tiny").status == 404  # the tag went with what it pointed to
    with pytest.raises(KeyError):
        repository.tag("latest", old.digest)
    assert manifest(registry, "library/tiny", new.digest).status == 200


def test_a_blob_and_a_repository_go(registry: Registry) -> None:
    made = registry.add_model("library/tiny")
    digest = made.document["layers"][0]["digest"]
    registry.repository("library/tiny").delete(digest)
    assert code(fetch(f"{registry.endpoint}/v2/library/tiny/blobs/{digest}")) == "BLOB_UNKNOWN"
    registry.remove("library/tiny")
    assert code(fetch(f"{registry.endpoint}/v2/library/tiny/tags/list")) == "NAME_UNKNOWN"
    assert registry.repositories == []


def test_a_blob_belongs_to_its_repository(registry: Registry) -> None:
    digest = registry.add_model("library/tiny").document["layers"][0]["digest"]
    registry.add_model("library/other", layers={"model": b"x"})
    assert code(fetch(f"{registry.endpoint}/v2/library/other/blobs/{digest}")) == "BLOB_UNKNOWN"


def test_a_manifest_of_any_bytes(registry: Registry) -> None:
    registry.add_model("library/tiny")
    registry.put_manifest("library/tiny", "odd", b"not JSON at all", types.DOCKER_MANIFEST)
    answer = manifest(registry, "library/tiny", "odd")
    assert (answer.body, answer.headers["docker-content-digest"]) == (b"not JSON at all", sha256(b"not JSON at all"))


def test_the_demo_is_the_same_everywhere() -> None:
    registry = Registry(auth="bearer", users={"demo": "secret"})
    add_demo_repositories(registry, model_bytes=1000)
    assert [repository.name for repository in registry.repositories] == [DEMO_MODEL, DEMO_IMAGE, DEMO_PRIVATE_MODEL]
    model = registry.repository(DEMO_MODEL)
    assert model.tags["latest"] == model.tags["1b"]
    weights = model["1b"].document["layers"][0]
    assert weights["digest"] == f"sha256:{hashlib.sha256(Synthetic(1000).read()).hexdigest()}"
    assert registry.repository(DEMO_PRIVATE_MODEL).private
    assert "secret" not in repr(registry.users)
