"""The switch for the question about a socket: compiled where the core was built, else its readable twin. Apart from the
switch of the hashes because only what downloads loads it. Below all floors."""

import os

__all__ = ["ACTIVE", "has_news"]

try:
    if os.environ.get("FETCHER_NATIVE") == "plain":
        raise ImportError("FETCHER_NATIVE=plain")
    from fetcher._native.sockets import has_news

    ACTIVE = "native"
except ImportError:
    from fetcher._native.pure_sockets import has_news

    ACTIVE = "plain"
