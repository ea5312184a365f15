"""A running container engine as tests use it, over its socket: Docker's API, and of Podman's own what that lacks."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.support.servers.process import Server

# Podman asks for a million open files and processes where nothing is said, which a machine may not allow even to root
# ("error setting rlimits for ready process"); small numbers go everywhere.
_LIMITS = [{"Name": "nofile", "Soft": 1024, "Hard": 1024}, {"Name": "nproc", "Soft": 1024, "Hard": 1024}]


class EngineError(RuntimeError):
    """An engine's refusal, in its own words; also one that arrives inside a stream that began with 200."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine with state of its own."""

    kind: str
    """``docker`` or ``podman``."""
    socket: Path
    directory: Path
    """All its files; an image's layers are ``root`` in it."""
    server: Server

    @property
    def host(self) -> str:
        """As DOCKER_HOST and CONTAINER_HOST take it."""
        return f"unix://{self.socket}"

    @classmethod
    def answers(cls, path: Path) -> bool:
        """Whether an engine at this socket answers a ping."""
        connection = _UnixConnection(path, timeout_s=5)
        try:
            connection.request("GET", "/_ping")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        document: Any = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 50.0,
    ) -> bytes:
        """One request; the whole body of its answer. Raises EngineError for a status of 400 and more."""
        sent = dict(headers or {})
        if document is not None:
            body = json.dumps(document).encode()
            sent["Content-Type"] = "application/json"
        connection = _UnixConnection(self.socket, timeout_s=timeout_s)
        try:
            connection.request(method, f"{path}?{urlencode(query)}" if query else path, body=body or None, headers=sent)
            with connection.getresponse() as response:
                answered = response.read()
                if response.status >= 400:
                    raise EngineError(f"{method} {path}: {response.status} {answered.decode(errors='replace')}")
                return answered
        finally:
            connection.close()

    def names(self) -> set[str]:
        """The names of all images, as the engine spells them."""
        return {name for image in json.loads(self.ask("GET", "/images/json")) for name in image["RepoTags"] or []}

    def inspect(self, image: str) -> dict[str, Any] | None:
        """What the engine knows of an image; None where there is none."""
        try:
            known: dict[str, Any] = json.loads(self.ask("GET", f"/images/{quote(image, safe='/:@')}/json"))
        except EngineError as error:
            if ": 404 " in str(error):
                return None
            raise
        return known

    def pull(self, name: str, *, credentials: tuple[str, str] | None = None) -> None:
        """The engine's own pull, over plain http where the registry is on loopback."""
        headers = {}
        if credentials is not None:
            given = json.dumps({"username": credentials[0], "password": credentials[1]}).encode()
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(given).decode()
        if self.kind == "podman":
            query = {"reference": name, "tlsVerify": "false"}
            stream = self.ask("POST", "/v4.0.0/libpod/images/pull", query=query, headers=headers)
        else:
            stream = self.ask("POST", "/images/create", query={"fromImage": name}, headers=headers)
        for line in stream.splitlines():
            told = json.loads(line)
            if error := told.get("error"):
                raise EngineError(f"pull of {name}: {error}")

    def remove(self, image: str) -> None:
        """Remove an image's name, and the image with its last one."""
        self.ask("DELETE", f"/images/{quote(image, safe='/:@')}", query={"force": "true"})

    def run(
        self,
        image: str,
        *command: str,
        mounts: Mapping[str | Path, str] | None = None,
        read_only: bool = True,
        user: int = 1000,
        timeout_s: float = 50.0,
    ) -> Ended:
        """Run a container to its end, without network, and remove it. ``mounts``: directory of the host → place in the
        container; it is a bind mount, as ``--mount type=bind`` makes it."""
        container = self.create(image, *command, mounts=mounts, read_only=read_only, user=user)
        try:
            self.ask("POST", f"/containers/{container}/start")
            ended = json.loads(self.ask("POST", f"/containers/{container}/wait", timeout_s=timeout_s))
            stdout, stderr = self.output(container)
        finally:
            self.ask("DELETE", f"/containers/{container}", query={"force": "true"})
        return Ended(ended["StatusCode"], stdout, stderr)

    def create(
        self,
        image: str,
        *command: str,
        mounts: Mapping[str | Path, str] | None = None,
        read_only: bool = True,
        user: int = 1000,
    ) -> str:
        """A container that has not begun; returns its id. ``ask("POST", f"/containers/{id}/start")`` begins it."""
        document = {
            "Image": image,
            "Cmd": list(command),
            "User": str(user),
            "HostConfig": {
                "NetworkMode": "none",
                "Ulimits": _LIMITS,
                "Mounts": [
                    {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}
                    for source, target in (mounts or {}).items()
                ],
            },
        }
        container: str = json.loads(self.ask("POST", "/containers/create", document=document))["Id"]
        return container

    def remove_containers(self) -> None:
        """End and remove every container."""
        for container in json.loads(self.ask("GET", "/containers/json", query={"all": "true"})):
            self.ask("DELETE", f"/containers/{container['Id']}", query={"force": "true"})

    def output(self, container: str) -> tuple[str, str]:
        """stdout and stderr, taken apart: frames of 8 bytes (stream, length) and their content."""
        stream = self.ask("GET", f"/containers/{container}/logs", query={"stdout": "true", "stderr": "true"})
        apart: dict[int, bytes] = {1: b"", 2: b""}
        offset = 0
        while offset + 8 <= len(stream):
            size = int.from_bytes(stream[offset + 4 : offset + 8], "big")
            apart[stream[offset]] += stream[offset + 8 : offset + 8 + size]
            offset += 8 + size
        return apart[1].decode(errors="replace"), apart[2].decode(errors="replace")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, *, timeout_s: float) -> None:
        super().__init__("engine", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
