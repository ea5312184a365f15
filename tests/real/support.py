"""What this room shares: the program and real servers, trees by their hashes, and other people's programs as judges.

Knows the command line only, nothing of the product's inside.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tests.support.cli import CommandLine, Completed
from tests.support.servers.images import DOCKER, Image, digest_of
from tests.support.servers.places import program
from tests.support.servers.s3client import S3Server

MIB = 1 << 20
LOOPBACK = "127.0.0.0/8"

Tree = dict[str, str]
"""Relative path → SHA-256 of the file's bytes."""


def tree_of(directory: Path) -> Tree:
    """Every file below ``directory``; anything that is neither file nor folder fails."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            assert stat.S_ISREG(path.lstat().st_mode), f"{path} is no regular file"
            with path.open("rb") as file:
                found[path.relative_to(directory).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def hashes_of(files: Mapping[str, bytes]) -> Tree:
    """What ``tree_of`` has to give for ``files``."""
    return {path: hashlib.sha256(body).hexdigest() for path, body in files.items()}


def noise(size: int, seed: object) -> bytes:
    """``size`` bytes that no other ``seed`` gives."""
    return random.Random(f"{seed}").randbytes(size)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


# --- the program


def s3_environment(server: S3Server, **more: str | None) -> dict[str, str | None]:
    """An operator's environment for ``s3://`` at ``server``, with its keys."""
    return {"AWS_ENDPOINT_URL_S3": server.endpoint, **server.environment, **more}


def job_of(*resources: Mapping[str, Any]) -> dict[str, Any]:
    """A Job Definition of one op."""
    return {
        "version": "0.1",
        "type": "container",
        "ops": [{"type": "container/run", "id": "run", "args": {"image": "x", "resources": list(resources)}}],
    }


def s3_resource(server: S3Server, place: str, target: str = "/data", **more: Any) -> dict[str, Any]:
    """An S3 resource as jobs write it: the URL of a bucket and prefix, and ``IAM``."""
    keys = {"REGION": server.region, "ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
    return {"type": "S3", "url": f"{server.endpoint}/{place}", "target": target, "IAM": keys, **more}


def got(result: Completed) -> dict[str, Any]:
    """The ``snapshot`` event of a ``get --json`` that must have succeeded."""
    assert result.exit_code == 0, result.stdout + result.stderr
    last = result.last
    assert last["event"] == "snapshot"
    return last


def refusal(result: Completed, exit_code: int) -> dict[str, Any]:
    """The one ``error`` event of a run that must have failed so."""
    assert result.exit_code == exit_code, result.stdout + result.stderr
    (error,) = result.events("error")
    return error


def in_cache(run_cli: CommandLine) -> Path:
    """Where the program of this test keeps its things."""
    return run_cli.home() / "cache"


# --- the judges


def rclone_copy(server: S3Server, place: str, target: Path) -> Tree:
    """What ``rclone copy`` makes of ``bucket/prefix``. File names are not to be translated, and no
    object is asked a second time for its date."""
    options = ("--config", "", "--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", server.endpoint)
    plain = ("--s3-encoding", "None", "--local-encoding", "Slash", "--transfers", "8", "--use-server-modtime")
    _judge(program("rclone"), "copy", f":s3:{place}", target, *options, *plain, server=server, home=target.parent)
    return tree_of(target)


def s5cmd_copy(server: S3Server, place: str, target: Path) -> Tree:
    """What ``s5cmd cp`` makes of everything below ``bucket/prefix/``."""
    command = (program("s5cmd"), "--endpoint-url", server.endpoint, "cp", f"s3://{place}*", f"{target}/")
    _judge(*command, server=server, home=target.parent)
    return tree_of(target)


def _judge(*command: str | Path, server: S3Server, home: Path) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        env={"PATH": os.defpath, "HOME": str(home), **server.environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def as_url(key: str) -> str:
    """A key as it stands in a URL."""
    return quote(key, safe="/-_.~")


def swift_read_acl(server: S3Server, bucket: str, acl: str) -> None:
    """Set who may read a container, in Swift's own tongue, as its owner."""
    parts = urlsplit(server.endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        user = {"X-Auth-User": server.access_key or "", "X-Auth-Key": server.secret_key}
        connection.request("GET", "/auth/v1.0", headers=user)
        with connection.getresponse() as answer:
            answer.read()
            token = answer.headers["X-Auth-Token"]
            account = urlsplit(answer.headers["X-Storage-Url"]).path
        headers = {"X-Auth-Token": token, "X-Container-Read": acl}
        connection.request("POST", f"{account}/{bucket}", headers=headers)
        with connection.getresponse() as answer:
            answer.read()
            assert answer.status == 204, answer.status
    finally:
        connection.close()


# --- registries


def model_of(*layers: tuple[str, bytes]) -> Image:
    """An Ollama model of layers (kind, content), as ``ollama push`` would send it."""
    config = json.dumps({"model_format": "gguf", "architecture": "amd64", "os": "linux"}).encode()
    kinds = ["application/vnd.docker.container.image.v1+json"]
    kinds += [f"application/vnd.ollama.image.{kind}" for kind, _ in layers]
    bodies = [config, *(body for _, body in layers)]
    rows = [
        {"mediaType": kind, "digest": digest_of(body), "size": len(body)}
        for kind, body in zip(kinds, bodies, strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": DOCKER["manifest"], "config": rows[0], "layers": rows[1:]}
    return Image(json.dumps(document).encode(), DOCKER["manifest"], {digest_of(body): body for body in bodies})


def connected(port: int) -> bool:
    """Whether anybody has a connection to this loopback port."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if int(local.rpartition(":")[2], 16) == port and state == "01":
            return True
    return False
