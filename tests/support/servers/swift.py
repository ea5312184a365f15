"""OpenStack Swift with its S3 face: the strict one of the S3 servers (checks signatures and clocks, keeps every key,
honours If-Match, computes multipart ETags). What it can't: anonymous access, checksums on answers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.cli import CHECKOUT, ORDINARY_UID, User
from tests.support.servers.places import parent_with_xattrs
from tests.support.servers.process import accepts, answers_http, free_port, running, server_directory
from tests.support.servers.s3client import S3Server

ACCESS_KEY = "test:tester"
"""Account and user of Swift's tempauth: a key id with a colon in it."""
SECRET_KEY = "swift-secret+/="
READER = ("test:reader", "reader-secret+/=")
"""Another user of the same account: may do what a container's ACL says, and no more."""

STORES = ("account", "container", "object")


@contextmanager
def run_swift(*, user: User = "current") -> Iterator[S3Server]:
    """A running Swift, empty. Takes 1 to 2 s; needs ``swift`` (tests/support/needs.py)."""
    with server_directory("swift", parent=parent_with_xattrs(), user=user) as directory:
        ports = {name: free_port() for name in (*STORES, "proxy")}
        settings = directory / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    **{"directory": str(directory), "ports": ports, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY},
                    "reader": READER,
                }
            )
        )
        settings.chmod(0o600)
        if user == "ordinary":
            os.chown(settings, ORDINARY_UID, ORDINARY_UID)
        with running(
            "swift",
            [sys.executable, "-m", "tests.support.servers.swift_cluster", settings],
            directory=directory,
            environment={"PYTHONPATH": str(CHECKOUT), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            ready=lambda: (
                answers_http(ports["proxy"], "/healthcheck", status=200)
                and all(accepts(ports[store]) for store in STORES)
            ),
            user=user,
        ) as server:
            yield S3Server(
                endpoint=f"http://127.0.0.1:{ports['proxy']}",
                access_key=ACCESS_KEY,
                secret_key=SECRET_KEY,
                region="us-east-1",
                server=server,
            )
