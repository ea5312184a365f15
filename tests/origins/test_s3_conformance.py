"""S3's dialect keeps the promises of every origin, against the strict embedded S3 and its odder manners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fetcher.model.s3 import S3
from fetcher.net.api import ApiClient
from fetcher.net.roads import Roads
from fetcher.origins.s3 import S3Origin
from fetcher.testing.s3 import AWS, Key, Quirks
from fetcher.testing.s3 import S3 as EmbeddedS3
from tests.origins.conformance import OriginConformance, World
from tests.origins.stores import ANONYMOUS, FILES, INSIDER, KEY_ID, OUTSIDER, SECRET, settings_for


class TestS3(OriginConformance):
    quirks: Quirks = AWS
    page_keys = 1000
    configured = True
    never_in_parts: frozenset[str] = frozenset()

    def locations(self, s3: EmbeddedS3) -> tuple[str, str, str]:
        """URLs of what is public, what is private, and what is not there."""
        return "s3://models/tiny", "s3://closed/tiny", "s3://closed/missing"

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        keys = {KEY_ID: Key(SECRET, "alice"), "AKIDOUTSIDER": Key("0uts1de", "eve")}
        async with EmbeddedS3(keys=keys, page_keys=self.page_keys, quirks=self.quirks) as s3:
            public = s3.add_bucket("models", public=True)
            private = s3.add_bucket("closed", readers=["alice"])
            for bucket in (public, private):
                for path, data in FILES.items():
                    bucket.put(f"tiny/{path}", data)
                bucket.put("tiny/", b"")
                bucket.put("tiny/sub/", b"")
                bucket.put("tiny2/other", b"other")
            url, private_url, missing_url = self.locations(s3)
            settings = settings_for(s3.endpoint if self.configured else "https://s3.amazonaws.com")
            transport = Roads(settings)

            async def change() -> None:
                public.put("tiny/README.md", b"# Changed\n", last_modified=2e9)

            try:
                yield World(
                    origin=S3Origin(ApiClient(transport, settings), settings),
                    transport=transport,
                    public=S3.at(url),
                    files=FILES,
                    private=S3.at(private_url),
                    missing=S3.at(missing_url),
                    insider=INSIDER,
                    outsider=OUTSIDER,
                    anonymous=ANONYMOUS,
                    change=change,
                    use_up_urls=None,
                    tokens_seen_elsewhere=lambda: sum(record.authorization for record in s3.requests.select("cdn")),
                    never_in_parts=self.never_in_parts,
                    pins_outlive_changes=False,
                    says_what_is_public=False,
                )
            finally:
                await transport.close()


class TestS3InSmallPages(TestS3):
    page_keys = 1


class TestS3AtAnAddressThatNobodyConfigured(TestS3):
    """As a job names a store of somebody's own: the first segment of the path is its bucket."""

    configured = False

    def locations(self, s3: EmbeddedS3) -> tuple[str, str, str]:
        return s3.url("models", "tiny"), s3.url("closed", "tiny"), s3.url("closed", "missing")


class TestS3ThatIgnoresConditions(TestS3):
    quirks = Quirks(if_match="ignored", list_etag_quote="")


class TestS3OfCeph(TestS3):
    quirks = Quirks(part_number="ignored", checksum_mode="ignored", list_encoding="ceph", list_token="last-key")
    page_keys = 2


class TestS3OfVersion1(TestS3):
    quirks = Quirks(list_versions="v1")
    page_keys = 2


class TestS3ThatBearsNoUnknownHeader(TestS3):
    quirks = Quirks(checksum_mode="unknown")


class TestS3ThatKeepsItsChecksumsToItself(TestS3):
    quirks = Quirks(checksum_mode="denied")


class TestS3BehindACacheWithEtagsOfItsOwn(TestS3):
    quirks = Quirks(edge_etag=True)
