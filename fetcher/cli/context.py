"""What a command works with: the options that all commands share, the settings they lead to, the two streams."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fetcher.cli.output import Output
from fetcher.errors import UsageError
from fetcher.model.quantities import parse_duration_s, parse_rate, parse_size
from fetcher.model.setting_values import connections, endpoint

if TYPE_CHECKING:
    from fetcher.cache.store import Cache
    from fetcher.client import Fetcher
    from fetcher.config import Settings
    from fetcher.model.events import Event


def value_of(parse: Callable[[str], object]) -> Callable[[str], object]:
    """``parse`` as an argparse type: its own sentence becomes the error, not "invalid value"."""

    def typed(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


duration_s = value_of(parse_duration_s)
size_bytes = value_of(parse_size)
endpoint_url = value_of(endpoint)


def lease_s(text: str) -> object:
    """A duration that a lease can have."""
    duration = duration_s(text)
    if duration == 0:
        raise argparse.ArgumentTypeError("a lease of no time protects nothing; write it as 90s, 15m, 24h or 7d")
    return duration


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command takes, before or after its name; with SUPPRESS neither parser undoes the other."""
    group = parser.add_argument_group("everywhere")

    def add(name: str, **keywords: object) -> None:
        group.add_argument(name, default=argparse.SUPPRESS, **keywords)  # type: ignore[arg-type]

    add("--json", action="store_true", dest="json_lines", help="one JSON object per line on stdout (docs/MACHINE.md)")
    add("--dry-run", action="store_true", help="show what would be done; download, write and remove nothing")
    add("--offline", action="store_true", help="use what is in the cache, however old; no network")
    add("--refresh", action="store_true", help="ask the origin even if a fresh copy is in the cache")
    add("--cache-dir", metavar="DIR", help="where the cache is (default: FETCHER_CACHE_DIR, else ~/.cache/fetcher)")
    add("--limit-rate", metavar="RATE", type=value_of(parse_rate), help="bytes per second for all downloads: 50M")
    add("--max-connections", metavar="N", type=value_of(connections), help="connections at once (default: 16)")
    add("--quiet", action="store_true", help="no progress, no talk; errors are still told")
    add("--verbose", action="store_true", help="say more about what is done")


@dataclass
class Context:
    """One run of the program."""

    options: argparse.Namespace
    output: Output

    @cached_property
    def settings(self) -> Settings:
        """Arguments over environment over file. Raises UsageError."""
        from fetcher import config  # and with it all kinds of resources, of which --help says nothing

        if self.flag("offline") and self.flag("refresh"):
            raise UsageError("--offline and --refresh exclude each other", hint="--refresh asks the origin")
        given = self.options
        return config.load(
            arguments={
                "cache_dir": getattr(given, "cache_dir", None),
                "offline": self.flag("offline") or None,
                "refresh": self.flag("refresh") or None,
                "limit_rate_bytes_per_s": getattr(given, "limit_rate", None),
                "market": getattr(given, "market", None),
                "connections_max": getattr(given, "max_connections", None),
                "connections_per_host_max": getattr(given, "max_connections", None),
                **dict.fromkeys(("hf_endpoint", "s3_endpoint", "ollama_url"), getattr(given, "endpoint", None)),
            },
            environ=os.environ,
        )

    def flag(self, name: str) -> bool:
        return bool(getattr(self.options, name, False))

    @property
    def dry_run(self) -> bool:
        return self.flag("dry_run")

    def cache(self, *, looking: bool = False) -> Cache:
        """The cache alone, opened; a context manager. ``looking`` creates and changes nothing."""
        from fetcher.cache.store import Cache

        cache = Cache.open(self.settings, read_only=looking)
        if remark := str(cache.recovery):
            self.output.say(remark)
        return cache

    def fetcher(self, on_event: Callable[[Event], None] | None = None) -> Fetcher:
        """The library's object; opens nothing yet. Of a dry run it only looks."""
        from fetcher.client import Fetcher

        return Fetcher(self.settings, on_event=on_event or self._say_notice, looking=self.dry_run)

    def _say_notice(self, event: Event) -> None:
        """Where nobody shows progress: what happened to the cache is told all the same."""
        message = getattr(event, "message", None)
        if message:
            self.output.say(message)

    def tidy(self, fetcher: Fetcher) -> None:
        """The end of a command: remove what has had its time, if that is due."""
        if not self.settings.offline:
            remark = fetcher.tidy()
            if remark:
                self.output.detail(f"can't tidy the cache: {remark}")
