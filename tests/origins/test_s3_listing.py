"""Listings: what Amazon, Ceph, Swift and rclone write, and what no listing is."""

from __future__ import annotations

import pytest

from fetcher.errors import ForbiddenError, TransportError
from fetcher.origins.s3_listing import Listing, NotAListing, Page, Room, Row, read_error, read_page
from fetcher.testing.s3 import Quirks
from fetcher.testing.s3 import listing as embedded
from fetcher.testing.s3.buckets import Bucket
from fetcher.testing.s3.signing import decoded

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(inner: str, *, root: str = "ListBucketResult", head: str = HEAD) -> bytes:
    return f"{head}<{root} {XMLNS}>{inner}</{root}>".encode()


def row(key: str = "p/a", size: str = "1", etag: str = "&quot;x&quot;", more: str = "") -> str:
    return f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>{etag}</ETag>{more}</Contents>"


URL = "<EncodingType>url</EncodingType>"
COUNT = "<KeyCount>1</KeyCount>"
PREFIX = "<Prefix>p/</Prefix>"


def test_a_page_of_amazon() -> None:
    more = (
        "<LastModified>2026-01-02T03:04:05.000Z</LastModified><StorageClass>GLACIER</StorageClass>"
        "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><Owner><ID>x</ID><Size>7</Size></Owner>"
    )
    inner = f"<Name>b</Name>{PREFIX}{URL}{COUNT}<IsTruncated>true</IsTruncated>"
    inner += "<NextContinuationToken>a+/=%22</NextContinuationToken>" + row("p/a+%2B%C3%A4", "12", more=more)
    found = read_page(page(inner), "p/")
    assert found.rows == (Row("p/a +ä", 12, "x", "2026-01-02T03:04:05.000Z", "GLACIER"),)
    assert (found.truncated, found.token, found.marker, found.version) == (True, "a+/=%22", None, 2)


@pytest.mark.parametrize(
    ("listed", "prefix", "key"),
    [
        ("p/a+b", "p/", "p/a b"),  # Amazon, rclone
        ("p%2Fa%20b", "p%2F", "p/a b"),  # Ceph
        ("p/a%2Bb", "p/", "p/a+b"),
        ("p/%01", "p/", "p/\x01"),
        ("p/%FF", "p/", "p/\udcff"),  # no UTF-8: refused as a name, not here
    ],
)
def test_encoded_keys(listed: str, prefix: str, key: str) -> None:
    inner = f"<Prefix>{prefix}</Prefix>{URL}{COUNT}{row(listed)}"
    assert [found.key for found in read_page(page(inner), "p/").rows] == [key]


def test_keys_are_decoded_only_if_it_says_that_they_are_encoded() -> None:
    assert read_page(page(f"{PREFIX}{COUNT}{row('p/a+b%20')}"), "p/").rows[0].key == "p/a+b%20"


@pytest.mark.parametrize("etag", ["&quot;x&quot;", "&#34;x&#34;", "x", '"x"', " &quot;x&quot; "])
def test_etags_in_any_quotes(etag: str) -> None:
    assert read_page(page(f"{PREFIX}{COUNT}{row(etag=etag)}"), "p/").rows[0].etag == "x"


def test_a_page_of_version_1_leads_on_by_marker() -> None:
    listing = Listing("p/", "here", 100)
    assert listing.query == "encoding-type=url&list-type=2&prefix=p%2F"
    listing.add(read_page(page(f"{PREFIX}<IsTruncated>true</IsTruncated>{row('p/a')}{row('p/b')}"), "p/"))
    assert listing.query == "encoding-type=url&marker=p%2Fb&prefix=p%2F"
    next_marker = "<IsTruncated>true</IsTruncated><NextMarker>p/d</NextMarker>"
    listing.add(read_page(page(f"{PREFIX}{next_marker}{row('p/c')}"), "p/"))
    assert listing.query == "encoding-type=url&marker=p%2Fd&prefix=p%2F"
    listing.add(read_page(page(PREFIX), "p/"))
    assert listing.ended and list(listing.rows) == ["p/a", "p/b", "p/c"]


def test_a_prefix_in_the_names_of_elements_does_not_matter() -> None:
    body = b'<n:ListBucketResult xmlns:n="x"><n:Prefix>p/</n:Prefix><n:KeyCount>0</n:KeyCount></n:ListBucketResult>'
    assert read_page(body, "p/").version == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "something else"),
        (b"<!DOCTYPE html><html></html>", "something else"),
        (b'{"error": "x"}', "something else"),
        (page("<Buckets/>", root="ListAllMyBucketsResult"), "something else"),
        (page("<!-- x -->", head="<!DOCTYPE ListBucketResult>"), "something else"),
        (page(f"<Prefix></Prefix>{COUNT}{row('q/a')}"), "another folder"),
        (page(f"{COUNT}{row()}"), "another folder"),
        (page(f"<Prefix>p</Prefix>{COUNT}{row()}"), "another folder"),
        (page(f"{PREFIX}{COUNT}{row('q/a')}"), "outside"),
        (page(f"{PREFIX}{COUNT}{row('p')}"), "outside"),
        (page("<a>" * 100), "no listing"),
    ],
)
def test_what_is_no_listing(body: bytes, words: str) -> None:
    with pytest.raises(NotAListing, match=words):
        read_page(body, "p/")


