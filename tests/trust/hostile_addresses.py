"""What a stranger may write, answer or resolve to in order to reach the host's own network: a corpus, as data.

``{trap}`` stands for a port on loopback that must never be reached, ``{own}`` for the port of the one origin that is
allowed, at 127.0.0.2. Nothing here is ever meant to leave the machine: what is public stands only where it is refused
for another reason, or beside an answer that condemns it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Road = Literal["send", "s3", "ollama", "api-redirect", "body-redirect", "s3-redirect", "next-link", "realm"]

ALLOWED = "127.0.0.2"


@dataclass(frozen=True, slots=True)
class Case:
    """One attempt."""

    name: str
    road: Road
    target: str
    """A URL; for ``ollama`` a host, for ``realm`` and redirects what the origin answers with."""
    answers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Host → addresses, look-up after look-up; the last answer stays."""
    times: int = 1
    """How often it is tried, each time on a fresh connection."""
    outcome: Literal["refused", "any", "ok"] = "refused"
    """``any``: any typed error, or none."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# --- hosts written as addresses


FORBIDDEN_V4 = _words(
    """
127.0.0.1 127.0.0.3 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 169.254.0.1
169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.168.0.1 192.168.255.255 168.63.129.16
198.18.0.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 192.0.2.1 192.88.99.1
"""
)

FORBIDDEN_V6 = _words(
    """
:: ::1 ::2 ::127.0.0.1 ::10.0.0.1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0
::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1
2001:0:7f00:1::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe:: 2002:c0a8:1:: 2001:470:1:2:0:5efe:127.0.0.1
2001:470:1:2:200:5efe:10.0.0.1 fc00::1 fd00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fec0::1 ff02::1 ff05::2 5f00::1
8000::1 0:0:0:0:0:0:0:1 0000:0000:0000:0000:0000:0000:0000:0001 0:0:0:0:0:FFFF:7F00:0001 ::FFFF:127.0.0.1
"""
)

ODD_HOSTS = _words(
    """
127.1 127.0.1 1 0 2130706433 017700000001 0x7f000001 0X7F000001 0x7f.1 0x7f.0.0.1 0177.0.0.1 0177.0.0.01 127.0.0.01
00127.0.0.1 127.0.0.1. 127.0.0.1.. 2130706433. 127.0.0x1 0x7f.0.0.0x1 4294967295 4294967296 127.0.0.1.1 256.0.0.1
127..0.1 .127.0.0.1 127.0.0. 127%2e0.0.1 %31%32%37.0.0.1 %6c%6f%63%61%6c%68%6f%73%74 127.0.0.1%00 127.0.0.1%20
127.0.0.1%23.example 127.0.0.1%2f.example localhost%00.example １２７.0.0.1 127。0。0。1 127．0．0．1
127｡0｡0｡1 ⓵⓶⓻.0.0.1
①②⑦.⓪.⓪.① ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ localhoſt [::1%25lo] [::1%lo] [fe80::1%25eth0] [::ffff:127.1] [::ffff:0x7f.1]
[0:0:0:0:0:0:0:0:1] [::1] [127.0.0.1] [localhost] [::1]x [v1.x] [:::1] [::1 ::1 ::1] -127.0.0.1 127.0.0.1- a..b
"""
)

WHOLE_URLS = _words(
    r"""
