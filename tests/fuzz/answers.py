"""What origins answer: pages, listings, manifests, tokens, errors and their headers, through the code that asks.

A case is an answer: status, headers, an empty line, body. It is given to every question, or to those of one kind while
the others are answered well, by a transport without sockets; time is a fake that only sleeping moves.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from fetcher.config import Settings
from fetcher.errors import FetcherError, ForbiddenError
from fetcher.model.asker import Asker
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.ollama import Ollama
from fetcher.model.ranges import ByteRange
from fetcher.model.resource import HF, S3
from fetcher.model.s3 import S3Location
from fetcher.model.secret import AWSKeys, Login, Secret
from fetcher.net import pacing, registry_auth, registry_documents
from fetcher.net.api import ApiClient, Refused
from fetcher.net.pacing import Pacer
from fetcher.net.registry import RegistryClient, RegistryManifest
from fetcher.net.request import Request, address_of
from fetcher.origins import hf, hf_tree, s3_checks, s3_listing
from fetcher.origins.hf import HfOrigin
from fetcher.origins.hf_errors import hub_error
from fetcher.origins.ollama import OllamaOrigin
from fetcher.origins.s3 import S3Origin
from fetcher.origins.s3_errors import S3Fault, s3_error
from fetcher.plan import pace, retry
from tests.fuzz.harness import Family, Plant
from tests.fuzz.judging import assert_fit_to_be_told, assert_sound_manifest, printable, told
from tests.net.fakes import FakeResponse, FakeTime, FakeTransport

HUB = "https://hub.example.org"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE_BYTES_MAX = 1 << 44
SETTINGS = Settings(
    cache_dir=Path("/unused"),
    state_dir=Path("/unused"),
    hf_endpoint=HUB,
    s3_endpoint="https://s3.example.org",
    ollama_url="https://registry.example.org",
    api_tries_max=2,
    manifest_files_max=5_000,
    file_bytes_max=FILE_BYTES_MAX,
)
_loop: asyncio.AbstractEventLoop | None = None

Answers = Callable[[Request], FakeResponse]


def parsed(case: bytes) -> tuple[int, CIMultiDict[str], bytes]:
    """Status, headers (as the transport gives them: joined, surrogates for raw bytes) and body of a case."""
    head, _, body = case.partition(b"\n\n")
    status, _, lines = head.partition(b"\n")
    return int(status) if status.isdigit() and len(status) == 3 else 200, headers_of(lines), body


def headers_of(lines: bytes) -> CIMultiDict[str]:
    found: CIMultiDict[str] = CIMultiDict()
    for line in lines.split(b"\n"):
        name, colon, value = line.decode("utf-8", "surrogateescape").partition(":")
        name = re.sub(r"[^!#$%&'*+.^_`|~0-9A-Za-z-]", "", name)
        if colon and name:
            value = re.sub(r"[\x00\r\n]", "", value).strip(" \t")
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def answer(status: int, body: Any = b"", **headers: str) -> bytes:
    """One example."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = "\n".join(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())
    return f"{status}\n{lines}\n\n".encode() + raw


def response(case: bytes) -> FakeResponse:
    status, headers, body = parsed(case)
    return FakeResponse(status, body, headers)


