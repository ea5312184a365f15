"""The proof of the guard: a corpus of hostile inputs lived through by one process, and a tracer that sees each address
that this process connects or sends anything to.

The law is stricter than the guard's: whatever the corpus says, this process speaks to 127.0.0.2 and to nobody else.
"""

from __future__ import annotations

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
from tests.trust.hostile_addresses import ALLOWED, DNS_ANSWERS, DNS_TIMES, corpus, dns_cases

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
    return [(ip, port) for ip, port in connects if ip not in (ALLOWED, f"::ffff:{ALLOWED}")]


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
    told = lived_through("--plant", "hole")
    assert strays(told["connects"]) and told["caught"] > 0
    assert any(outcome not in REFUSALS for name, outcome in told["outcomes"].items() if name != "whole")


@pytest.mark.needs("debian:strace")
def test_a_hole_in_the_guard_is_seen_by_the_kernels_tracer(tmp_path: Path) -> None:
    _, connects = traced(tmp_path / "log", "--plant", "hole")
    assert any(ip == "127.0.0.1" for ip, _ in strays(connects))


NAME_SERVER = "127.0.0.53"


@pytest.mark.needs("root", "netns", "mountns", "debian:ip", "debian:strace")
def test_a_name_server_that_changes_its_mind_gains_nothing(tmp_path: Path) -> None:
    told, connects = with_a_name_server(tmp_path)
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in DNS_ANSWERS}
    for case in dns_cases():
        outcomes[case.name.partition(" ")[0]][told["outcomes"][case.name]] += 1
    half = {"ok": DNS_TIMES // 2, "forbidden": DNS_TIMES // 2}
    assert {name: dict(each) for name, each in outcomes.items()} == {
        **{name: {"forbidden": DNS_TIMES} for name, answers in DNS_ANSWERS.items() if len(answers) == 1},
        **{name: half for name, answers in DNS_ANSWERS.items() if len(answers) == 2},
        "flips-late.test": {"ok": DNS_TIMES // 3 * 2, "forbidden": DNS_TIMES // 3},
    }
    assert strays(connects) == [] and told["caught"] == 0


@pytest.mark.needs("root", "netns", "mountns", "debian:ip", "debian:strace")
def test_a_second_look_would_be_seen(tmp_path: Path) -> None:
    told, connects = with_a_name_server(tmp_path, "--plant", "second-look")
    assert ("127.0.0.1", told["both"]) in strays(connects) and told["caught"] > 0


def with_a_name_server(tmp_path: Path, *options: str) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    """Names go through the system's resolver to a server that answers each question otherwise, with a TTL of 0. Had the
    judged name been looked up once more for the connection, every second answer would have led inside."""
    log = tmp_path / "log"
    (tmp_path / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\noptions timeout:2 attempts:1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    (tmp_path / "table").write_text(json.dumps(DNS_ANSWERS))
    script = tmp_path / "run.sh"
    script.write_text(
        "set -e\n"
        "ip link set lo up\n"
        f"for name in resolv.conf nsswitch.conf; do\n"
        f"    if [ -e /etc/$name ]; then mount --bind {tmp_path}/$name /etc/$name; fi\n"
        "done\n"
        f'{sys.executable} -m tests.trust.dns_stub {NAME_SERVER} "$(cat {tmp_path}/table)" > {tmp_path}/said &\n'
        f"for _ in $(seq 100); do if grep -q ready {tmp_path}/said; then break; fi; sleep 0.05; done\n"
        f"strace -f -s 0 -e trace={SYSCALLS} -e signal=none -o {log} "
        f"{sys.executable} -m tests.trust.guard_process --dns {' '.join(options)} || ended=$?\n"
        "kill $!\n"  # strace as the first process would wait for it
        "exit ${ended:-0}\n"
    )
    namespaces = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    done = subprocess.run(
        [*namespaces, "sh", str(script)],
        cwd=CHECKOUT,
        env={**environment(), "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    connects = addresses_of(log.read_text(errors="replace"))
    assert (NAME_SERVER, 53) in connects
    return told, [each for each in connects if each != (NAME_SERVER, 53)]


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
