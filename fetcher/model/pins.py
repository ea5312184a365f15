"""Names of pins: what a person may call one, and what those of markets are called."""

from __future__ import annotations

import re

from fetcher.model.text import shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")


def pin_name(text: str) -> str:
    """``text`` itself, if it can name a pin. Raises ``ValueError`` otherwise."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"not a name for a pin: {shown(text)}; letters, digits and . _ : / @ + - will do")
    return text


def market_pin(market: str) -> str:
    """What keeps the items of a market."""
    return f"market:{market}"