def run(ask: Callable[[ApiClient], Coroutine[Any, Any, Any]], answers: Answers) -> tuple[Any, FakeTransport]:
    """What ``ask`` makes of ``answers``, without a second of waiting."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    time = FakeTime()
    transport = FakeTransport(answers)

    async def main() -> Any:
        client = ApiClient(transport, SETTINGS, time, sleep=time.sleep, unix_clock=lambda: 1.8e9, pacer=Pacer(time))
        return await ask(client)

    found = _loop.run_until_complete(main())
    assert len(transport.asked) <= 400, f"{len(transport.asked)} requests for one answer"
    return found, transport


def close() -> None:
    """End the loop that all cases share, and its threads."""
    global _loop
    if _loop is not None:
        _loop.run_until_complete(_loop.shutdown_default_executor())
        _loop.close()
        _loop = None


def _judge_requests(transport: FakeTransport, credential_origin: str) -> None:
    """Nobody but its own origin is shown a credential, and every URL can be asked."""
    for asked in transport.asked:
        address = address_of(asked.url)
        assert asked.carried_credential is None or address.origin == credential_origin, asked
        for name, value in asked.headers:
            assert name.isascii() and "\n" not in value and "\r" not in value and "\0" not in value


# --- the Hub

INFO = {"sha": COMMIT, "private": False, "gated": False, "disabled": False, "siblings": [{"rfilename": "a"}]}
ROWS = [
    {"type": "directory", "oid": "0" * 40, "size": 0, "path": "sub"},
    {"type": "file", "oid": "1" * 40, "size": 12, "path": "config.json"},
    {"type": "file", "oid": "2" * 40, "size": 70, "path": "sub/w.bin", "lfs": {"oid": "3" * 64, "size": 70}},
    {"type": "file", "oid": "4" * 40, "size": 5, "path": "caf\u00e9/Twin.txt", "xetHash": "5" * 64},
]
_LINK = f'<{HUB}/api/models/acme/tiny/tree/{COMMIT}?recursive=true&cursor=abc>; rel="next"'
_HUB_WORDS = (b'rel="next"', b"<", b">", b"; ", b"symlink", b"submodule", b"lfs", b"sha256:", b"gated", b"cursor=")


def _hub(case: bytes, which: str) -> Manifest:
    made = response(case)

    def answers(request: Request) -> FakeResponse:
        if which in request.url:
            return (
                made
                if "cursor=" not in request.url or which != "/tree/"
                else response(answer(200, [{**ROWS[1], "path": "second.txt"}]))
            )
        if "/tree/" in request.url:
            return response(answer(200, ROWS))
        return response(answer(200, INFO))

    asker = Asker("job", Secret("hf_" + "x" * 30))
    resource = HF("acme/tiny", files=() if len(case) % 3 else ("*.json", "sub/"))
    found, transport = run(lambda api: HfOrigin(api, SETTINGS).resolve(resource, asker), answers)
    _judge_requests(transport, f"{HUB}:443")
    assert isinstance(found, Manifest)
    return found


def _judge_manifest(case: bytes, found: Manifest) -> None:
    assert_sound_manifest(found, FILE_BYTES_MAX)


def _judge_hub(case: bytes, found: Manifest) -> None:
    _judge_manifest(case, found)
    assert found.revision is not None and re.fullmatch(r"[0-9a-f]{40}", found.revision)


def _plant_path(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hf_tree, "safe_path", lambda path: path)


def _plant_sizes(patch: pytest.MonkeyPatch) -> None:
    whole = hf_tree.Listing._entry

    def entry(self: Any, row: Any) -> FileEntry:
        found = whole(self, hf_tree.Row(row.type, row.path, row.oid, 0, None))
        return FileEntry(found.path, row.size, found.digest)

    patch.setattr(hf_tree.Listing, "_entry", entry)


def _plant_tree_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hf_tree, "check_tree", lambda paths: None)


HUB_TREE = Family(
    "hub-tree",
    "json",
    (json.dumps(ROWS).encode(), json.dumps([{**ROWS[1], "path": f"{n}/{n}.txt"} for n in range(40)]).encode()),
    lambda case: _hub(b"200\n\n" + case, "/tree/"),
    (FetcherError,),
    _judge_hub,
    plants=(
        Plant("unsafe names", _plant_path),
        Plant("sizes beyond bounds", _plant_sizes),
        Plant("colliding names", _plant_tree_check),
        Plant("digests as they come", lambda patch: patch.setattr(hf_tree.Listing, "_digest", _any_digest)),
    ),
    words=(
        b"CONFIG.JSON",
        b"caf\xc3\xa9/twin.txt",
        b"cafe\xcc\x81/x",
        b"config.json/x",
        b"sub",
        b"../x",
        b"/x",
        b"SUB/y",
    ),
    weight=2.0,
)
HUB_INFO = Family(
    "hub-info",
    "json",
    (json.dumps(INFO).encode(), json.dumps({**INFO, "gated": "manual", "private": True}).encode()),
    lambda case: _hub(b"200\n\n" + case, "/revision/"),
    (FetcherError,),
    _judge_hub,
    plants=(Plant("any commit", lambda patch: patch.setattr(hf, "FULL_COMMIT", re.compile(r".*", re.DOTALL))),),
)
HUB_ANSWER = Family(
    "hub-answer",
    "answer",
    (
        answer(
            200, ROWS, Link=_LINK, RateLimit='"api";r=99;t=200', RateLimit_Policy='"fixed window";"api";q=500;w=300'
        ),
        answer(403, b"", X_Error_Code="GatedRepo", X_Error_Message="Access is restricted.", X_Request_Id="Root=1-abc"),
        answer(307, b"", Location=f"/api/models/acme/other/tree/{COMMIT}?recursive=true"),
        answer(429, b"", Retry_After="3", RateLimit='"api";r=0;t=12'),
        answer(200, ROWS, Link=f'{_LINK}, <{HUB}/first>; rel="first"; title="a, b; c"'),
    ),
    lambda case: _hub(case, "/tree/"),
    (FetcherError,),
    _judge_hub,
    plants=(
        Plant("links are split", lambda patch: patch.setattr(hf, "_next_link", lambda field: field.split("<")[1])),
        Plant("an endless listing", lambda patch: patch.setattr(hf_tree.Listing, "add", _believing)),
    ),
    words=_HUB_WORDS,
    weight=2.0,
)


def _any_digest(self: Any, algorithm: str, digits: str, path: str) -> Digest:
    return Digest(algorithm, digits)


def _believing(self: Any, rows: Any, *, last: bool) -> None:
    self._entries |= {row.path: self._entry(row) for row in rows if row.type == "file"}
    if not last:
        self._page_count += 1
        assert self._page_count < 100, "a listing without end"


def _refusal(case: bytes) -> FetcherError:
    status, headers, _ = parsed(case)
    return hub_error(status, headers, "hf://acme/tiny", reference="main", path="a/b", page=f"{HUB}/acme/tiny")


def _judge_told(case: bytes, error: FetcherError) -> None:
    assert_fit_to_be_told(error)
    printable(*told(error))
    assert all(len(text) < 2000 for text in told(error))


HUB_REFUSAL = Family(
    "hub-refusal",
    "answer",
    tuple(
        answer(
            status, b"", X_Error_Code=code, X_Error_Message="Access to this resource is disabled.", X_Request_Id="a-1"
        )
        for status, code in ((403, "GatedRepo"), (401, "RepoNotFound"), (404, "EntryNotFound"), (403, ""), (500, ""))
    ),
    _refusal,
    judge=_judge_told,
    plants=(
        Plant(
            "what a host says is quoted as it is", lambda patch: patch.setattr("fetcher.origins.hf_errors.shown", str)
        ),
    ),
)

# --- headers by themselves


def _waits(case: bytes) -> float | None:
    made = FakeResponse(429, b"", headers_of(case))
    pacer = Pacer(lambda: 1000.0)
    request = Request("GET", f"{HUB}/x")
    pacer.sent(request)
    pacer.observe(request, made)
    delay_s = pacer.delay_s(request)
    assert 0.0 <= delay_s < 1e10, delay_s
    return pacing.wait_asked_s(made, 1.8e9)


def _judge_wait(case: bytes, wait_s: float | None) -> None:
    assert wait_s is None or 0.0 <= wait_s < 1e12, wait_s


PACE = Family(
    "pace-headers",
    "headers",
    (
        b'Retry-After: 120\nRateLimit: "resolvers";r=2998;t=172\n'
        b'RateLimit-Policy: "fixed window";"resolvers";q=3000;w=300',
        b"Retry-After: Wed, 21 Oct 2037 07:28:00 GMT",
        b'RateLimit: "api";r=0;t=12, "pages";r=5;t=1',
        b"Retry-After: Wednesday, 21-Oct-37 07:28:00 -2359",
    ),
    _waits,
    judge=_judge_wait,
    plants=(
        Plant(
            "any number", lambda patch: patch.setattr(retry, "parse_retry_after", lambda value, now: float(value or 0))
        ),
        Plant("numbers without bounds", lambda patch: patch.setattr(pace, "_PARAMETER", re.compile(r"([a-z]+)=(.*)"))),
    ),
    words=(b"GMT", b"Mon, ", b"01 Jan 0001 00:00:00", b"31 Dec 9999 23:59:59 -2359", b";r=", b";t=", b'"api"', b"q=0"),
)


def _judge_range(case: bytes, found: tuple[ByteRange, int | None]) -> None:
    span, total = found
    assert 0 <= span.start < span.stop <= 10**19 and (total is None or 0 <= total < 10**19)


RANGE = Family(
    "content-range",
    "text",
    (b"bytes 0-1023/4096", b"bytes 5-5/*", b"Bytes 0-9223372036854775806/9223372036854775807"),
    lambda case: ByteRange.of_content_range(case.decode("utf-8", "surrogateescape")),
    (ValueError,),
    _judge_range,
    plants=(
        Plant(
            "whatever int() takes",
            lambda patch: patch.setattr(ByteRange, "of_content_range", classmethod(_loose_range)),
        ),
    ),
)


def _loose_range(cls: Any, value: str) -> tuple[ByteRange, int | None]:
    first, last, total = re.split(r"[-/]", value.split()[1])
    return cls(int(first), int(last) + 1), int(total) if total != "*" else None


# --- S3

PREFIX = "data/"


def _contents(*keys: str, etag: str = "&quot;9b2cf535f27731c974343645a3985328&quot;", size: int = 7) -> str:
    return "".join(
        f"<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>{etag}</ETag>"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    )


def _listing(inner: str, *, more: str = "<IsTruncated>false</IsTruncated>", prefix: str = PREFIX) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>bucket</Name><Prefix>{prefix}</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<EncodingType>url</EncodingType>{more}{inner}</ListBucketResult>"
    ).encode()


_MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>1ab+/=</NextContinuationToken>"
LISTINGS = (
    _listing(_contents("data/a.bin", "data/sub/b+c%20d.bin")),
    _listing(_contents("data/a.bin"), more=_MORE),
    _listing(_contents("data/x", size=0) + _contents("data/x/y", etag="&quot;" + "0" * 32 + "-3&quot;", size=20 << 20)),
    _listing("").replace(b"<KeyCount>2</KeyCount>", b"<NextMarker>data/z</NextMarker>"),
)
ERRORS = (
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message><Resource>/b/k</Resource>'
    b"<RequestId>4442587FB7D0A2F9</RequestId></Error>",
    b"<Error><Code>PermanentRedirect</Code><Endpoint>bucket.s3.eu-west-1.amazonaws.com</Endpoint><Region>eu-west-1</Region></Error>",
    b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
)
_XML_WORDS = (
    *(
        b"<Contents>",
        b"</Contents>",
        b"<Key>",
        b"</Key>",
        b"<Size>9</Size>",
        b"<Prefix>data/</Prefix>",
        b"<IsTruncated>",
    ),
    *(b"data/../../x", b"data//x", b"data/a%00b", b"data/%2e%2e/x", b"data/a%0Ab", b"data/%FF", b"data/A.bin", b"&#0;"),
    *(b"&#x110000;", b"&lt;", b"<Error>", b"<x:Contents>", b'xmlns:x="y"', b"99999999999999999999", b"-1", b"1e3"),
)


def _page(case: bytes) -> s3_listing.Page:
    return s3_listing.read_page(case, PREFIX)


def _judge_page(case: bytes, page: s3_listing.Page) -> None:
    assert len(page.rows) <= s3_listing.PAGE_ROWS_MAX
    for row in page.rows:
        assert row.key.startswith(PREFIX) and 0 <= row.size < 10**20
    listing = s3_listing.Listing(PREFIX, "s3://bucket/data/", 1000)
    try:
        for _ in range(2_000):
            listing.add(page)
            if listing.ended:
                break
            assert re.fullmatch(r"[\x21-\x7e]+", listing.query), listing.query
        else:
            raise AssertionError("the same page for ever")
    except FetcherError as error:
        assert_fit_to_be_told(error)


S3_LISTING = Family(
    "s3-listing",
    "xml",
    LISTINGS,
    _page,
    (s3_listing.NotAListing, FetcherError),
    _judge_page,
    plants=(
        Plant("keys from elsewhere", lambda patch: patch.setattr(s3_listing, "read_page", _loose_page)),
        Plant(
            "the declared encoding counts", lambda patch: patch.setattr(s3_listing.expat, "ParserCreate", _any_encoding)
        ),
    ),
    words=_XML_WORDS,
    weight=2.0,
)
_create = s3_listing.expat.ParserCreate
_read = s3_listing.read_page


def _any_encoding(encoding: str) -> Any:
    return _create()


def _loose_page(body: bytes, prefix: str) -> s3_listing.Page:
    match = re.search(rb"<Prefix>([^<]*)", body)
    return _read(body, match[1].decode() if match else "")


def _s3_refused(case: bytes) -> FetcherError:
    status, headers, body = parsed(case)
    fault = S3Fault.of(Refused(status, "https://bucket.example.org/k?X-Amz-Signature=CanarySig00001", headers, body))
    kinds = ("anonymous", "keys", "query", "somebody")
    return s3_error(fault, "s3://bucket/k", kinds[len(case) % 4], sure=len(case) % 3 > 0, listing=len(case) % 2 > 0)  # type: ignore[arg-type]


S3_REFUSAL = Family(
    "s3-refusal",
    "answer",
    tuple(answer(403, body, x_amz_request_id="4442587FB7D0A2F9", Content_Type="application/xml") for body in ERRORS),
    _s3_refused,
    judge=_judge_told,
    plants=(
        Plant(
            "what a host says is quoted as it is", lambda patch: patch.setattr("fetcher.origins.s3_errors.shown", str)
        ),
        Plant(
            "codes of any kind", lambda patch: patch.setattr("fetcher.origins.s3_errors._CODE", re.compile(".*", 16))
        ),
    ),
    words=_XML_WORDS,
)

OBJECTS = (
    b'ETag: "9b2cf535f27731c974343645a3985328"\nLast-Modified: Wed, 12 Oct 2009 17:50:00 GMT\nx-amz-request-id: 1\n'
    b"x-amz-checksum-crc64nvme: AAAAAAAAAAA=\nx-amz-checksum-type: FULL_OBJECT\nContent-Length: 2000000",
    b'ETag: W/"9b2cf535f27731c974343645a3985328-3"\n'
    b"x-amz-checksum-sha256: 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=-3\n"
    b"x-amz-mp-parts-count: 3\nx-amz-version-id: abc\nServer: AmazonS3",
    b"ETag: abc\nx-goog-hash: crc32c=AAAAAA==,md5=CY9rzUYh03PK3k6DJie09g==\nx-goog-encryption-kms-key-name: k",
    b'x-amz-server-side-encryption: aws:kms\nETag: "00000000000000000000000000000000"\n'
    b"x-amz-checksum-md5: CY9rzUYh03PK3k6DJie09g==",
)


def _object(case: bytes) -> list[FileEntry]:
    headers = headers_of(case)
    found = []
    for size in (0, 7, 3_000_000, 10**13):
        for whole in (True, False):
            facts = s3_checks.facts_of_headers(headers, size, whole=whole, of_an_s3=whole)
            grid = s3_checks.grid_of(facts, 8 << 20, facts.part_count)
            s3_checks.wants_grid(facts)
            entry = s3_checks.entry_of("a", "https://h/a", facts, part_bytes=grid)
            s3_checks.same_state(entry, headers)
            found.append(s3_checks.with_answer(entry, headers, whole=whole))
    return found


def _judge_object(case: bytes, entries: list[FileEntry]) -> None:
    manifest = Manifest("s3", "https://h:443", "b", None, False, (entries[0],))
    assert len(manifest.digest()) == 64
    for entry in entries:
        assert_sound_manifest(Manifest("s3", "https://h:443", "b", None, False, (entry,)), FILE_BYTES_MAX)
        assert entry.validator is not None
        assert entry.validator.etag is None or re.fullmatch(r'(W/)?"[\x21\x23-\x7e]+"', entry.validator.etag)
        for digest in (*entry.guesses, *((entry.digest,) if entry.digest else ())):
            assert len(digest.hex) == s3_checks.HEX_DIGITS[
                digest.algorithm
            ] and 0 <= digest.part_bytes <= entry.size + (1 << 30)


S3_OBJECT = Family(
    "s3-object-headers",
    "headers",
    OBJECTS,
    _object,
    judge=_judge_object,
    plants=(
        Plant(
            "base64 of any length",
            lambda patch: patch.setattr(s3_checks, "_hex_of", lambda name, value: value.encode().hex()),
        ),
        Plant("ETags as they come", lambda patch: patch.setattr(s3_checks, "normal_etag", lambda text: text)),
    ),
    words=(b"x-amz-checksum-sha1", b"COMPOSITE", b"-10000", b"-0", b"W/", b'"', b"====", b"AAAA", b"crc32c=", b"md5="),
)


def _s3(case: bytes) -> Manifest:
    made = response(case)
    listing = response(answer(200, LISTINGS[0], Content_Type="application/xml"))
    kind = len(case) % 3

    def answers(request: Request) -> FakeResponse:
        listed = "list-type=" in request.url or "encoding-type=" in request.url
        return listing if listed and kind == 1 else made

    urls = ("https://bucket.s3.amazonaws.com/data/", "s3://bucket/data/", "https://files.example.org/data/a.bin")
    keys = AWSKeys("AKIDEXAMPLE", Secret("s3cr3t"), None, "eu-west-1")
    asker = Asker("job", keys if len(case) % 2 else None)
    resource = S3((S3Location.parse(urls[kind]),), None, keys if len(case) % 2 else None)

    async def resolve(api: ApiClient) -> Manifest:
        return await S3Origin(api, SETTINGS, lambda: 1.8e9).resolve(resource, asker)

    found, transport = run(resolve, answers)
    for asked in transport.asked:
        address_of(asked.url)
        assert asked.carried_credential is None or re.fullmatch(
            r"https://(s3\.example\.org|bucket\.s3(\.[a-z0-9-]+)?\.amazonaws\.com|files\.example\.org):443",
            asked.origin,
        ), f"keys for {asked.origin}"
    assert isinstance(found, Manifest)
    return found


S3_ANSWER = Family(
    "s3-answer",
    "answer",
    (
        *(answer(200, body, Content_Type="application/xml", x_amz_request_id="1") for body in LISTINGS[:3]),
        *(answer(403, body, x_amz_bucket_region="eu-west-1") for body in ERRORS),
        answer(301, ERRORS[1], Location="https://bucket.s3.eu-west-1.amazonaws.com/data/"),
        answer(206, b"x", ETag='"abc"', Content_Range="bytes 0-0/7", Content_Length="1", x_amz_mp_parts_count="3"),
        answer(200, b"body", ETag='"abc"', Content_Length="4", Last_Modified="Wed, 12 Oct 2009 17:50:00 GMT"),
        answer(403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", Date="Wed, 12 Oct 2009 17:50:00 GMT"),
    ),
    _s3,
    (FetcherError,),
    _judge_manifest,
    plants=(Plant("a stated length is a number", lambda patch: patch.setattr(s3_checks, "_count", int)),),
    words=_XML_WORDS,
    weight=2.0,
)

# --- registries

_DIGEST = "sha256:" + "0123456789abcdef" * 4
MODEL = {
    "schemaVersion": 2,
    "mediaType": registry_documents.DOCKER_MANIFEST,
    "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": _DIGEST, "size": 400},
    "layers": [
        {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "1" * 64, "size": 10**9},
        {"mediaType": "application/vnd.ollama.image.params", "digest": "sha256:" + "2" * 64, "size": 60},
    ],
}
INDEX = {
    "schemaVersion": 2,
    "mediaType": registry_documents.OCI_INDEX,
    "manifests": [
        {
            "mediaType": registry_documents.OCI_MANIFEST,
            "digest": _DIGEST,
            "size": 500,
            "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        }
    ],
}


def _document(case: bytes) -> registry_documents.Document:
    found = registry_documents.parse_document(case, registry_documents.OCI_MANIFEST, "a:b")
    if isinstance(found, registry_documents.Index):
        registry_documents.choose_platform(found, registry_documents.Platform("linux", "arm64", "v8"), "a:b")
    else:
        try:
            registry_documents.image_bytes(found, "a:b")
        except ForbiddenError as error:
            assert_fit_to_be_told(error)
    return found


def _judge_document(case: bytes, found: registry_documents.Document) -> None:
    rows = found.children if isinstance(found, registry_documents.Index) else found.layers
    for row in rows:
        assert re.fullmatch(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})", str(row.digest))
        assert 0 <= row.size <= 1 << 60


REGISTRY_DOCUMENT = Family(
    "registry-document",
    "json",
    (json.dumps(MODEL).encode(), json.dumps(INDEX).encode()),
    _document,
    (FetcherError,),
    _judge_document,
    plants=(
        Plant("digests as they come", lambda patch: patch.setattr(registry_documents, "is_digest", lambda text: True)),
    ),
    words=(
        b"sha256:../../etc/passwd",
        b"sha512:" + b"0" * 128,
        b"md5:" + b"0" * 32,
        registry_documents.OCI_INDEX.encode(),
    ),
)


def _ollama(case: bytes) -> Manifest:
    made = response(case)

    async def resolve(api: ApiClient) -> Manifest:
        return await OllamaOrigin(api, SETTINGS).resolve(Ollama.of("tiny", "other:2"), Asker("job"))

    found, _ = run(resolve, lambda request: made)
    assert isinstance(found, Manifest)
    return found


OLLAMA = Family(
    "ollama-answer",
    "answer",
    (
        answer(200, MODEL, Content_Type="text/plain"),
        answer(200, {**MODEL, "config": {}}, Content_Type=registry_documents.DOCKER_MANIFEST),
        answer(404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}),
        answer(429, {"errors": [{"code": "TOOMANYREQUESTS"}]}, Retry_After="2"),
    ),
    _ollama,
    (FetcherError,),
    _judge_manifest,
    plants=(
        Plant(
            "names of blobs as they come", lambda patch: patch.setattr("fetcher.origins.ollama_store.blob_path", _blob)
        ),
    ),
    weight=2.0,
)


def _blob(digest: Any) -> str:
    return f"blobs/../{digest}" if digest.hex.startswith("1") else f"blobs/{digest}"


def _login(case: bytes, *, token_answer: bytes | None) -> tuple[RegistryManifest, FakeTransport]:
    """Log in at a registry: ``case`` is its challenge or, with ``token_answer``, that is fuzzed instead."""
    manifest = response(answer(200, MODEL, Content_Type=registry_documents.DOCKER_MANIFEST))
    challenge = 'Bearer realm="https://auth.example.org/token",service="r",scope="repository:a/b:pull"'
    if token_answer is None:
        challenge = headers_of(b"X: " + case.replace(b"\n", b" ")).get("X", "")
    token = response(token_answer or answer(200, {"token": "abc", "expires_in": 300}))
    asked = 0

    def answers(request: Request) -> FakeResponse:
        nonlocal asked
        if "/v2/" not in request.url or "service=" in request.url or "scope=" in request.url:
            return token
        asked += 1
        return FakeResponse(401, b"", CIMultiDict({"WWW-Authenticate": challenge})) if asked == 1 else manifest

    async def ask(api: ApiClient) -> RegistryManifest:
        return await RegistryClient(api, lambda: 5.0).manifest(
            "https://registry.example.org", "a/b", "latest", credential=Login("me", Secret("CanaryPassword0001"))
        )

    return run(ask, answers)


def _judge_login(case: bytes, found: tuple[RegistryManifest, FakeTransport]) -> None:
    manifest, transport = found
    assert manifest.digest.startswith("sha256:")
    for request in transport.asked:
        assert "CanaryPassword" not in request.url
        address_of(request.url)
        if isinstance(request.carried_credential, Login):
            continue  # to the realm that the registry names; over https or where the operator allows, see authorize
        if isinstance(request.carried_credential, Secret):
            text = request.carried_credential.reveal()
            assert re.fullmatch(r"[\x21-\x7e]+", text), "a token that can't be sent"
            assert request.origin == "https://registry.example.org:443", "a token for somebody else"


CHALLENGE = Family(
    "registry-challenge",
    "text",
    (
        b'Bearer realm="https://auth.example.org/token",service="registry.example.org",scope="repository:a/b:pull"',
        b'Basic realm="x", Bearer realm="https://auth.example.org/t?x=y" , error="invalid_token"',
        b'Negotiate, Basic realm="a \\"quoted\\" b"',
    ),
    lambda case: _login(case, token_answer=None),
    (FetcherError,),
    _judge_login,
    plants=(
        Plant(
            "quoted texts without an end",
            lambda patch: patch.setattr(
                registry_auth, "_PARAMETER", re.compile(r"(\w+)\s*=\s*((?:(?:[^,\\]+)+)+)$|(x)")
            ),
        ),
        Plant(
            "the first parameter is the realm", lambda patch: patch.setattr(registry_auth, "parse_challenges", _first)
        ),
    ),
    words=(b"Bearer ", b"Basic ", b"realm=", b'realm="', b"scope=", b"service=", b'"', b"\\", b", ", b"http://a/"),
)


def _first(text: str) -> tuple[registry_auth.Challenge, ...]:
    return (registry_auth.Challenge("bearer", text.split('"')[1]),)


TOKEN = Family(
    "registry-token",
    "json",
    (
        json.dumps(
            {"token": "CanaryToken000001", "access_token": "other", "expires_in": 300, "issued_at": "x"}
        ).encode(),
        json.dumps({"access_token": "abc.def-_~+/=", "expires_in": 1.5}).encode(),
    ),
    lambda case: _login(b"", token_answer=b"200\n\n" + case),
    (FetcherError,),
    _judge_login,
    plants=(
        Plant("tokens as they come", lambda patch: patch.setattr(registry_auth, "_TOKEN68", re.compile(".*", 16))),
    ),
)

FAMILIES = (
    *(HUB_TREE, HUB_INFO, HUB_ANSWER, HUB_REFUSAL, PACE, RANGE, S3_LISTING, S3_REFUSAL, S3_OBJECT, S3_ANSWER),
    *(REGISTRY_DOCUMENT, OLLAMA, CHALLENGE, TOKEN),
)
