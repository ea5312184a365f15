"""Sizes, rates and durations as people write them: one parser and one printer for arguments, variables and files.

Sizes: a letter is a power of 1000 (``50M`` = 50,000,000 bytes, as disks and networks are sold), a letter with ``i`` a
power of 1024 (``1GiB`` = 1,073,741,824); a ``B`` at the end and the case of letters change nothing. Bits are not read.
Rates: a size, with or without ``/s``. Durations: ``90s``, ``24h``, ``1h30m``; units ms, s, m, h, d, w; a bare number is
seconds. All arithmetic is exact; errors are ``ValueError`` with a sentence that says what would be right.
"""

from __future__ import annotations

import re

SIZE_BYTES_MAX = (1 << 63) - 1
"""What a file offset and a column of the index can hold."""
DURATION_S_MAX = 100 * 366 * 86_400
"""A century; longer is a slip of the keyboard, and dates stay within what clocks can say."""

_NUMBER = r"([0-9]{1,20})(?:\.([0-9]{1,9}))?"
_SIZE = re.compile(_NUMBER + r" ?(?:([kmgtpe])(i)?)?b?", re.IGNORECASE | re.ASCII)
_DURATION_PART = re.compile(_NUMBER + r" ?(ms|s|m|h|d|w)", re.IGNORECASE | re.ASCII)  # else "ſ" is an s
_BARE_NUMBER = re.compile(_NUMBER)
_POWERS = {letter: power for power, letter in enumerate("kmgtpe", start=1)}
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def _scaled(whole: str, fraction: str | None, factor: int) -> int:
    """``whole.fraction * factor``, rounded down, without a float in between."""
    digits = fraction or ""
    divisor: int = 10 ** len(digits)
    return int(whole + digits) * factor // divisor


def parse_size(text: str) -> int:
    """``"16MiB"`` → bytes. Raises ``ValueError``."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"not a size: {text[:40]!r}; write it as 500M, 20GB or 16MiB")
    whole, fraction, letter, binary = match.groups()
    factor = (1024 if binary else 1000) ** _POWERS[letter.lower()] if letter else 1
    size_bytes = _scaled(whole, fraction, factor)
    if size_bytes > SIZE_BYTES_MAX:
        raise ValueError(f"too large a size: {text[:40]!r}")
    return size_bytes


def parse_rate(text: str) -> int:
    """``"50M"`` or ``"50MB/s"`` → bytes per second, at least 1. Raises ``ValueError``."""
    lower = text.strip().lower()
    if lower.endswith(("bit", "bit/s", "bps")):
        raise ValueError(f"not a rate in bytes: {text[:40]!r}; divide bits by 8 and write it as 50M (bytes per second)")
    try:
        rate_bytes_per_s = parse_size(lower.removesuffix("/s"))
    except ValueError:
        raise ValueError(f"not a rate: {text[:40]!r}; write it as 50M or 6MiB/s (bytes per second)") from None
    if rate_bytes_per_s == 0:
        raise ValueError("a rate of 0 would never end; leave it out for no limit")
    return rate_bytes_per_s


def parse_duration_s(text: str) -> float:
    """``"1h30m"`` → seconds. Raises ``ValueError``."""
    stripped = text.strip()
    if match := _BARE_NUMBER.fullmatch(stripped):
        duration_ms = _scaled(match[1], match[2], 1_000)
    else:
        duration_ms, position = 0, 0
        while position < len(stripped):
            part = _DURATION_PART.match(stripped, position)
            if not part:
                break
            duration_ms += _scaled(part[1], part[2], _UNIT_MS[part[3].lower()])
            position = part.end()
        if position == 0 or position < len(stripped):
            raise ValueError(f"not a duration: {text[:40]!r}; write it as 90s, 15m, 24h or 7d")
    if duration_ms > DURATION_S_MAX * 1_000:
        raise ValueError(f"too long a duration: {text[:40]!r}")
    return duration_ms / 1_000


def format_size(size_bytes: float) -> str:
    """Three digits and a decimal unit, for people: ``14.3 GB``."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        # 999.5 would be printed as "1000"; it belongs to the next unit.
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"


def format_duration(duration_s: float) -> str:
    """The two largest units, for people: ``1h 05m``, ``3d 02h``, ``42s``."""
    seconds = max(0, round(duration_s))
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m {seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"
