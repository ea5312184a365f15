"""Faults of S3: refusals under load, redirects to strangers, listings no honest store gives, and keys any store takes.

Each is a frozen value for a ``FaultPlan``, beside those of ``fetcher.testing.faults``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from fetcher.testing.contents import BytesContent
from fetcher.testing.faultplan import Exchange, Fault
from fetcher.testing.messages import Reply
from fetcher.testing.s3.buckets import Bucket
from fetcher.testing.s3.errors import CODES, Refused
from fetcher.testing.s3.listing import Page, PageReply, Row

GarbageKind: TypeAlias = Literal[
    "deep",
    "doctype",
    "empty",
    "entity-bomb",
    "error",
    "external-entity",
    "html",
    "not-utf8",
    "other-root",
    "truncated",
]

# Under load, and elsewhere


@dataclass(frozen=True)
class S3Error(Fault):
    """Answer with an error as S3 words it; without a body to HEAD. ``SlowDown`` is 503.

    Bursts: ``S3Error("SlowDown").on("object", skip=3, times=5)``.
    """

    places: ClassVar[tuple[str, ...]] = ("s3",)
    code: str = "SlowDown"
    retry_after: int | None = None
    """Seconds for the Retry-After header."""
    status: int | None = None
    """Another than Amazon's."""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"unknown code {self.code!r}: one of {', '.join(sorted(CODES))}")

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        raise Refused(self.code, headers=headers, status=self.status)


@dataclass(frozen=True)
class SlowDownAbove(Fault):
    """Answer 503 SlowDown to what exceeds ``requests_per_s``, after a burst of ``burst`` requests at once.

    A refused request costs nothing. Counted as fired for every request it looked at.
    """

    places: ClassVar[tuple[str, ...]] = ("s3",)
    requests_per_s: float = 10.0
    burst: int = 5

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        now = time.monotonic()
        tokens, at = memory.get("bucket", (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - at) * self.requests_per_s)
        allowed = tokens >= 1.0
        memory["bucket"] = tokens - 1.0 if allowed else tokens, now
        if not allowed:
            raise Refused("SlowDown")
        return None


@dataclass(frozen=True)
class RedirectElsewhere(Fault):
    """Redirect an object to another host, which serves it to whoever brings no credential."""

    places: ClassVar[tuple[str, ...]] = ("object",)
    status: int = 307

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        record = exchange.record
        return Reply(self.status, {"Location": exchange.origin.elsewhere_url(record.repo, record.path)})


# Listings


class _ListFault(Fault):
    """Base: changes the page, which is then written again."""

    places: ClassVar[tuple[str, ...]] = ("list",)
    late: ClassVar[bool] = True

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return isinstance(reply, PageReply) and reply.page is not None

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert isinstance(reply, PageReply) and reply.page is not None
        self.falsify(reply.page, memory)
        reply.draw()

    def falsify(self, page: Page, memory: dict[Any, Any]) -> None:
        raise NotImplementedError


class _FirstPageFault(_ListFault):
    """Base: falsifies the first page whatever token was sent, since the tokens are its own and no store knows them."""

    late: ClassVar[bool] = False

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        reply: PageReply = exchange.origin.first_page(exchange)
        self.after(exchange, reply, memory)
        return reply


@dataclass(frozen=True)
class WrongPrefixEchoed(_ListFault):
    """The page says that it is of another prefix than was asked; the keys are right."""

    prefix: str = ""

    def falsify(self, page: Page, memory: dict[Any, Any]) -> None:
        page.prefix = self.prefix


@dataclass(frozen=True)
class ExtraRows(_ListFault):
    """Add rows to every page, as given: keys outside of the prefix, too long, twice, of negative size."""

    rows: tuple[Row | str, ...] = ("elsewhere/foreign.bin",)
    """A ``str`` is short for an empty object of that key."""

    @property
    def name(self) -> str:
        """The class alone: keys may be of any length."""
        return type(self).__name__

    def falsify(self, page: Page, memory: dict[Any, Any]) -> None:
        page.rows += [Row(row) if isinstance(row, str) else row for row in self.rows]


@dataclass(frozen=True)
class EndlessPages(_FirstPageFault):
    """Pages that never end: with keys never seen (``fresh``), with the ``same`` ones again, or with none (``empty``).

    Each has a token not seen before, and whatever token comes, the first page is what is falsified.
    """

    kind: Literal["fresh", "same", "empty"] = "fresh"

    def falsify(self, page: Page, memory: dict[Any, Any]) -> None:
        number = memory["page"] = memory.get("page", 0) + 1
        if self.kind == "fresh":
            count = max(1, len(page.rows))
            page.rows = [Row(f"{page.prefix}endless/{number:09}/{index:04}") for index in range(count)]
        elif self.kind == "empty":
            page.rows = []
            page.prefixes = []
        _go_on(page, f"endless+{number}==")


