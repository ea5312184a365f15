"""Debian's docker-registry in every way it is started here, and the images made from nothing that are pushed to it."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping

import pytest

from tests.support.servers.docker_registry import DockerRegistry, run_docker_registry
from tests.support.servers.images import DOCKER, OCI, digest_of, image_of, index_of, layer_of, push
from tests.support.servers.process import accepts

pytestmark = pytest.mark.needs("docker-registry")

IMAGE = image_of([layer_of({"a": b"1"}), layer_of({"b/c": b"2" * 5000})])
ACCEPT = ", ".join(types[kind] for types in (DOCKER, OCI) for kind in ("manifest", "index"))


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _get(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, Mapping[str, str], bytes]:
    request = urllib.request.Request(url, headers={"Accept": ACCEPT, **(headers or {})})
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=10) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _bearer(realm: str, repository: str, headers: Mapping[str, str] | None = None) -> dict[str, str]:
    status, _, body = _get(f"{realm}?service=x&scope=repository:{repository}:pull", headers)
    assert status == 200
    return {"Authorization": f"Bearer {json.loads(body)['token']}"}


@pytest.mark.parametrize("types", [DOCKER, OCI], ids=["docker", "oci"])
def test_what_is_pushed_is_served_under_its_digest(docker_registry: DockerRegistry, types: dict[str, str]) -> None:
    image = image_of([layer_of({"a": b"1"}), layer_of({"a": b"1"})], types=types)
    repository = f"pushed/{types['manifest'].split('.')[1]}"
    digest = push(image, docker_registry.endpoint, repository, "v1")
    base = f"{docker_registry.endpoint}/v2/{repository}"
    status, headers, body = _get(f"{base}/manifests/v1")
    assert (status, headers["Content-Type"], digest_of(body)) == (200, types["manifest"], digest)
    assert headers["Docker-Content-Digest"] == digest
    before = len(docker_registry.blob_requests())
    for blob in (image.config_digest, *image.layer_digests):
        status, _, body = _get(f"{base}/blobs/{blob}")
        assert (status, digest_of(body)) == (200, blob)
    status, headers, body = _get(f"{base}/blobs/{image.config_digest}", {"Range": "bytes=0-9"})
    assert (status, len(body)) == (206, 10)
    asked = docker_registry.blob_requests()[before:]
    assert [(request.status, request.body_bytes) for request in asked][-1] == (206, 10)
    assert len(asked) == 4


def test_an_index_leads_to_each_platform(docker_registry: DockerRegistry) -> None:
    images = {name: image_of([layer_of({"name": name.encode()})], architecture=name) for name in ("amd64", "arm64")}
    push(index_of(images), docker_registry.endpoint, "many/platforms", "latest")
    base = f"{docker_registry.endpoint}/v2/many/platforms/manifests"
    index = json.loads(_get(f"{base}/latest")[2])
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    assert [digest_of(_get(f"{base}/{entry['digest']}")[2]) for entry in index["manifests"]] == [
        image.digest for image in images.values()
    ]


def test_images_are_the_same_in_every_run() -> None:
    layer = layer_of({"b": b"2", "a": b"1"}, links={"c": "a"})
    assert layer.diff_id == "sha256:f884a4c8d0016fe9a883cb8962aa5d1ab97c86c26f4efbef42e76cbec7333e4c"


def test_a_password_is_asked_for() -> None:
    with run_docker_registry(auth="basic") as registry:
        push(IMAGE, registry.endpoint, "private/x", "v1", credentials=registry.credentials)
        manifest = f"{registry.endpoint}/v2/private/x/manifests/v1"
        assert registry.credentials is not None
        user, password = registry.credentials
        status, headers, _ = _get(manifest)
        assert (status, headers["Www-Authenticate"]) == (401, 'Basic realm="fetcher"')
        assert _get(manifest, _basic(user, "wrong"))[0] == 401
        assert digest_of(_get(manifest, _basic(user, password))[2]) == IMAGE.digest


def test_a_token_is_asked_for() -> None:
    with run_docker_registry(auth="token", public_repositories=("open/x",)) as registry:
        for repository in ("open/x", "private/x"):
            push(IMAGE, registry.endpoint, repository, "v1", credentials=registry.credentials)
        assert registry.credentials is not None
        known = _basic(*registry.credentials)
        status, headers, _ = _get(f"{registry.endpoint}/v2/private/x/manifests/v1")
        challenge = headers["Www-Authenticate"]
        assert status == 401
        assert challenge.endswith('scope="repository:private/x:pull"')
        realm = challenge.split('"')[1]
        for repository, anonymously in (("open/x", 200), ("private/x", 401)):
            manifest = f"{registry.endpoint}/v2/{repository}/manifests/v1"
            assert _get(manifest, _bearer(realm, repository))[0] == anonymously
            assert _get(manifest, _bearer(realm, repository, known))[0] == 200
        # A token of one repository opens no other, and a wrong password gets none.
        assert _get(f"{registry.endpoint}/v2/private/x/manifests/v1", _bearer(realm, "open/x", known))[0] == 401
        assert _get(f"{realm}?scope=repository:open/x:pull", _basic(registry.credentials[0], "wrong"))[0] == 401


def test_a_token_that_is_over_is_refused() -> None:
    with run_docker_registry(auth="token", token_life_s=-3600, public_repositories=("open/x",)) as registry:
        manifest = f"{registry.endpoint}/v2/open/x/manifests/v1"
        realm = _get(manifest)[1]["Www-Authenticate"].split('"')[1]
        assert _get(manifest, _bearer(realm, "open/x"))[0] == 401


def test_blobs_can_be_redirected() -> None:
    with run_docker_registry(redirect_to="http://127.0.0.1:9") as registry:
        push(IMAGE, registry.endpoint, "x/y", "v1")
        digest = IMAGE.layer_digests[0]
        status, headers, _ = _get(f"{registry.endpoint}/v2/x/y/blobs/{digest}")
        hexadecimal = digest.removeprefix("sha256:")
        place = f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
        assert (status, headers["Location"]) == (307, f"http://127.0.0.1:9/{place}")
        assert digest_of((registry.storage / place).read_bytes()) == digest


def test_one_can_stand_before_another(docker_registry: DockerRegistry) -> None:
    push(IMAGE, docker_registry.endpoint, "behind/x", "v1")
    with run_docker_registry(upstream=docker_registry.endpoint) as front:
        assert digest_of(_get(f"{front.endpoint}/v2/behind/x/manifests/v1")[2]) == IMAGE.digest


def test_nothing_of_it_stays() -> None:
    with run_docker_registry(auth="token") as registry:
        push(IMAGE, registry.endpoint, "x/y", "v1", credentials=registry.credentials)
        assert registry.storage.is_dir()
    assert not registry.storage.parent.exists()
    assert not accepts(registry.port)
    assert not registry.server.running
