"""Places as people write them: paths with ``~`` and variables, endpoints as origins."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


def expanded(text: str, environ: Mapping[str, str]) -> Path:
    """``~`` and ``$VARS`` expanded, from the environment that was handed in."""
    text = re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda match: environ.get(match[1] or match[2], match[0]), text)
    home = environ.get("HOME")
    if home and (text == "~" or text.startswith("~/")):
        text = home + text[1:]
    return Path(os.path.expanduser(text)).absolute()


def origin(endpoint: str) -> str:
    """``scheme://host:port`` of an endpoint, as ``net.request.origin_of`` writes it (a room beside this one)."""
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"