@dataclass(frozen=True)
class RepeatedToken(_FirstPageFault):
    """Every page is the first one, and leads on with one and the same token."""

    token: str = "again+/="

    def falsify(self, page: Page, memory: dict[Any, Any]) -> None:
        _go_on(page, self.token)


@dataclass(frozen=True)
class MissingToken(_ListFault):
    """A page that is cut short does not say how to go on, not even in version 1."""

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return isinstance(reply, PageReply) and reply.page is not None and reply.page.is_truncated

    def falsify(self, page: Page, memory: dict[Any, Any]) -> None:
        page.next_token = page.next_marker = None


def _go_on(page: Page, token: str) -> None:
    page.is_truncated = True
    page.next_token = token if page.version == 2 else None
    page.next_marker = token if page.version == 1 else None


@dataclass(frozen=True)
class ListGarbage(Fault):
    """Answer a listing with 200 and something else than a whole ``ListBucketResult``."""

    places: ClassVar[tuple[str, ...]] = ("list",)
    late: ClassVar[bool] = True
    kind: GarbageKind = "error"

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return isinstance(reply, PageReply)

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert reply.content is not None
        honest = reply.content.read()
        reply.content = BytesContent(_garbage(self.kind, honest))
        reply.start, reply.stop = 0, None


_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'


def _garbage(kind: str, honest: bytes) -> bytes:
    inner = honest.removeprefix(_DECLARATION)
    if kind == "truncated":
        return honest[: max(len(honest) * 2 // 3, 60)]
    if kind == "doctype":
        return _DECLARATION + b"<!DOCTYPE ListBucketResult>\n" + inner
    if kind == "entity-bomb":
        doubled = b"".join(b'<!ENTITY e%d "&e%d;&e%d;">' % (level, level - 1, level - 1) for level in range(1, 40))
        bomb = b'<!DOCTYPE ListBucketResult [<!ENTITY e0 "boom">%s]>\n' % doubled
        return _DECLARATION + bomb + inner.replace(b"<Name>", b"<Name>&e39;", 1)
    if kind == "external-entity":
        entity = b'<!DOCTYPE ListBucketResult [<!ENTITY host SYSTEM "file:///etc/hostname">]>\n'
        return _DECLARATION + entity + inner.replace(b"<Prefix>", b"<Prefix>&host;", 1)
    if kind == "not-utf8":
        return honest.replace(b"<Name>", b"<Name>\xff\xfe", 1)
    texts = {
        "error": _DECLARATION + b"<Error><Code>InternalError</Code><Message>Please try again.</Message></Error>",
        "html": b"<!DOCTYPE html>\n<html><title>Please sign in to this network</title><br></html>\n",
        "empty": b"",
        "deep": _DECLARATION + b"<ListBucketResult>" + b"<a>" * 100_000,
        "other-root": _DECLARATION + b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>",
    }
    return texts[kind]


HOSTILE_KEYS: dict[str, tuple[str, ...]] = {
    "dot-dot": ("../escaped",),
    "dot-dot-inside": ("a/../../escaped",),
    "dot": ("./a",),
    "absolute": ("/etc/escaped",),
    "double-slash": ("a//b",),
    "only-slashes": ("//",),
    "backslash": ("..\\escaped",),
    "drive": ("C:/escaped",),
    "nul": ("a\0b",),
    "unc": ("\\\\host\\share",),
    "control": ("a\x01b", "a\x7fb", "bell\x07"),
    "c1-control": ("a\x9b2Jb",),
    "newline": ("a\nb", "a\r\nb"),
    "tab": ("a\tb",),
    "long-segment": ("n" * 256,),
    "long-path": ("/".join(["d" * 100] * 10),),
    "deep": ("d/" * 500 + "f",),
    "file-as-directory": ("node", "node/leaf"),
    "marker": ("empty-directory/",),
    "marker-beside": ("directory/", "directory/file"),
    "case-twins": ("Twin.txt", "twin.TXT"),
    "unicode-twins": ("caf\u00e9", "cafe\u0301"),
    "spaces": (" ", " leading", "trailing ", "a  b"),
    "plus-and-space": ("a b", "a+b", "a%20b", "a%2Bb"),
    "xml": ("a&b", "a<b>", "a]]>b", 'a"b', "a'b", "&amp;"),
    "query": ("a?b", "a#b", "a;b", "a=b&c", "a:b"),
    "non-characters": ("a\ufffe", "a\uffff", "\ufeffbom", "a\u202eb"),
    "astral": ("\U0001f600", "\U0010fffd"),
}
"""Keys that every real store takes, by a short name: put them into a bucket."""


def add_hostile_objects(bucket: Bucket, name: str | None = None) -> list[str]:
    """Put the keys of ``HOSTILE_KEYS[name]``, or all, into a bucket; return them. Markers are empty."""
    keys = [key for case in ([name] if name else HOSTILE_KEYS) for key in HOSTILE_KEYS[case]]
    for key in keys:
        bucket.put(key, b"" if key.endswith("/") else f"content of {key!r}")
    return keys