http://user@127.0.0.1:{trap}/ http://user:pass@127.0.0.1:{trap}/ http://127.0.0.2:{own}@127.0.0.1:{trap}/
http://127.0.0.1:{trap}\@127.0.0.2:{own}/ http://127.0.0.2:{own}\@127.0.0.1:{trap}/ http:\\127.0.0.1:{trap}\
http://127.0.0.2:{own}#@127.0.0.1:{trap}/.. http://127.0.0.1:{trap}#@127.0.0.2:{own}/
http://127.0.0.1:{trap}?@127.0.0.2/ http:///127.0.0.1:{trap}/ http:127.0.0.1:{trap}/ http:/127.0.0.1:{trap}/
//127.0.0.1:{trap}/ ///127.0.0.1:{trap}/ 127.0.0.1:{trap} file:///etc/passwd file://127.0.0.1/etc/passwd
ftp://127.0.0.1:{trap}/ gopher://127.0.0.1:{trap}/_x dict://127.0.0.1:{trap}/ ldap://127.0.0.1:{trap}/
unix:///var/run/docker.sock http+unix://%2Fvar%2Frun%2Fdocker.sock/ data:text/plain,x ws://127.0.0.1:{trap}/
wss://127.0.0.1:{trap}/ jar:http://127.0.0.1:{trap}/ javascript:alert(1) HTTP://127.0.0.1:{trap}/
hTTps://127.0.0.1:{trap}/ http://127.0.0.1:0{trap}/ http://127.0.0.1:+{trap}/ http://127.0.0.1:{trap}x/
http://127.0.0.1:-1/ http://127.0.0.2:0/ http://127.0.0.2:65536/ http://127.0.0.2:99999999999/ http://127.0.0.2:６３７９/
https://127.0.0.1/ https://1.1.1.1:22/ https://1.1.1.1:25/ https://1.1.1.1:80/ https://1.1.1.1:445/ https://1.1.1.1:0/
http://1.1.1.1/ http://1.1.1.1:6379/ http://[2606:4700::1111]/ https://[2606:4700::1111]:22/ http://localhost:{trap}/
https://localhost:{trap}/ http://LOCALHOST.:{trap}/ https://a.localhost:{trap}/
http://metadata.google.internal/computeMetadata/v1/ https://metadata.google.internal/ http://instance-data/latest/
https://kubernetes.default.svc/ https://host.docker.internal/
"""
)

CONTROL_CHARACTERS = (
    "http://127.0.0.1\t:{trap}/",
    "ht\ntp://127.0.0.1:{trap}/",
    "http://127.0.0.1:{trap}/\r\nHost: x",
    " http://127.0.0.1:{trap}/",
    "http://127.0.0.1 :{trap}/",
    "http://127.0.0.2:{own}\r\n@127.0.0.1:{trap}/",
    "http://127.0.0.1\x00.example:{trap}/",
    "\x01http://127.0.0.1:{trap}/",
)

INTERNAL_NAMES = {
    "localhost": ("127.0.0.1",),
    "a.localhost": ("127.0.0.1",),
    "metadata.google.internal": ("169.254.169.254",),
    "instance-data": ("169.254.169.254",),
    "kubernetes.default.svc": ("10.96.0.1",),
    "host.docker.internal": ("172.17.0.1",),
}


_KNOWN = tuple(INTERNAL_NAMES.items())

# --- names


LONE_ANSWERS = _words(
    """
127.0.0.1 127.9.9.9 0.0.0.0 10.0.0.1 100.64.0.1 169.254.169.254 172.17.0.1 192.168.1.1 168.63.129.16 224.0.0.1
255.255.255.255 ::1 :: ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2001:0:7f00:1::1 fd00:ec2::254
fe80::1%1 fe80::1%eth0 ff02::1 2001:470:1:2:0:5efe:7f00:1 2130706433 127.1 rubbish
"""
)

MIXED_ANSWERS = _words(
    """
