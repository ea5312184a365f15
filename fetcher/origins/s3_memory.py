"""What the hosts and buckets of a run turned out to be like. No I/O, and nothing about askers.

All of it is learned from answers and holds for whoever asks: a bucket's region, a host's clock, which headers it does
not bear, that a CDN's copies carry other ETags than the listing. Bounded, because jobs name hosts at will. What makes
us compare less, or ask more, is learned of a bucket and not of its host: many strangers fill the buckets of one host.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from fetcher.model.s3_address import Bucket, is_region
from fetcher.net.request import origin_of
from fetcher.origins.s3_errors import S3Fault

REMEMBERED_MAX = 4096
"""Hosts, buckets or objects; the one that was needed least lately goes first."""
SKEW_S_MIN = 60.0
"""Below this a difference of clocks breaks no signature (S3 allows 15 minutes), and Date has whole seconds anyway."""
SKEW_S_MAX = 10 * 365 * 86_400.0

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """A dict that forgets what was needed least lately."""

    def __init__(self, items_max: int = REMEMBERED_MAX) -> None:
        self._items: OrderedDict[Key, Value] = OrderedDict()
        self._items_max = items_max

    def get(self, key: Key) -> Value | None:
        """The value, or None."""
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Remember ``value``."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._items_max:
            self._items.popitem(last=False)

    def drop(self, key: Key) -> None:
        """Forget it, if it is known."""
        self._items.pop(key, None)


@dataclass(slots=True)
class Host:
    """One host (``scheme://host:port``)."""

    clock_skew_s: float = 0.0
    """How far its clock is ahead of ours."""
    takes_if_match: bool = True
    """False: it answers 412 to the very ETag that it states. Each answer is compared with that all the same."""


@dataclass(slots=True)
class Site:
    """One bucket, as far as it behaves as its host does."""

    takes_checksum_mode: bool = True
    """False: it refuses requests with ``x-amz-checksum-mode``."""
    blamed_for: str = ""
    """URL of the body whose refusal was put down to that header, until the next answer tells."""
    takes_part_numbers: bool = True
    """False: it does not know ``partNumber`` (Ceph, rclone)."""
    takes_heads: bool = True
    """False: it refuses HEAD as such."""
    lists: bool = False
    """It has answered with a listing of S3: what it serves is S3's, ETags included."""
    own_etags: bool = False
    """Its objects come with other ETags than its listing states (a CDN): those of the objects count."""


class Memory:
    """See the module docstring."""

    def __init__(self) -> None:
        self._hosts: Remembered[str, Host] = Remembered()
        self._sites: Remembered[str, Site] = Remembered()
        self._regions: Remembered[str, str] = Remembered()
        self._doubts: Remembered[str, str] = Remembered()

    def host(self, origin: str) -> Host:
        """What is known of a host; to be changed in place."""
        found = self._hosts.get(origin)
        if found is None:
            found = Host()
            self._hosts.put(origin, found)
        return found

    def site(self, bucket: Bucket) -> Site:
        """What is known of a bucket; to be changed in place."""
        found = self._sites.get(bucket.identity)
        if found is None:
            found = Site()
            self._sites.put(bucket.identity, found)
        return found

    def region(self, bucket: Bucket) -> str | None:
        """The region that an answer named for ``bucket``."""
        return self._regions.get(bucket.identity)

    def placed(self, bucket: Bucket) -> Bucket:
        """``bucket`` where it is to be asked."""
        region = self.region(bucket)
        return bucket if region is None else bucket.at_region(region)

    def learn_region(self, bucket: Bucket, asked_in: str | None, region: str) -> bool:
        """Take note of the region an answer named; False if that would change nothing."""
        if not is_region(region) or region == asked_in:
            return False
        self._regions.put(bucket.identity, region)
        return True

    def learn_clock(self, origin: str, date: str | None, now: float) -> bool:
        """Take note of a host's ``Date``, after it refused a signature; False if the clocks are not the trouble."""
        from email.utils import parsedate_to_datetime  # slow to import, and most clocks are right

        try:
            skew_s = parsedate_to_datetime(date or "").timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return False
        host = self.host(origin)
        if abs(skew_s) > SKEW_S_MAX or abs(skew_s - host.clock_skew_s) < SKEW_S_MIN:
            return False
        host.clock_skew_s = skew_s
        return True

    # -- ETags of listings that the objects do not confirm ----------------------------------------------------------

    def doubt(self, url: str, etag: str) -> None:
        """An answer for ``url`` was not about ``etag``, which had been stated for it."""
        self._doubts.put(url, etag)

    def doubts(self, url: str, etag: str | None) -> bool:
        """Whether ``etag`` is stated for ``url`` once more although an answer denied it."""
        return etag is not None and self._doubts.get(url) == etag

    def settle(self, url: str, listed: str | None, stated: str | None, bucket: Bucket) -> None:
        """The object itself states ``stated`` where ``listed`` was listed: whose fault was it?"""
        if listed != stated:
            self.site(bucket).own_etags = True
        elif self.doubts(url, listed):
            self.host(origin_of(bucket.host_url)).takes_if_match = False
        self._doubts.drop(url)


def region_told(fault: S3Fault) -> str | None:
    """The region that a refusal names because the request went, or was signed, for another one."""
    if fault.status in (301, 302, 307, 308) or fault.code in (
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    ):
        return fault.region or None
    return fault.region or None if fault.status == 400 and not fault.code else None
