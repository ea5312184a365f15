"""Container images made from nothing: layers as tar files in memory, configuration, manifest, index; pushed over HTTP.

A test image is one static busybox and whatever files the test gives: an engine can run a shell in it as any user. OCI
image specification 1.1 and its Docker twin ("Image Manifest V 2, Schema 2"); push as in the distribution
specification: HEAD, POST, PUT per blob, then the manifest.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import http.client
import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.support.servers.places import program

DOCKER = {
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "index": "application/vnd.docker.distribution.manifest.list.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "layer": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
OCI = {
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "index": "application/vnd.oci.image.index.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "layer": "application/vnd.oci.image.layer.v1.tar+gzip",
}

Credentials = tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in both forms."""

    blob: bytes = field(repr=False)
    """gzip."""
    diff_id: str
    """Digest of the tar itself."""

    @property
    def digest(self) -> str:
        """Digest of the blob."""
        return digest_of(self.blob)


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform, or an index of some."""

    manifest: bytes = field(repr=False)
    media_type: str
    blobs: Mapping[str, bytes] = field(repr=False)
    """Digest → bytes: configuration and layers. An index has none of its own."""
    children: tuple[Image, ...] = ()
    """Of an index."""

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return digest_of(self.manifest)

    @property
    def config_digest(self) -> str:
        """Digest of the configuration, by which engines of the classic store name the image."""
        digest: str = json.loads(self.manifest)["config"]["digest"]
        return digest

    @property
    def layer_digests(self) -> list[str]:
        """Digests of the layers' blobs, in order."""
        return [layer["digest"] for layer in json.loads(self.manifest)["layers"]]


def digest_of(data: bytes) -> str:
    """``sha256:<hex>``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer_of(files: Mapping[str, bytes], *, links: Mapping[str, str] | None = None, mode: int = 0o644) -> Layer:
    """A layer with ``files`` (path → content, each of ``mode``) and symbolic ``links`` (path → target), all root's and
    without a time: the same in every run."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        for path, target in sorted((links or {}).items()):
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return Layer(gzip.compress(packed.getvalue(), compresslevel=1, mtime=0), digest_of(packed.getvalue()))


@functools.cache
def busybox_layer() -> Layer:
    """A shell and the usual small tools (``sh id cat ls sha256sum find stat`` …) in ``/bin``: one static program."""
    tools = ("sh", "id", "cat", "ls", "sha256sum", "find", "stat", "touch", "true", "sleep", "env")
    links = {f"bin/{tool}": "busybox" for tool in tools}
    return layer_of({"bin/busybox": program("busybox").read_bytes()}, links=links, mode=0o755)


def image_of(
    layers: Sequence[Layer],
    *,
    command: Sequence[str] = ("/bin/sh",),
    architecture: str = "amd64",
    types: Mapping[str, str] = DOCKER,
    labels: Mapping[str, str] | None = None,
) -> Image:
    """An image of ``layers``, lowest first; ``types`` is DOCKER or OCI."""
    config = _document(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "config": {"Cmd": list(command), "Env": ["PATH=/bin"], "Labels": dict(labels or {})},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "tests"} for _ in layers],
        }
    )
    manifest = _document(
        {
            "schemaVersion": 2,
            "mediaType": types["manifest"],
            "config": _descriptor(types["config"], config),
            "layers": [_descriptor(types["layer"], layer.blob) for layer in layers],
        }
    )
    blobs = {digest_of(config): config, **{layer.digest: layer.blob for layer in layers}}
    return Image(manifest, types["manifest"], blobs)


def index_of(images: Mapping[str, Image], *, types: Mapping[str, str] = DOCKER) -> Image:
    """An index of ``images``: architecture → image."""
    manifests = [
        {**_descriptor(image.media_type, image.manifest), "platform": {"os": "linux", "architecture": architecture}}
        for architecture, image in images.items()
    ]
    manifest = _document({"schemaVersion": 2, "mediaType": types["index"], "manifests": manifests})
    return Image(manifest, types["index"], {}, tuple(images.values()))


def push(image: Image, endpoint: str, repository: str, tag: str, *, credentials: Credentials = None) -> str:
    """Push to the registry at ``endpoint``; returns the digest. Blobs that are there already are not sent again."""
    with _Pusher(endpoint, repository, credentials) as pusher:
        for part in (*image.children, image):
            for digest, blob in part.blobs.items():
                pusher.blob(digest, blob)
            pusher.manifest(part.digest if part in image.children else tag, part)
    return image.digest


class _Pusher:
    def __init__(self, endpoint: str, repository: str, credentials: Credentials) -> None:
        parts = urlsplit(endpoint)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self._repository = repository
        self._credentials = credentials
        self._authorization: str | None = None

    def __enter__(self) -> _Pusher:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def blob(self, digest: str, blob: bytes) -> None:
        base = f"/v2/{self._repository}/blobs"
        if self._ask("HEAD", f"{base}/{digest}", expect=(200, 404))[0] == 200:
            return
        place = self._ask("POST", f"{base}/uploads/", expect=(202,))[1]["location"]
        parts = urlsplit(place)
        target = f"{parts.path}?{parts.query}{'&' if parts.query else ''}{urlencode({'digest': digest})}"
        self._ask("PUT", target, blob, {"Content-Type": "application/octet-stream"}, expect=(201,))

    def manifest(self, reference: str, image: Image) -> None:
        target = f"/v2/{self._repository}/manifests/{reference}"
        self._ask("PUT", target, image.manifest, {"Content-Type": image.media_type}, expect=(201,))

    def _ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        expect: Iterable[int],
    ) -> tuple[int, dict[str, str]]:
        status, answered, text = self._send(method, target, body, headers or {})
        if status == 401 and self._credentials is not None and self._authorization is None:
            self._authorization = _authorization(answered["www-authenticate"], self._credentials)
            status, answered, text = self._send(method, target, body, headers or {})
        assert status in expect, f"{method} {target}: {status} {text!r}"
        return status, answered

    def _send(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        sent = {**headers, "Content-Length": str(len(body))}
        if self._authorization is not None:
            sent["Authorization"] = self._authorization
        self._connection.request(method, target, body=body or None, headers=sent)
        with self._connection.getresponse() as response:
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def _authorization(challenge: str, credentials: tuple[str, str]) -> str:
    basic = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
    if challenge.lower().startswith("basic"):
        return basic
    values = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = urlsplit(values["realm"])
    # One token for the whole push: the challenge of the first HEAD names `pull` only.
    repository = values["scope"].rpartition(":")[0]
    query = urlencode({"service": values["service"], "scope": f"{repository}:pull,push"})
    connection = http.client.HTTPConnection(realm.hostname or "", realm.port, timeout=30)
    try:
        connection.request("GET", f"{realm.path}?{query}", headers={"Authorization": basic})
        token = json.loads(connection.getresponse().read())["token"]
    finally:
        connection.close()
    return f"Bearer {token}"


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(data), "digest": digest_of(data)}


def _document(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
