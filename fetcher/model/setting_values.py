"""What the value of a setting may be: text, or the value itself, in; the value in normal form out.

Each function raises ``ValueError`` with a sentence that can follow the name of whatever held the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from fetcher.model.pins import market_pin
from fetcher.model.quantities import parse_duration_s, parse_rate, parse_size
from fetcher.model.text import shown

MIB = 1 << 20
NUMBER_MAX = 1 << 62
"""What SQLite holds; more than any size, time or count has."""
CONNECTIONS_MAX = 1024
"""More open sockets than a default limit of open files leaves room for."""


def boolean(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    word = words.get(value.strip().lower()) if isinstance(value, str) else None
    if word is None:
        raise ValueError("must be true or false (also 1, 0, yes, no, on, off)")
    return word


def _number(value: object, parse: Callable[[str], float], least: float) -> float:
    """A number in the unit of the field's name, or text that ``parse`` understands, not below ``least``."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a number, or a text with a unit")
    number = parse(value) if isinstance(value, str) else value
    if not least <= number <= NUMBER_MAX:  # TOML's whole numbers have no bound, and no float holds the largest of them
        raise ValueError(f"must not be less than {least:g}" if number < least else "must be finite")
    return number


def duration_s(value: object) -> float:
    return float(_number(value, parse_duration_s, 0))


def time_limit_s(value: object) -> float:
    # A limit of zero would end everything before it began.
    return float(_number(value, parse_duration_s, 0.001))


def size_bytes(value: object) -> int:
    return _whole(_number(value, parse_size, 0))


def part_bytes(value: object) -> int:
    size_bytes = _whole(_number(value, parse_size, MIB))
    if size_bytes % MIB:
        raise ValueError("must be whole blocks, a multiple of 1MiB")
    return size_bytes


def sync_bytes(value: object) -> int:
    # With room for less than a block none could ever be written.
    return _whole(_number(value, parse_size, MIB))


def rate_bytes_per_s(value: object) -> int:
    return _whole(_number(value, parse_rate, 1))


def slow_rate_bytes_per_s(value: object) -> float:
    return float(_number(value, parse_size, 0))


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError("must be a whole number")
    return int(number)


def count(value: object) -> int:
    return _whole(_number(value, _digits, 1))


def count_or_zero(value: object) -> int:
    return _whole(_number(value, _digits, 0))


def connections(value: object) -> int:
    number = count(value)
    if number > CONNECTIONS_MAX:
        raise ValueError(f"must not be more than {CONNECTIONS_MAX}")
    return number


def _digits(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise ValueError("must be a whole number")
    return int(text)


def proxy(value: object) -> object:
    """A proxy, or ``none``: see ``model.proxy``."""
    from fetcher.model.proxy import proxy_setting  # only where one is stated

    return proxy_setting(value)


def keep_from(value: object) -> str:
    if value not in ("download", "use"):
        raise ValueError("must be download or use")
    return str(value)


def networks(value: object) -> tuple[str, ...]:
    """CIDRs in normal form from a comma-separated text or a list; a single address is a network of one."""
    if isinstance(value, str):
        items: list[object] = [part for part in (piece.strip() for piece in value.split(",")) if part]
    elif isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        items = list(value)
    else:
        raise ValueError("must be a list of networks, such as 10.0.0.0/8")
    if not items:
        return ()
    import ipaddress

    found = []
    for item in items:
        if not isinstance(item, str):
            raise ValueError("a network is a text, such as 10.0.0.0/8")
        try:
            found.append(str(ipaddress.ip_network(item.strip())))
        except ValueError:
            try:
                whole = ipaddress.ip_network(item.strip(), strict=False)
            except ValueError:
                raise ValueError(f"not a network: {shown(item)}; write it as 10.0.0.0/8 or fd00::/8") from None
            message = f"{shown(item)} names one address and a network around it; write {whole} for all of the network"
            raise ValueError(message) from None
    return tuple(found)


def market(value: object) -> str:
    """A market's address."""
    from fetcher.model.market import market_fault  # not for every hit

    fault = market_fault(value) if isinstance(value, str) else "must be a market's address"
    if fault:
        raise ValueError(fault)
    return str(value)


def market_pins(value: object) -> tuple[str, ...]:
    """Names of markets' pins, from a comma-separated text or a list."""
    if isinstance(value, str):
        items: list[object] = [part for part in (piece.strip() for piece in value.split(",")) if part]
    elif isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        items = list(value)
    else:
        raise ValueError("must be a list of pins, such as market:<address>")
    from fetcher.model.market import market_fault

    for item in items:
        address = item.removeprefix(market_pin("")) if isinstance(item, str) else ""
        if item != market_pin(address) or market_fault(address):
            raise ValueError(f"must be pins of markets, market:<address>, not {shown(str(item))}")
    return tuple(str(item) for item in items)


MARKET_PLACE = "{market}"


def market_templates(value: object) -> tuple[str, ...]:
    """URLs with ``{market}`` in them, from a comma-separated text or a list."""
    if isinstance(value, str):
        items: list[object] = [part for part in (piece.strip() for piece in value.split(",")) if part]
    elif isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        items = list(value)
    else:
        raise ValueError("must be a list of URLs with {market} in them")
    if not items:
        raise ValueError("must name at least one URL with {market} in it")
    for item in items:
        text = item if isinstance(item, str) else ""
        if not re.match(r"https?://[^/?#\s@]+/", text) or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"must be URLs with http:// or https://, a host and a path, not {shown(str(item))}")
        if text.count(MARKET_PLACE) != 1 or text.replace(MARKET_PLACE, "").strip("{}") != text.replace(
            MARKET_PLACE, ""
        ):
            raise ValueError(f"must have {MARKET_PLACE} in it once: {shown(text)}")
    return tuple(str(item) for item in items)


_ENDPOINT = re.compile(r"(https?)://((?:[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?)|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/*")


def endpoint(value: object) -> str:
    """``scheme://host[:port]`` in normal form: lower case, no default port, no slash at the end."""
    if not isinstance(value, str):
        raise ValueError("an endpoint is a text, such as https://huggingface.co")
    text = value.strip()
    if "@" in text:
        raise ValueError("must not hold a user name or a password; tokens go into HF_TOKEN")
    match = _ENDPOINT.fullmatch(text.lower())
    if not match or not 0 < int(match[3] or 1) < 65_536:
        raise ValueError("must be http:// or https://, a host and perhaps a port, without path or query")
    scheme, host, port = match.groups()
    default_port = "443" if scheme == "https" else "80"
    return f"{scheme}://{host}" + (f":{int(port)}" if port and port.lstrip("0") != default_port else "")
