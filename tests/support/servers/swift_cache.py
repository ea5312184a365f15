"""Swift's cache without memcached: a dictionary in the proxy, as a paste.deploy filter (``call:…:filter_factory``).

Without any, the proxy asks account and container servers anew at each request, which doubles the cost of small objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Application = Callable[[dict[str, Any], Any], Any]


class DictionaryCache:
    """What the proxy calls of Swift's memcache client. One process, one thread: no locks."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, Any]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        """The value, or None where there is none, or none any more."""
        ends_at, value = self._kept.get(key, (0.0, None))
        return value if time.monotonic() < ends_at else None

    def set(self, key: str, value: Any, time: float = 0, **_manners: Any) -> None:
        """Keep ``value`` for ``time`` seconds; 0: for good."""
        self._kept[key] = (_now() + time if time else float("inf"), value)

    def delete(self, key: str, **_manners: Any) -> None:
        """Forget it."""
        self._kept.pop(key, None)


def filter_factory(_global: dict[str, str], **_local: str) -> Callable[[Application], Application]:
    """The filter: hands the one cache on with each request."""
    cache = DictionaryCache()

    def around(application: Application) -> Application:
        def handle(environment: dict[str, Any], start_response: Any) -> Any:
            environment["swift.cache"] = cache
            return application(environment, start_response)

        return handle

    return around


def _now() -> float:
    return time.monotonic()
