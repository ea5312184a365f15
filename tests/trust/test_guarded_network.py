"""The proof of the guard: a corpus of hostile inputs lived through by one process, and a tracer that sees each address
that this process connects or sends anything to.

The law is stricter than the guard's: whatever the corpus says, this process speaks to 127.0.0.2 and to nobody else.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import CHECKOUT
from tests.trust.hostile_addresses import ALLOWED, corpus

CASES = corpus()
WHOLE_RESOURCES = [case for case in CASES if case.road != "send"]
REFUSALS = ("forbidden", "resource")
TYPED = (*REFUSALS, "not_found", "denied", "transport", "ok")
SYSCALLS = "connect,sendto,sendmsg,sendmmsg"

_V4 = re.compile(r'sa_family=AF_INET, sin_port=htons\((\d+)\), sin_addr=inet_addr\("([0-9.]+)"\)')
_V6 = re.compile(r'sa_family=AF_INET6, sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([0-9a-f:.]+)"')


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(("FETCHER_NATIVE", "TMPDIR"))}
    return {**kept, "PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8", "PYTHONPATH": str(CHECKOUT)}


def lived_through(*options: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the process tells of its life."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.trust.guard_process", *options],
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    return told


def traced(log: Path, *options: str) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    """The same under strace; and where it connected or sent to, as the kernel was told."""
    command = (
        "strace",
        "-f",
        "--seccomp-bpf",
        "-s",
        "0",
        "-e",
        f"trace={SYSCALLS}",
        "-e",
        "signal=none",
        "-o",
        str(log),
    )
    told = lived_through(*options, prefix=command)
    return told, addresses_of(log.read_text(errors="replace"))


def addresses_of(text: str) -> list[tuple[str, int]]:
    """Every internet address in a log, in order: of connects, and of datagrams that name their own."""
    found = []
    for line in text.splitlines():
        if "AF_INET" in line:
            matches = _V4.findall(line) or _V6.findall(line)
            assert matches, line  # an address that this can't read is no address that was not there
            found += [(ip, int(port)) for port, ip in matches]
    return found


def strays(connects: list[Any]) -> list[tuple[str, int]]:
    """Connections to anybody else."""
    return [(ip, port) for ip, port in connects if ipaddress.ip_address(ip) != ipaddress.ip_address(ALLOWED)]


def check_outcomes(outcomes: dict[str, str]) -> None:
    wrong = {}
    for case in CASES:
        allowed = {"refused": REFUSALS, "any": TYPED, "ok": ("ok",)}[case.outcome]
        if outcomes[case.name] not in allowed:
            wrong[case.name] = outcomes[case.name]
    assert not wrong
    assert outcomes["whole"] == "ok"


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(CASES) == len({case.name for case in CASES}) >= 400
    assert len(WHOLE_RESOURCES) >= 100
    assert set(Counter(case.road for case in WHOLE_RESOURCES)) == {
        *("s3", "ollama", "api-redirect", "body-redirect", "s3-redirect", "next-link", "realm"),
    }


@pytest.mark.parametrize("loop", [(), ("--asyncio",)], ids=["uvloop", "asyncio"])
def test_nobody_inside_is_reached(loop: tuple[str, ...]) -> None:
    """As Python sees it, which any user can look at."""
    told = lived_through(*loop)
    check_outcomes(told["outcomes"])
    assert strays(told["connects"]) == []
    assert told["caught"] == 0
    assert len(told["connects"]) > 20  # it did speak, to whom it may


@pytest.mark.needs("debian:strace")
@pytest.mark.parametrize("loop", [(), ("--asyncio",)], ids=["uvloop", "asyncio"])
def test_the_kernel_was_asked_to_reach_nobody_inside(loop: tuple[str, ...], tmp_path: Path) -> None:
    told, connects = traced(tmp_path / "log", *loop)
    check_outcomes(told["outcomes"])
    assert strays(connects) == []
    assert told["caught"] == 0
    # The tracer saw all that Python saw: it did look.
    assert Counter((ip, port) for ip, port in told["connects"]) == Counter(connects)


def test_a_hole_in_the_guard_is_seen() -> None:
    told = lived_through("--plant")
    assert strays(told["connects"]) and told["caught"] > 0
    assert any(outcome not in REFUSALS for name, outcome in told["outcomes"].items() if name != "whole")


@pytest.mark.needs("debian:strace")
def test_a_hole_in_the_guard_is_seen_by_the_kernels_tracer(tmp_path: Path) -> None:
    _, connects = traced(tmp_path / "log", "--plant")
    assert any(ip == "127.0.0.1" for ip, _ in strays(connects))


def test_how_a_log_is_read() -> None:
    log = """
12 connect(5, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("10.0.0.1")}, 16) = -1 EINPROGRESS (x)
12 connect(5, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "::ffff:127.0.0.1", &sin6_addr), sin6_scope_id=0}, 28) = 0
12 connect(3, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT (No such file)
13 sendto(5, ""..., 96, 0, NULL, 0) = 96
13 sendto(5, ""..., 96, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.168.1.1")}, 16) = 96
14 connect(6, {sa_family=AF_INET, sin_port=htons(81), sin_addr=inet_addr("127.0.0.2")}, 16 <unfinished ...>
14 <... connect resumed>) = 0
"""  # noqa: E501 - lines as strace writes them
    found = addresses_of(log)
    assert found == [("10.0.0.1", 80), ("::ffff:127.0.0.1", 443), ("192.168.1.1", 53), (ALLOWED, 81)]
    assert strays(found) == found[:3]
    with pytest.raises(AssertionError):
        addresses_of("1 connect(5, {sa_family=AF_INET, sin_port=?}, 16) = 0")
