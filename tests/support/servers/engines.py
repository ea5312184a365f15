"""Private container engines: Docker's daemon and Podman's service, each over a unix socket, with roots and state of its
own. They know nothing of the machine's engines, make no bridge and no firewall rule, and reach loopback only.

Root only. Containers are run with ``--network none``. What an engine leaves when it ends (Podman: a mount of its store;
either, when killed: shims and containers too) is taken away, by its directory's name and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers.engine import Engine
from tests.support.servers.places import program
from tests.support.servers.process import running, server_directory
from tests.support.servers.sweep import cgroups_named, remove_cgroups, sweep

# Names of the Hub that Podman can be told to take from elsewhere; dockerd knows the first only.
_HUB = ("docker.io", "registry.hub.docker.com")

# Whatever an engine wants from the network beyond loopback meets a closed door at once, instead of a slow DNS server.
_NO_NETWORK = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


@contextmanager
def run_dockerd(*, hub: str | None = None) -> Iterator[Engine]:
    """A running dockerd, empty. Takes 0.3 to 1.5 s; needs ``dockerd`` (tests/support/needs.py).

    ``hub``: ``host:port`` of a registry on loopback that is asked for ``docker.io``. Any registry on 127.0.0.0/8 may be
    pulled from over plain http.
    """
    with server_directory("dockerd") as directory:
        name = directory.name
        namespace = name.replace("_", "0")  # containerd takes no underscore at either end of a word
        configuration = directory / "daemon.json"
        configuration.write_text("{}")
        socket = directory / "docker.sock"
        command: list[str | Path] = [
            program("dockerd"),
            *("--config-file", configuration),
            *("--data-root", directory / "root"),
            *("--exec-root", directory / "exec"),
            *("--host", f"unix://{socket}"),
            *("--pidfile", directory / "pid"),
            *("--containerd-namespace", namespace, "--containerd-plugins-namespace", f"{namespace}-plugins"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{name}"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
        ]
        if hub is not None:
            command += ["--registry-mirror", f"http://{hub}"]
        yield from _engine("docker", directory, socket, command, _NO_NETWORK)
        remove_cgroups(cgroups_named(name))


@contextmanager
def run_podman(*, hub: str | None = None, insecure: tuple[str, ...] = ()) -> Iterator[Engine]:
    """A running ``podman system service``, empty. Takes 0.2 s; needs ``podman`` (tests/support/needs.py).

    ``hub``: ``host:port`` of a registry on loopback that is asked for what is named as the Hub's. ``insecure``:
    registries that may be pulled from over plain http, besides it; elsewhere a pull must say ``tlsVerify=false``.
    """
    with server_directory("podman") as directory:
        socket = directory / "podman.sock"
        command: list[str | Path] = [
            program("podman"),
            *("--root", directory / "root"),
            *("--runroot", directory / "run"),
            *("--tmpdir", directory / "state"),
            *("--runtime-flag", f"root={directory / 'runtime'}"),
            *("system", "service", "--time=0", f"unix://{socket}"),
        ]
        before = cgroups_named("libpod_parent")
        yield from _engine(
            "podman", directory, socket, command, {**_NO_NETWORK, **_podman_files(directory, hub, insecure)}
        )
        remove_cgroups([path for path in cgroups_named("libpod_parent") if path not in before])


def _engine(
    kind: str, directory: Path, socket: Path, command: list[str | Path], environment: Mapping[str, str]
) -> Iterator[Engine]:
    try:
        with running(
            kind,
            command,
            directory=directory,
            environment=environment,
            ready=lambda: Engine.answers(socket),
        ) as server:
            engine = Engine(kind, socket, directory, server)
            try:
                yield engine
            finally:
                if server.running:
                    engine.remove_containers()  # a shell that runs as pid 1 would have both wait for ten seconds
    finally:
        sweep(directory)


def _podman_files(directory: Path, hub: str | None, insecure: tuple[str, ...]) -> dict[str, str]:
    """Its whole configuration, so that the machine's does not count; returns where it is told of."""
    files = {
        # Locks in files: those in shared memory are one set for the whole machine.
        "containers.conf": '[containers]\nnetns = "none"\nlog_driver = "k8s-file"\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nlock_type = "file"\n',
        "storage.conf": '[storage]\ndriver = "overlay"\n'
        f"graphroot = {json.dumps(str(directory / 'root'))}\nrunroot = {json.dumps(str(directory / 'run'))}\n",
        "registries.conf": "".join(
            [
                *(f'[[registry]]\nprefix = "{name}"\nlocation = "{hub}"\ninsecure = true\n' for name in _HUB if hub),
                *(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n' for host in insecure),
            ]
        ),
        ".config/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {
        "CONTAINERS_CONF": str(directory / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(directory / "registries.conf"),
    }
