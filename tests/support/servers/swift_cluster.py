"""A whole OpenStack Swift in four processes: ``python -m tests.support.servers.swift_cluster SETTINGS`` (a JSON file).

Started by swift.py. One interpreter imports Swift once, builds the rings in memory and forks the four servers, which
takes about a second instead of the 14 s of thirteen separate programs. All four stay in this process's group.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from swift.account import server as _account_server  # noqa: F401  (imported here once, used by all after the fork)
from swift.common import wsgi
from swift.common.ring.builder import RingBuilder
from swift.container import server as _container_server  # noqa: F401
from swift.obj import server as _object_server  # noqa: F401
from swift.proxy import server as _proxy_server  # noqa: F401

from tests.support.servers.swift import STORES

_PR_SET_PDEATHSIG = 1

_PIPELINE = (
    *("catch_errors", "gatekeeper", "healthcheck", "cache", "listing_formats", "bulk", "s3api", "tempauth"),
    *("copy", "slo", "dlo", "symlink", "versioned_writes"),
)


def _section(name: str, values: dict[str, object]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in values.items()), "", ""])


def _common(directory: Path, port: int) -> dict[str, object]:
    return {
        "bind_ip": "127.0.0.1",
        "bind_port": port,
        "workers": 0,
        "swift_dir": directory,
        # Patience, on a machine with all cores busy: an object server that has waited a second for the container server
        # leaves the listing to a daemon that does not run here, and the object would be in no listing, ever.
        "conn_timeout": 30,
        "node_timeout": 30,
        "container_update_timeout": 30,
        # To stderr, which is our log; to the machine's syslog nothing, so its place is a port where nobody listens.
        "log_level": "WARNING",
        "log_udp_host": "127.0.0.1",
        "log_udp_port": 9,
    }


def write_configuration(
    directory: Path, ports: dict[str, int], access_key: str, secret_key: str, reader: tuple[str, str]
) -> None:
    """swift.conf and one file per server. The access key ``test:tester`` is account and user of tempauth."""
    swift = _section("swift-hash", {"swift_hash_path_suffix": "fetcher"})
    swift += _section("storage-policy:0", {"name": "p0", "default": "yes"})
    (directory / "swift.conf").write_text(swift)
    for store in STORES:
        text = _section(
            "DEFAULT",
            {
                **_common(directory, ports[store]),
                "devices": directory / "devices",
                "mount_check": "false",
                "fallocate_reserve": 0,
            },
        )
        text += _section("pipeline:main", {"pipeline": f"{store}-server"})
        text += _section(f"app:{store}-server", {"use": f"egg:swift#{store}"})
        (directory / f"{store}.conf").write_text(text)
    text = _section("DEFAULT", _common(directory, ports["proxy"]))
    text += _section("pipeline:main", {"pipeline": " ".join([*_PIPELINE, "proxy-server"])})
    text += _section("app:proxy-server", {"use": "egg:swift#proxy", "account_autocreate": "true"})
    options: dict[str, dict[str, object]] = {
        "cache": {"use": "call:tests.support.servers.swift_cache:filter_factory"},
        "s3api": {"s3_acl": "false", "location": "us-east-1"},
        "tempauth": {
            f"user_{access_key.replace(':', '_')}": f"{secret_key} .admin",
            f"user_{reader[0].replace(':', '_')}": reader[1],
        },
        "versioned_writes": {"allow_versioned_writes": "true", "allow_object_versioning": "true"},
    }
    for name in _PIPELINE:
        text += _section(f"filter:{name}", {"use": f"egg:swift#{name}", **options.get(name, {})})
    (directory / "proxy.conf").write_text(text)


def build_rings(directory: Path, ports: dict[str, int]) -> None:
    """One device, one replica, 16 partitions per ring."""
    for store in STORES:
        builder = RingBuilder(4, 1, 0)
        builder.add_dev(
            {
                **{"region": 1, "zone": 1, "weight": 1.0, "device": "d1"},
                **{"ip": "127.0.0.1", "port": ports[store]},
                **{"replication_ip": "127.0.0.1", "replication_port": ports[store]},
            }
        )
        builder.rebalance(seed=1)
        builder.get_ring().save(str(directory / f"{store}.ring.gz"))
    (directory / "devices" / "d1").mkdir(parents=True)


def _serve(directory: Path, name: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # not inherited over the fork
    # It would make each server the leader of a session of its own, out of reach of whoever stops our group.
    wsgi.clean_up_daemon_hygiene = lambda: None
    sys.exit(wsgi.run_wsgi(str(directory / f"{name}.conf"), f"{name}-server", verbose=True))


def main(settings_path: str) -> None:
    """Serve until told to end."""
    settings = json.loads(Path(settings_path).read_text())
    directory = Path(settings["directory"])
    ports = settings["ports"]
    write_configuration(directory, ports, settings["access_key"], settings["secret_key"], settings["reader"])
    build_rings(directory, ports)
    for store in STORES:
        if os.fork() == 0:
            _serve(directory, store)
    _serve(directory, "proxy")


if __name__ == "__main__":
    main(sys.argv[1])
