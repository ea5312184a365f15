"""Containers as a node starts them: by the engine's own program, with the mounts that ours printed, as anybody.

Knows no resource and no cache.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from tests.real.support import Tree
from tests.support.servers.docker_registry import DockerRegistry
from tests.support.servers.engine import Ended, Engine
from tests.support.servers.images import busybox_layer, image_of, push
from tests.support.servers.places import program, program_path

USER = "1000:1000"
# Podman asks for more than a machine may allow even to root, where nothing is said.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


def shell_image(engine: Engine, registry: DockerRegistry) -> str:
    """A hand-made image with a shell in it, present in the engine; returns its name."""
    name = f"{registry.host}/e2e/shell:v1"
    if engine.inspect(name) is None:
        push(image_of([busybox_layer()]), registry.endpoint, "e2e/shell", "v1")
        engine.pull(name)
    return name


def run(engine: Engine, image: str, arguments: Sequence[str], script: str, *, user: str = USER) -> Ended:
    """``docker run`` (or Podman's) of a shell, without network, with ``arguments`` as they are pasted into a command
    line: each line is some words."""
    words = [word for line in arguments for word in shlex.split(line)]
    at = ("--host", engine.host) if engine.kind == "docker" else ("--remote", "--url", engine.host)
    done = subprocess.run(
        [
            *(str(program(engine.kind)), *at, "run", "--rm", "--network", "none", "--user", user, *_LIMITS),
            *(*words, image, "sh", "-c", script),
        ],
        env={"PATH": program_path(), "HOME": str(engine.directory)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def read_all(engine: Engine, image: str, arguments: Sequence[str], target: str) -> Tree:
    """Path below ``target`` → SHA-256, as a container with these mounts reads it."""
    ended = run(engine, image, arguments, f"cd {shlex.quote(target)} && find . -type f -exec sha256sum {{}} +")
    assert (ended.exit_code, ended.stderr) == (0, "")
    pairs = [line.split("  ./", 1) for line in ended.stdout.splitlines()]
    return {path: digest for digest, path in pairs}