1.1.1.1,127.0.0.1 127.0.0.1,1.1.1.1 127.0.0.2,127.0.0.1 127.0.0.1,127.0.0.2 2606:4700::1111,::1 1.1.1.1,::1
1.1.1.1,1.0.0.1,8.8.8.8,10.0.0.1 127.0.0.2,169.254.169.254 127.0.0.2,::ffff:127.0.0.1 127.0.0.2,fe80::1%1
127.0.0.2,127.0.0.2,127.0.0.3
"""
)

CHANGING_ANSWERS = (
    ("127.0.0.2", "127.0.0.1"),
    ("127.0.0.2", "::1"),
    ("127.0.0.2", "10.0.0.1"),
    ("127.0.0.2", "169.254.169.254"),
    ("127.0.0.2", "127.0.0.2,127.0.0.1"),
    ("127.0.0.2", "127.0.0.2", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.2"),
    ("127.0.0.2", "127.0.0.1", "127.0.0.2", "127.0.0.1"),
    ("127.0.0.2", "::ffff:127.0.0.1"),
    ("127.0.0.2", "0.0.0.0"),
)

# --- what a whole resource is led to


INSIDE = (
    *(
        "http://127.0.0.1:{trap}/",
        "https://127.0.0.1:{trap}/",
        "http://[::1]:{trap}/",
        "https://[::ffff:127.0.0.1]:{trap}/",
    ),
    *("http://127.1:{trap}/", "http://2130706433:{trap}/", "http://0x7f000001:{trap}/", "http://0177.0.0.1:{trap}/"),
    *(
        "http://0.0.0.0:{trap}/",
        "https://0.0.0.0:{trap}/",
        "https://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
    ),
    *(
        "https://[fe80::1]/",
        "https://[64:ff9b::7f00:1]:{trap}/",
        "https://user@127.0.0.1:{trap}/",
        "ftp://127.0.0.1:{trap}/",
    ),
    *(
        "file:///etc/passwd",
        "https://inside.example:{trap}/",
        "https://mixed.example:{trap}/",
        "http://localhost:{trap}/",
    ),
)
REDIRECTS_ONLY = (
    *(
        "//127.0.0.1:{trap}/x",
        "//localhost:{trap}/x",
        "/\\127.0.0.1:{trap}/x",
        "\\\\127.0.0.1:{trap}\\x",
        "///127.0.0.1:{trap}/",
    ),
    *("http://127.0.0.1:{trap}#@127.0.0.2/", "http://127.0.0.2:{own}@127.0.0.1:{trap}/", "https:///127.0.0.1:{trap}/x"),
)
NEXT_LINKS = (
    *(
        "http://127.0.0.1:{trap}/api/x",
        "//127.0.0.1:{trap}/api/x",
        "https://[bad/x",
        "http://[::1",
        "http://127.0.0.1:99999/",
    ),
    *(
        "\\\\127.0.0.1:{trap}\\x",
        "http://user@127.0.0.1:{trap}/",
        "file:///etc/passwd",
        "http://127.1:{trap}/",
        "http://[v1.x]/",
    ),
)
OLLAMA_HOSTS = (
    *(
        "127.0.0.1:{trap}",
        "localhost:{trap}",
        "[::1]:{trap}",
        "10.0.0.1",
        "169.254.169.254",
        "127.1:{trap}",
        "2130706433:{trap}",
    ),
    *("0.0.0.0:{trap}", "inside.example:{trap}", "mixed.example:{trap}", "0x7f000001:{trap}", "user@127.0.0.1:{trap}"),
)
_LED = (*_KNOWN, ("inside.example", ("127.0.0.1",)), ("mixed.example", ("127.0.0.2,127.0.0.1",)))


DNS_ANSWERS = {
    "inside.test": ("127.0.0.1",),
    "metadata.test": ("169.254.169.254",),
    "private.test": ("10.0.0.1",),
    "six.test": ("::1",),
    "mapped.test": ("::ffff:127.0.0.1",),
    "flips.test": (ALLOWED, "127.0.0.1"),
    "flips-late.test": (ALLOWED, ALLOWED, "169.254.169.254"),
    "flips-back.test": ("127.0.0.1", ALLOWED),
    "flips-six.test": ("::ffff:127.0.0.2", "::1"),
}
"""Name → answers of a real name server, one a question, round and round."""
DNS_TIMES = 6


def dns_cases() -> tuple[Case, ...]:
    """Cases whose names are really looked up, each several times."""
    return tuple(
        Case(f"{name} {number}", "send", f"http://{name}:{{both}}/", outcome="any")
        for name in DNS_ANSWERS
        for number in range(DNS_TIMES)
    )


def corpus() -> tuple[Case, ...]:
    """All cases; names are unique."""
    found: list[Case] = []

    def add(road: Road, target: str, **more: object) -> None:
        found.append(Case(f"{len(found):03} {road} {target!a}", road, target, **more))  # type: ignore[arg-type]

    for number, host in enumerate([*FORBIDDEN_V4, *(f"[{ip}]" for ip in FORBIDDEN_V6), *ODD_HOSTS]):
        scheme = ("http", "https")[number % 2]
        add("send", f"{scheme}://{host}:{{trap}}/x", answers=_KNOWN)
    for url in (
        "127.0.0.1",
        "[::1]",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "127.0.0.3",
    ):  # https is what a hole lets through
        add("send", f"https://{url}:{{trap}}/x")
    for url in (*WHOLE_URLS, *CONTROL_CHARACTERS):
        add("send", url, answers=_KNOWN, outcome="any" if url.startswith("http://127.0.0.2:{own}#") else "refused")
    for number, answer in enumerate([*LONE_ANSWERS, *MIXED_ANSWERS]):
        for scheme in ("http", "https"):
            name = f"{scheme}{number}.example"
            add("send", f"{scheme}://{name}:{{trap}}/x", answers=((name, (answer,)),))
    for number, sequence in enumerate(CHANGING_ANSWERS):
        name = f"rebind{number}.example"
        add("send", f"http://{name}:{{own}}/x", answers=((name, sequence),), times=5)
        # The port that is allowed for one address is the trap's for the other.
        add("send", f"http://{name}:{{both}}/x", answers=((name, sequence),), times=5)

    for url in INSIDE:
        add("s3", f"{url}bucket/key" if url.endswith("/") else url, answers=_LED)
        add("api-redirect", url, answers=_LED)
        add("body-redirect", url, answers=_LED)
        add("s3-redirect", url, answers=_LED)
        add("realm", url, answers=_LED)
    for url in REDIRECTS_ONLY:
        add("api-redirect", url, answers=_LED)
        add("body-redirect", url, answers=_LED)
        add("s3-redirect", url, answers=_LED)
    for url in NEXT_LINKS:  # taken to be at the Hub itself, whatever host they name
        add("next-link", url, answers=_LED, outcome="any")
    for host in OLLAMA_HOSTS:
        add("ollama", host, answers=_LED)

    # What must come through, or nothing above proves anything.
    add("send", "http://127.0.0.2:{own}/x", outcome="ok")
    add("send", "http://own.example:{own}/x", answers=(("own.example", (ALLOWED,)),), outcome="ok")
    return tuple(found)