@pytest.mark.parametrize(
    "body",
    [
        page(f"{PREFIX}{COUNT}{row()}")[:-10],
        page(f"{PREFIX}{COUNT}&#x01;"),
        page(PREFIX).replace(b"p/", b"\xff"),
        page(f"{PREFIX}&bomb;"),
        page(f"{PREFIX}{row(size='-1')}"),
        page(f"{PREFIX}{row(size='1e3')}"),
        page(f"{PREFIX}<Contents><Size>1</Size></Contents>"),
        b"<Error><Code>InternalError</Code></Error>",
    ],
)
def test_what_may_be_better_next_time(body: bytes) -> None:
    with pytest.raises(TransportError):
        read_page(body, "p/")


def rows(*keys: str) -> tuple[Row, ...]:
    return tuple(Row(key, 1, "x", None, "") for key in keys)


def test_tokens_are_opaque_and_quoted() -> None:
    listing = Listing("", "here", 100)
    listing.add(Page(rows("a"), True, '1+/"=', None, 2))
    assert listing.query == "continuation-token=1%2B%2F%22%3D&encoding-type=url&list-type=2&prefix="
    listing.add(Page((), True, "b", None, 2))  # a page may be empty
    listing.add(Page(rows("c"), False, None, None, 2))
    assert listing.ended and list(listing.rows) == ["a", "c"]


def test_a_page_that_says_no_token_goes_on_behind_its_last_key() -> None:
    listing = Listing("", "here", 100)
    listing.add(Page(rows("a", "b"), True, None, None, 2))
    assert listing.query == "encoding-type=url&list-type=2&prefix=&start-after=b"


@pytest.mark.parametrize(
    "pages",
    [
        [Page(rows("a"), True, "t", None, 2), Page(rows("b"), True, "t", None, 2)],  # the token again
        [Page(rows("a"), True, "t", None, 2), Page(rows("a"), True, "u", None, 2)],  # the page again
        [Page((), True, None, None, 2)],  # no way on
    ],
)
def test_a_listing_that_leads_nowhere(pages: list[Page]) -> None:
    listing = Listing("", "here", 100)
    with pytest.raises(TransportError, match="does not end"):
        for each in pages:
            listing.add(each)


def test_a_listing_of_crumbs_ends() -> None:
    listing = Listing("", "here", 10**6)
    with pytest.raises(TransportError, match="does not end"):
        for number in range(1000):
            listing.add(Page(rows(str(number)), True, str(number), None, 2))
    assert 100 <= len(listing.rows) < 110


def test_too_many_keys() -> None:
    listing = Listing("", "here", 2)
    with pytest.raises(ForbiddenError, match="more than 2 keys") as caught:
        listing.add(Page(rows("a", "b", "c"), False, None, None, 2))
    assert caught.value.hint


@pytest.mark.parametrize(
    "quirks", [Quirks(), Quirks(list_encoding="ceph"), Quirks(list_versions="v1"), Quirks(list_etag_quote="")]
)
@pytest.mark.parametrize("page_keys", [1, 3, 1000])
def test_what_the_embedded_s3_lists(quirks: Quirks, page_keys: int) -> None:
    bucket = Bucket("b", lambda: 0.0)
    keys = ["p/a b", "p/a+b", "p/ä", "p/\x01", "p/&<>", "p/%2F", "p/sub/x", "p/", "p/\U0001f600"]
    for key in (*keys, "p0", "o"):
        bucket.put(key, b"x")
    listing = Listing("p/", "here", 100)
    while not listing.ended:
        pairs = [tuple(item.split("=")) for item in listing.query.split("&")]
        reply = embedded.answer(bucket, [(a, decoded(b)) for a, b in pairs], quirks, page_keys=page_keys)
        assert reply.content is not None
        listing.add(read_page(reply.content.read(), "p/"))
    assert sorted(listing.rows) == sorted(keys)


def test_errors_are_read_and_nothing_else_is() -> None:
    body = f"{HEAD}<Error><Code>AccessDenied</Code><Message>No</Message><Region>eu</Region></Error>".encode()
    assert read_error(body) == {"Code": "AccessDenied", "Message": "No", "Region": "eu"}
    for other in (b"", b"<html>", body[:-5], page(PREFIX), b"<Error>" + b"<a>" * 1000):
        assert read_error(other) == {}


def test_a_page_of_more_keys_than_any_store_gives() -> None:
    with pytest.raises(NotAListing, match="more than 20000 keys"):
        read_page(page(f"{PREFIX}{COUNT}{row() * 20_001}"), "p/")


def test_a_row_of_ever_new_members_costs_no_memory() -> None:
    many = "".join(f"<x{number}>1</x{number}>" for number in range(10_000))
    inner = row().replace("</Contents>", f"{many}</Contents>")
    assert read_page(page(f"{PREFIX}{COUNT}{many}{inner}"), "p/").rows[0].key == "p/a"


def test_what_is_thrown_away_leaves_room_for_others() -> None:
    room = Room(3)
    listing = Listing("", "here", 100, room)
    listing.add(Page(rows("a", "b"), True, "next", None, 2))
    with pytest.raises(ForbiddenError, match="together with the URLs beside it"):
        listing.add(Page(rows("b", "c", "d"), False, None, None, 2))
    listing.drop()
    assert room.keys_left == 3
