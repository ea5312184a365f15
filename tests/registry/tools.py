"""What the registry's tests share: a clock that stands still, pulling like a patient client, and Debian's registry."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from fetcher.testing.registry import Registry, Repository
from fetcher.testing.registry import media as types
from tests.hub.raw import Answer, fetch

EVERY_TYPE = ", ".join((types.DOCKER_MANIFEST, types.DOCKER_LIST, types.OCI_MANIFEST, types.OCI_INDEX))


class Clock:
    """Unix seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


def basic(name: str, password: str) -> str:
    """Return the Authorization header of a login."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def manifest(registry: Registry, name: str, reference: str = "latest", method: str = "GET", **headers: str) -> Answer:
    """Ask for a manifest as a client that takes every type."""
    url = f"{registry.endpoint}/v2/{name}/manifests/{reference}"
    return fetch(url, method=method, headers={"Accept": EVERY_TYPE, **headers})


def token(registry: Registry, *scopes: str, login: str | None = None) -> str:
    """Get a token for ``repository:…:pull`` scopes."""
    query = "&".join(["service=embedded-registry", *(f"scope={quote(scope)}" for scope in scopes)])
    answer = fetch(f"{registry.token_url}?{query}", headers={"Authorization": login} if login else {})
    assert answer.status == 200, answer.body
    text: str = answer.json["token"]
    return text


def bearer(registry: Registry, name: str, login: str | None = None) -> dict[str, str]:
    """Return the headers of somebody who has just got a token for ``name``."""
    return {"Authorization": f"Bearer {token(registry, f'repository:{name}:pull', login=login)}"}


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def code(answer: Answer) -> str:
    """Return the error code of a refusal."""
    text: str = answer.json["errors"][0]["code"]
    return text


@contextmanager
def debian_registry(directory: Path, auth: str = "") -> Iterator[str]:
    """Run Debian's docker-registry on a free port until the block is left; yields its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = directory / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {directory / 'data'}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{auth}"
    )
    with subprocess.Popen(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    fetch(f"http://127.0.0.1:{port}/v2/")
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def push(endpoint: str, repository: Repository) -> None:
    """Put everything a repository of ours holds into a real registry, byte for byte."""
    for digest, content in repository.blobs.items():
        opened = fetch(f"{endpoint}/v2/{repository.name}/blobs/uploads/", method="POST")
        assert opened.status == 202
        location = re.sub(r"^http://[^/]+", endpoint, opened.headers["location"])
        headers = {"Content-Type": "application/octet-stream"}
        done = fetch(f"{location}&digest={digest}", method="PUT", headers=headers, body=content.read())
        assert done.status == 201, done.body
    indexes = {types.DOCKER_LIST, types.OCI_INDEX}
    for made in sorted(repository.manifests.values(), key=lambda made: made.media_type in indexes):
        names = [tag for tag, digest in repository.tags.items() if digest == made.digest]
        for reference in [made.digest, *names]:
            url = f"{endpoint}/v2/{repository.name}/manifests/{reference}"
            done = fetch(url, method="PUT", headers={"Content-Type": made.media_type}, body=made.body)
            assert done.status == 201, json.loads(done.body)
            assert done.headers["docker-content-digest"] == made.digest
