"""A forward proxy as a value, read from what operators write. Whether a request goes through one is decided in net/.

Its user name and password are one Secret (a user name alone may be a token); no text that this module makes has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import unquote

from fetcher.model.secret import Secret

DIRECTLY: Literal["none"] = "none"
"""Instead of a proxy: whatever the environment says, there is none."""
_DIRECT_WORDS = ("none", "direct", "off", "no", "false", "0")

_PORTS = {"http": 80, "https": 443}
_ADDRESS = re.compile(r"([a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """Where requests are handed to, to be passed on. ``str()`` is its address, without the login."""

    scheme: Literal["http", "https"]
    """How the proxy itself is spoken to."""
    host: str
    """Lower case; an IPv6 literal without its brackets."""
    port: int
    login: Secret | None = None
    """``user:password``."""
    place: str = field(default="FETCHER_PROXY", compare=False)
    """The setting or variable that named it, for messages."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Proxy {self}{', with a login' if self.login else ''}>"


ProxySetting: TypeAlias = Proxy | Literal["none"] | None
"""Through this one; directly; None: as the environment's variables say."""


def parse_proxy(text: str, place: str = "FETCHER_PROXY") -> Proxy:
    """``[http[s]://][user[:password]@]host[:port]``; without a scheme it is http, without a port the scheme's own.

    Raises ValueError with a sentence that can follow the place's name; it repeats nothing of ``text``, which may be
    a password in any of its parts.
    """
    text = text.strip()
    scheme = "http"
    if match := _SCHEME.match(text):
        scheme, text = match[1].lower(), text[match.end() :]
    if scheme.startswith("socks"):
        raise ValueError("is a SOCKS proxy, and only http:// and https:// proxies are spoken to")
    if scheme not in _PORTS:
        raise ValueError("must be a proxy's address that begins with http:// or https://")
    userinfo, at, address = text.rpartition("@")
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2] or 1) < 65_536:
        raise ValueError("must be http://[user:password@]host:port, or the same with https://")
    login = None
    if at:
        username, _, password = (unquote(part) for part in userinfo.partition(":"))
        if not f"{username}{password}".isprintable() or ":" in username:
            raise ValueError("has a user name or password that can't be sent to a proxy")
        login = Secret(f"{username}:{password}")
    port = int(found[2]) if found[2] else _PORTS[scheme]
    return Proxy("https" if scheme == "https" else "http", found[1].strip("[]").lower(), port, login, place)


def proxy_setting(value: object) -> Proxy | Literal["none"]:
    """What the setting ``proxy`` may be: a proxy's URL, or ``none`` (also ``direct``, ``off`` and their like)."""
    if isinstance(value, Proxy):
        return value
    if not isinstance(value, str):
        raise ValueError("a proxy is a text, such as http://proxy.example:3128, or none")
    return DIRECTLY if value.strip().lower() in _DIRECT_WORDS else parse_proxy(value)
