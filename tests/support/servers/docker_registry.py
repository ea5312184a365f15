"""Debian's ``docker-registry`` (distribution 2.8): a real registry on loopback over a directory, with its log readable
as requests, so that a test can count what was asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.servers.certificates import self_signed
from tests.support.servers.places import program
from tests.support.servers.process import Server, answers_http, free_port, running, server_directory
from tests.support.servers.token_server import SERVICE, token_server

USER = "tester"
PASSWORD = "registry-secret:+/="

# bcrypt of PASSWORD with the least rounds, as the registry wants it; the tool that makes it comes with a web server.
_HTPASSWD = "tester:$2y$04$fetcherfetcherfetchere9JGrQWaGPpw6Wfuq56r15TXf.iJaCn2"

Auth = Literal["none", "basic", "token"]

# "GET /v2/name/blobs/sha256:… HTTP/1.1" 206 1048576
_LOGGED = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" (?P<status>\d{3}) (?P<bytes>\d+)')


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the registry logged it when it was over."""

    method: str
    path: str
    """With its query."""
    status: int
    body_bytes: int
    """Sent in the answer's body."""

    @property
    def is_blob(self) -> bool:
        """Whether a blob's bytes were asked for."""
        return self.method == "GET" and "/blobs/sha256:" in self.path


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """A running registry."""

    port: int
    auth: Auth
    storage: Path
    """Its files; a blob is ``docker/registry/v2/blobs/sha256/ab/<digest>/data`` in it."""
    server: Server

    @property
    def host(self) -> str:
        """As image names start: ``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:port``."""
        return f"http://{self.host}"

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password, where it asks for them."""
        return None if self.auth == "none" else (USER, PASSWORD)

    def requests(self) -> list[Request]:
        """All requests that are over, oldest first. Those of probes for readiness are among them (``GET /``)."""
        return [
            Request(found["method"], found["path"], int(found["status"]), int(found["bytes"]))
            for found in _LOGGED.finditer(self.server.log.read_text(errors="replace"))
        ]

    def blob_requests(self) -> list[Request]:
        """Those for a blob's bytes."""
        return [request for request in self.requests() if request.is_blob]


@contextmanager
def run_docker_registry(
    *,
    auth: Auth = "none",
    redirect_to: str | None = None,
    token_life_s: int = 300,
    public_repositories: tuple[str, ...] = (),
    upstream: str | None = None,
) -> Iterator[DockerRegistry]:
    """A running registry, empty. Takes 0.1 s; needs ``debian:docker-registry``.

    ``redirect_to``: origin to which a GET for a blob is redirected (``<origin>/docker/registry/v2/blobs/…/data``).
    ``token_life_s``: of the tokens, where ``auth`` is ``token``.
    ``public_repositories``: pulled without password there.
    ``upstream``: be a pull-through cache of that registry.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(server_directory("registry"))
        port = free_port()
        storage = directory / "storage"
        settings: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        if auth == "basic":
            passwords = directory / "htpasswd"
            passwords.write_text(_HTPASSWD + "\n")
            settings["auth"] = {"htpasswd": {"realm": "fetcher", "path": str(passwords)}}
        elif auth == "token":
            identity = self_signed(directory, "issuer")
            realm = stack.enter_context(
                token_server(identity, USER, PASSWORD, life_s=token_life_s, public=public_repositories)
            )
            settings["auth"] = {
                "token": {
                    "realm": realm,
                    "service": SERVICE,
                    "issuer": SERVICE,
                    "rootcertbundle": str(identity.certificate),
                }
            }
        if redirect_to is not None:
            settings["middleware"] = {"storage": [{"name": "redirect", "options": {"baseurl": redirect_to}}]}
        if upstream is not None:
            settings["proxy"] = {"remoteurl": upstream}
        configuration = directory / "registry.yml"
        configuration.write_text(json.dumps(settings))  # every JSON document is a YAML document
        server = stack.enter_context(
            running(
                "docker-registry",
                [program("docker-registry"), "serve", configuration],
                directory=directory,
                ready=lambda: answers_http(port),
            )
        )
        yield DockerRegistry(port, auth, storage, server)
