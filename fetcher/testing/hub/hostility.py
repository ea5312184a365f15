"""Faults of the Hub's API: listings that never end, rows no honest repository has, false quotas, broken JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fetcher.testing.contents import BytesContent
from fetcher.testing.faultplan import Exchange, Fault
from fetcher.testing.messages import Reply


@dataclass(frozen=True)
class JsonGarbage(Fault):
    """Answer an API request with 200 and something that is not the JSON expected."""

    places: ClassVar[tuple[str, ...]] = ("api",)
    kind: Literal["html", "truncated", "wrong-shape", "deep"] = "html"

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        texts = {
            "html": b"<!doctype html><title>Please sign in to this network</title>",
            "truncated": b'[{"type":"file","oid":"0000000000000000000000000000000000000000","si',
            "wrong-shape": b'{"sha":42,"siblings":"none","0":[null,{"path":17}]}',
            "deep": b"[" * 100_000,
        }
        return Reply(200, {"Content-Type": "application/json"}, BytesContent(texts[self.kind]))


@dataclass(frozen=True)
class EndlessLinks(Fault):
    """Tree pages that never end: each names a next one, with the ``same`` rows again or with ``fresh`` ones."""

    places: ClassVar[tuple[str, ...]] = ("tree",)
    late: ClassVar[bool] = True
    kind: Literal["same", "fresh"] = "same"

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return reply.status == 200 and isinstance(reply.rows, list)

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert isinstance(reply.rows, list)
        page = memory["page"] = memory.get("page", 0) + 1
        if self.kind == "fresh":
            oid = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
            paths = (f"endless/{page}/{number}" for number in range(max(1, len(reply.rows))))
            reply.rows = [{"type": "file", "oid": oid, "size": 0, "path": path} for path in paths]
        path = exchange.request.path
        # A cursor the origin does not know is ignored by it: the first page again.
        reply.headers["Link"] = f'<{exchange.origin.endpoint}{path}?recursive=true&cursor=endless{page}>; rel="next"'


@dataclass(frozen=True)
class HostileTree(Fault):
    """Add rows to the first page of the tree, as given: whatever a hostile repository could list."""

    places: ClassVar[tuple[str, ...]] = ("tree",)
    late: ClassVar[bool] = True
    rows: tuple[Any, ...] = ()
    """JSON rows; a ``str`` is short for an empty regular file of that path."""

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        first = "cursor=" not in exchange.request.query
        return first and reply.status == 200 and isinstance(reply.rows, list)

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert isinstance(reply.rows, list)
        oid = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        for row in self.rows:
            empty = {"type": "file", "oid": oid, "size": 0, "path": row}
            reply.rows.append(empty if isinstance(row, str) else row)


@dataclass(frozen=True)
class AnnounceQuota(Fault):
    """Announce a rate limit that is nearly or wholly used up, whatever the real count."""

    places: ClassVar[tuple[str, ...]] = ("hub",)
    late: ClassVar[bool] = True
    remaining: int = 0
    reset_s: int = 2

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return "RateLimit" in reply.headers

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        bucket = reply.headers["RateLimit"].partition(";")[0]
        reply.headers["RateLimit"] = f"{bucket};r={self.remaining};t={self.reset_s}"


HOSTILE_ROWS: dict[str, tuple[Any, ...]] = {
    "dot-dot": ("../escaped",),
    "dot-dot-inside": ("a/../../escaped",),
    "dot": ("./a",),
    "absolute": ("/etc/escaped",),
    "backslash": ("..\\escaped",),
    "drive": ("C:/escaped",),
    "drive-relative": ("c:escaped",),
    "unc": ("\\\\host\\share\\escaped",),
    "nul": ("a\0b",),
    "newline": ("a\nb",),
    "escape": ("a\x1b[2Jb",),
    "delete": ("a\x7fb",),
    "c1-control": ("a\x9b2Jb",),
    "empty": ("",),
    "trailing-slash": ("a/",),
    "double-slash": ("a//b",),
    "long-segment": ("n" * 256,),
    "long-path": ("/".join(["d" * 200] * 30),),
    "deep": ("d/" * 5000 + "f",),
    "surrogate": ("a\udc80b",),
    "case-twins": ("Twin.txt", "twin.TXT"),
    "unicode-twins": ("caf\u00e9", "cafe\u0301"),
    "unicode-case-twins": ("\u0390", "\u0399\u0308\u0301"),
    "folder-twins": ("Folder/a", "folder/b"),
    "twice": ("same.txt", "same.txt"),
    "file-as-directory": ("node", "node/leaf"),
    "negative-size": ({"type": "file", "oid": "0" * 40, "size": -1, "path": "negative.bin"},),
    "beyond-64-bits": ({"type": "file", "oid": "0" * 40, "size": 10**25, "path": "huge.bin"},),
    "petabyte": (
        {
            "type": "file",
            "oid": "0" * 40,
            "size": 10**15,
            "path": "huge.bin",
            "lfs": {"oid": "0" * 64, "size": 10**15, "pointerSize": 140},
        },
    ),
    "size-text": ({"type": "file", "oid": "0" * 40, "size": "12", "path": "text.bin"},),
    "size-float": ({"type": "file", "oid": "0" * 40, "size": 1e308, "path": "float.bin"},),
    "two-sizes": ({"type": "file", "oid": "0" * 40, "size": 1, "path": "a.bin", "lfs": {"oid": "0" * 64, "size": 2}},),
    "bad-oid": ({"type": "file", "oid": "../../x", "size": 1, "path": "oid.bin"},),
    "bad-sha256": ({"type": "file", "oid": "0" * 40, "size": 1, "path": "s.bin", "lfs": {"oid": "zz", "size": 1}},),
    "no-path": ({"type": "file", "oid": "0" * 40, "size": 1},),
    "null-row": (None,),
}
"""Rows for ``HostileTree``, by a short name."""
