"""Which addresses may be reached: tables of addresses and of notations. The transport's use of it is in
test_transport."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.errors import ForbiddenError
from fetcher.net import own_addresses
from fetcher.net.guard import Guard, canonical_literal, special
from tests.support.cli import CHECKOUT


def words(text: str) -> list[str]:
    return text.split()


PUBLIC = words("""
1.1.1.1 8.8.8.8 3.160.0.1 18.165.0.1 99.255.255.255 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 191.255.255.255 192.0.1.1 192.0.3.1 192.167.255.255 192.169.0.1
198.17.255.255 198.20.0.1 198.51.99.255 203.0.112.255 203.0.114.1 223.255.255.255 9.255.255.255 11.0.0.0 168.63.129.17
2606:4700::1111 2a00:1450:4001::1 2001:200::1 2001:4860:4860::8888 2003::1 3ffe:ffff::1 2620:1ec::1 ::ffff:8.8.8.8
64:ff9b::8.8.8.8
2001:470:1:2:0:5efe:8.8.8.8 2001:470:1:2:200:5efe:8.8.8.8 2001:470:1:2:0:5eff:10.0.0.1 2620:4f:8001::1
""")

SPECIAL = words("""
0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.0.0.1 10.255.255.255 100.64.0.0 100.64.0.1 100.100.100.200 100.127.255.255
127.0.0.0 127.0.0.1 127.1.2.3 127.255.255.255 169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 172.16.0.0
172.17.0.1 172.31.255.255 192.0.0.0 192.0.0.1 192.0.0.8 192.0.0.192 192.0.0.255 192.0.2.1 192.31.196.1 192.52.193.1
192.88.99.1 192.168.0.0 192.168.0.1 192.168.255.255 192.175.48.1 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.9
224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.254 255.255.255.255 168.63.129.16 :: ::1 ::2 ::127.0.0.1 ::8.8.8.8
::ffff:0.0.0.0 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::7f00:1 64:ff9b:1::1 64:ff9b:1::8.8.8.8 100::1 2001::1
2001:0:7f00:1::1 2001:0:53aa:64c::1 2001:1::1 2001:2::1 2001:10::1 2001:20::1 2001:1ff:ffff::1 2001:db8::1
2002:7f00:1:: 2002:a00:1:: 2002:808:808::1 3fff::1 3fff:fff::1 4000::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254
fd20:ce::254 fdff:ffff::1 fe80::1 fe80::1%1 fe80::1%eth0 2606:4700::1111%1 febf::1 fec0::1 feff::1 ff00::1 ff02::1
ff05::2 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 1::1 1000::1 8000::1 e000::1
2001:470:1:2:0:5efe:10.0.0.1 2001:470:1:2:200:5efe:127.0.0.1 2001:470:1:2:0:5efe:a9fe:a9fe 2620:4f:8000::1
""")

NOT_ADDRESSES = [
    "",
    "localhost",
    "127.1",
    "127.0.0.1 ",
    "127.0.0.1.",
    "0x7f.0.0.1",
    "2130706433",
    "1.2.3",
    "1.2.3.4.5",
    ":::",
]


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_may_be_reached_over_https_only(ip: str) -> None:
    guard = Guard()
    assert guard.judge(ip) is None
    assert guard.judge_endpoint(ip, 443, "https") is None
    assert guard.judge_endpoint(ip, 8443, "https") is None
    assert "https" in str(guard.judge_endpoint(ip, 80, "http"))
    assert "https" in str(guard.judge_endpoint(ip, 443, "http"))


@pytest.mark.parametrize("ip", SPECIAL + NOT_ADDRESSES)
def test_special_addresses_may_not(ip: str) -> None:
    assert Guard().judge(ip)
    assert Guard().judge_endpoint(ip, 443, "https")


@pytest.mark.parametrize(("port", "allowed"), [(443, True), (1024, True), (65535, True), (8443, True)])
def test_ports_of_public_addresses(port: int, allowed: bool) -> None:
    assert (Guard().judge_endpoint("1.1.1.1", port, "https") is None) is allowed


@pytest.mark.parametrize("port", [1, 22, 25, 80, 389, 442, 444, 445, 587, 1023])
def test_privileged_ports_of_public_addresses(port: int) -> None:
    assert "port" in str(Guard().judge_endpoint("1.1.1.1", port, "https"))


@pytest.mark.parametrize(
    ("ip", "word"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("fd12::1", "private"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("100.64.0.1", "carrier-grade"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::10.0.0.1", "private"),
        ("2002:7f00:1::", "6to4"),
        ("2001:0:1::", "Teredo"),
        ("240.0.0.1", "reserved"),
    ],
)
def test_the_reason_names_what_it_is(ip: str, word: str) -> None:
    assert word in str(special(ip))


def test_the_allow_list_opens_what_it_holds_and_nothing_else() -> None:
    guard = Guard(("10.1.0.0/16", "fd00:1::/64", "127.0.0.1/32"))
    for ip in ("10.1.0.1", "10.1.255.255", "fd00:1::7", "127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"):
        assert guard.judge(ip) is None
        assert guard.judge_endpoint(ip, 80, "http") is None
        assert guard.judge_endpoint(ip, 22, "http") is None
    for ip in ("10.2.0.1", "10.0.255.255", "fd00:1:0:1::7", "127.0.0.2", "::1", "169.254.169.254", "::ffff:10.2.0.1"):
        assert guard.judge(ip)
    assert guard.judge_endpoint("1.1.1.1", 80, "http")


def test_an_allowed_public_network_may_speak_plain_http() -> None:
    assert Guard(("1.1.1.0/24",)).judge_endpoint("1.1.1.1", 80, "http") is None


def test_a_network_of_mapped_addresses_is_not_the_network_itself() -> None:
    guard = Guard(("::ffff:0:0/96",))
    assert guard.judge("::ffff:10.0.0.1") is None
    assert guard.judge("10.0.0.1")


@given(st.integers(0, 2**32 - 1))
def test_no_ipv4_address_python_calls_private_is_let_through(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    if not address.is_global or address.is_multicast:
        assert special(str(address))


@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**64).map(lambda low: (0x2001 << 112) | low))
def test_no_ipv6_address_python_calls_private_is_let_through(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if (not address.is_global or address.is_multicast) and address.ipv4_mapped is None:
        assert special(str(address))


@pytest.mark.parametrize("text", ["localhost", "127.1", "", "rubbish", "::1%lo", "a\0b", "1.2.3.4.5", "[::1]"])
def test_what_is_no_address_is_nobodys_own_and_is_not_looked_up(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_addresses, "_can_bind", lambda family, ip: pytest.fail("it would be looked up"))
    assert not own_addresses.is_own(text)


LITERALS = [
    ("127.0.0.1", "127.0.0.1"),
    ("8.8.8.8", "8.8.8.8"),
    ("::1", "::1"),
    ("2001:DB8::1", "2001:db8::1"),
    ("::ffff:7f00:1", "::ffff:7f00:1"),
    ("0:0:0:0:0:0:0:1", "::1"),
    ("::ffff:127.0.0.1", "::ffff:7f00:1"),
]


@pytest.mark.parametrize(("host", "literal"), LITERALS)
def test_a_literal_is_read_as_what_it_is(host: str, literal: str) -> None:
    assert ipaddress.ip_address(str(canonical_literal(host))) == ipaddress.ip_address(literal)


@pytest.mark.parametrize(
    "host",
    [
        "huggingface.co",
        "huggingface.co.",
        "localhost",
        "a",
        "cdn-lfs-us-1.hf.co",
        "1e100.net",
        "0xabc.com",
        "my_host",
        "4chan.org",
        "1.1.1.1.example",
        "xn--bcher-kva.example",
        "127.0.0.1.nip.io",
        "a" * 63 + ".example",
    ],
)
def test_a_name_is_no_literal(host: str) -> None:
    assert canonical_literal(host) is None


ODD = [
    *("127.1", "127.0.1", "1", "0", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "0X7F.0.0.1"),
    *(
        "0177.0.0.1",
        "0177.0.0.01",
        "127.0.0.01",
        "00127.0.0.1",
        "127.0.0.1.",
        "127.0.0.1..",
        "2130706433.",
        "1.2.3.4.5",
    ),
    *(
        "256.1.1.1",
        "1.2.3.256",
        "999.999.999.999",
        "4294967296",
        "0x",
        "0x.0x",
        "127.0.0x1",
        "1..2",
        "a..b",
        ".",
        "..",
        ".a",
    ),
    *(
        "-a",
        "a-",
        "a b",
        "a\tb",
        "a\x00b",
        "a/b",
        "a@b",
        "a%2eb",
        "127%2e0.0.1",
        "ⓛocalhost",
        "１２７.0.0.1",
        "127。0。0。1",
        "a\\b",
    ),
    *("::1%lo", "fe80::1%eth0", ":", ":::", "1:2:3", "::ffff:127.1", "::g", "[::1]", "127.0.0.1:80", "", "a" * 300),
]


@pytest.mark.parametrize("host", ODD)
def test_an_odd_notation_is_refused(host: str) -> None:
    with pytest.raises(ForbiddenError):
        canonical_literal(host)


@pytest.mark.parametrize("host", [host for host in ODD if host.isascii() and "\0" not in host])
def test_the_odd_table_holds_what_the_system_would_have_read(host: str) -> None:
    """Not a test of ours: it shows why the table matters. Whatever inet_aton takes must be refused or canonical."""
    try:
        packed = socket.inet_aton(host)
    except OSError:
        return
    assert socket.inet_ntoa(packed) != host


@pytest.mark.needs("netns", "debian:ip")
def test_an_address_of_this_machine_is_special_whatever_its_range(tmp_path: Path) -> None:
    """A public address that the machine has is reached over its loopback, past what keeps strangers out."""
    script = tmp_path / "judge.py"
    script.write_text(
        "from fetcher.net.guard import Guard\n"
        "for guard in (Guard(), Guard(['5.6.7.8/32'])):\n"
        "    for ip in ('5.6.7.8', '5.6.7.9', '2a00:1234::8', '2a00:1234::9', '::ffff:5.6.7.8'):\n"
        "        print(guard.judge_endpoint(ip, 443, 'https'))\n"
    )
    steps = "ip link set lo up; ip addr add 5.6.7.8/32 dev lo; ip addr add 2a00:1234::8/128 dev lo nodad"
    own = "one of this machine's own"
    bound = "sysctl -qw net.ipv4.ip_nonlocal_bind=1 net.ipv6.ip_nonlocal_bind=1"
    verdicts = [own, "None", own, "None", own, "None", "None", own, "None", "None"]
    for setting in ("true", bound):  # where sockets may be bound to anything, that tells nothing
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", f"{steps}; {setting} || exit 3; exec {sys.executable} {script}"],
            cwd=CHECKOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 3 and setting == bound:
            continue  # /proc/sys can't be written here
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == verdicts


def test_the_error_names_address_reason_and_cure() -> None:
    with pytest.raises(ForbiddenError) as caught:
        Guard().check("cdn.example", ["1.1.1.1", "10.0.0.8"], 443, "https")
    assert "cdn.example (10.0.0.8)" in caught.value.message
    assert "private" in caught.value.message
    assert caught.value.hint is not None and "FETCHER_ALLOW_NET=10.0.0.8" in caught.value.hint
    assert caught.value.exit_code == 25


def test_one_bad_address_condemns_the_name() -> None:
    for addresses in (["127.0.0.1", "1.1.1.1"], ["1.1.1.1", "2606:4700::1", "::1"], ["1.1.1.1", "fe80::1"]):
        with pytest.raises(ForbiddenError):
            Guard().check("mixed.example", addresses, 443, "https")
    Guard().check("good.example", ["1.1.1.1", "2606:4700::1"], 443, "https")
