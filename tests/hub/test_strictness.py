"""The hub is no easier than the real one: signatures, expiry, credentials, ranges, quotas, compression, pages."""

from __future__ import annotations

import asyncio
import gzip
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import pytest
import yarl

from fetcher.testing import Hub, Quotas, Synthetic, Token, hub_in_thread
from fetcher.testing.bodies import parse_range
from fetcher.testing.hub.routes import Route, parse
from tests.hub.raw import Answer, fetch

MIB = 1 << 20
LARGE = Synthetic(3 * MIB + 11, 4)
LARGE_NAME = "model (v1)~'s.bin"
TEXT = b"some text, and more\n" * 200


class Clock:
    """Unix seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def strict(clock: Clock) -> Iterator[Hub]:
    tokens = {"hf_alice": "alice", "hf_bob": Token("bob", repos=frozenset())}
    with hub_in_thread(tokens=tokens, clock=clock, page_entries=3) as hub:
        files = {LARGE_NAME: LARGE, "config.json": TEXT, "noise": b"\0" + TEXT, "empty": b""}
        hub.add_repo("acme/tiny", files=files)
        yield hub


def resolve(hub: Hub, path: str = LARGE_NAME, **headers: str) -> Answer:
    return fetch(f"{hub.endpoint}/acme/tiny/resolve/main/{quote(path)}", headers=headers)


# The redirect and the signed URL


def test_a_large_file_is_a_redirect_to_another_origin(strict: Hub) -> None:
    answer = resolve(strict)
    assert answer.status == 302
    assert answer.headers["location"].startswith(f"{strict.cdn_endpoint}/")
    assert strict.cdn_endpoint != strict.endpoint
    assert answer.headers["x-linked-etag"] == f'"{LARGE.sha256}"'
    assert answer.headers["x-linked-size"] == str(LARGE.size)
    assert answer.headers["x-repo-commit"] == strict.repo("acme/tiny").head
    assert int(answer.headers["content-length"]) == len(answer.body) != LARGE.size
    body = fetch(answer.headers["location"])
    assert body.status == 200
    assert body.body == LARGE.read()
    # A hash of the right length that is not the SHA-256: to trust it is to find every file damaged.
    assert re.fullmatch(r'"[0-9a-f]{64}"', body.headers["etag"])
    assert body.headers["etag"] != f'"{LARGE.sha256}"'


def test_a_regular_file_is_a_relative_redirect(strict: Hub) -> None:
    answer = resolve(strict, "config.json")
    entry = strict.repo("acme/tiny").commits[strict.repo("acme/tiny").head].entries["config.json"]
    assert answer.status == 307
    assert answer.headers["location"].startswith("/api/resolve-cache/models/acme/tiny/")
    assert answer.headers["location"].endswith(f"&etag=%22{entry.oid}%22")
    body = fetch(strict.endpoint + answer.headers["location"])
    assert (body.status, body.body, body.headers["etag"]) == (200, TEXT, f'"{entry.oid}"')
    assert body.headers["x-repo-commit"] == strict.repo("acme/tiny").head


def test_the_signature_covers_every_byte_of_the_url(strict: Hub) -> None:
    location = resolve(strict).headers["location"]
    assert {"%27", "%28", "~"} <= set(re.findall(r"%27|%28|~", location))
    head, _, query = location.partition("?")
    changes = [
        str(yarl.URL(location)),  # what aiohttp does with a str
        f"{head}?{unquote(query)}".replace(" ", "+"),
        location.replace("%28", "("),
        location.replace("%27", "'"),
        location.replace("~", "%7E"),
        location.replace("%3D", "%3d"),
        location + "&x=1",
        location.replace("public", "other"),
        re.sub(r"Signature=.", "Signature=!", location),
        re.sub(r"&Signature=[^&]*", "", location),
        head,
    ]
    for changed in changes:
        assert changed != location
        assert fetch(changed).status == 403, changed
    assert fetch(location).status == 200


def test_the_time_is_signed_too(strict: Hub, clock: Clock) -> None:
    location = resolve(strict).headers["location"]
    expires = int(re.search(r"Expires=(\d+)", location)[1])  # type: ignore[index]
    assert 3598 <= expires - clock.now <= 3600
    clock.now = expires - 1
    assert fetch(location).status == 200
    assert fetch(location.replace(f"Expires={expires}", f"Expires={expires + 999}")).status == 403
    clock.now = expires
    late = fetch(location)
    assert late.status == 403
    assert b"expired" in late.body
    assert fetch(resolve(strict).headers["location"]).status == 200


def test_the_cdn_refuses_credentials_and_other_methods(strict: Hub) -> None:
    location = resolve(strict).headers["location"]
    assert fetch(location, headers={"Authorization": "Bearer hf_alice"}).status == 400
    assert fetch(location, method="POST", body=b"x").status == 405
    head = fetch(location, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(LARGE.size)
    assert "ratelimit" not in head.headers


def test_a_careful_aiohttp_client_passes_and_a_sloppy_one_does_not(strict: Hub) -> None:
    url = f"{strict.endpoint}/acme/tiny/resolve/main/{quote(LARGE_NAME)}"

    async def careful() -> bytes:
        async with aiohttp.ClientSession(headers={"Accept-Encoding": "identity"}) as session:
            bearer = {"Authorization": "Bearer hf_alice"}
            async with session.get(yarl.URL(url, encoded=True), allow_redirects=False, headers=bearer) as answer:
                location = yarl.URL(answer.headers["Location"], encoded=True)
            async with session.get(location, allow_redirects=False) as answer:
                assert answer.status == 200
                return await answer.read()

    async def requoting() -> int:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status

    async def token_to_everybody() -> int:
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer hf_alice"}) as session:
            async with session.get(yarl.URL(url, encoded=True), allow_redirects=False) as answer:
                location = yarl.URL(answer.headers["Location"], encoded=True)
            async with session.get(location) as answer:
                return answer.status

    async def compressed() -> tuple[int, int | None]:
        url = f"{strict.endpoint}/acme/tiny/resolve/main/config.json"
        async with aiohttp.ClientSession() as session, session.get(url, headers={"Range": "bytes=10-19"}) as answer:
            return answer.status, answer.content_length

    assert asyncio.run(careful()) == LARGE.read()
    assert asyncio.run(requoting()) == 403
    assert asyncio.run(token_to_everybody()) == 400
    assert asyncio.run(compressed()) == (200, None)  # asked for ten bytes, got a stream of unknown length
    sent = strict.requests.select("cdn")
    assert [record.authorization for record in sent] == [False, False, True]
    assert all("authorization" not in record.headers for record in sent)


# Ranges and conditions


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=10-", (10, 100)),
        ("bytes=99-", (99, 100)),
        ("bytes=90-200", (90, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=100-", (100, 100)),
        ("bytes=100-200", (100, 100)),
        ("bytes=-0", (100, 100)),
        ("bytes=5-4", None),
        ("bytes=0-1,4-5", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=-", None),
        ("", None),
        (None, None),
    ],
)
def test_range_headers(header: str | None, span: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == span


def test_ranges_of_both_origins(strict: Hub) -> None:
    whole = {strict.endpoint + resolve(strict, "config.json").headers["location"]: TEXT}
    whole[resolve(strict).headers["location"]] = LARGE.read()
    for url, data in whole.items():
        size = len(data)
        for header, start, stop in (("0-0", 0, 1), (f"{size - 1}-", size - 1, size), ("-7", size - 7, size)):
            answer = fetch(url, headers={"Range": f"bytes={header}"})
            assert (answer.status, answer.body) == (206, data[start:stop])
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
            assert answer.headers["content-length"] == str(stop - start)
        beyond = fetch(url, headers={"Range": f"bytes={size}-"})
        assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
        assert beyond.body == b""
        assert fetch(url, headers={"Range": "bytes=0-1,3-4"}).body == data
        etag = fetch(url, method="HEAD").headers["etag"]
        some = {"Range": "bytes=1-2"}
        assert fetch(url, headers={**some, "If-Range": etag}).status == 206
        assert fetch(url, headers={**some, "If-Range": f"W/{etag}"}).status == 200
        assert fetch(url, headers={**some, "If-Range": '"other"'}).body == data
        assert fetch(url, headers={"If-None-Match": f'"x", W/{etag}'}).status == 304
        assert fetch(url, headers={"If-Match": '"other"'}).status == 412
        assert fetch(url, headers={**some, "If-Match": etag}).status == 206


def test_an_empty_file(strict: Hub) -> None:
    url = strict.endpoint + resolve(strict, "empty").headers["location"]
    assert fetch(url).headers["content-length"] == "0"
    assert fetch(url, headers={"Range": "bytes=0-0"}).status == 416


def test_resolve_knows_what_the_client_has(strict: Hub) -> None:
    entries = strict.repo("acme/tiny").commits[strict.repo("acme/tiny").head].entries
    oid = entries["config.json"].oid
    assert resolve(strict, "config.json", **{"If-None-Match": f'"{oid}"'}).status == 304
    assert resolve(strict, **{"If-None-Match": f'"{LARGE.sha256}"'}).status == 304
    assert resolve(strict, **{"If-None-Match": '"other"'}).status == 302
    raw = fetch(f"{strict.endpoint}/acme/tiny/raw/main/{quote(LARGE_NAME)}").body
    assert raw.startswith(b"version https://git-lfs")


# Compression


def test_text_is_compressed_for_those_who_take_it(strict: Hub) -> None:
    url = strict.endpoint + resolve(strict, "config.json").headers["location"]
    plain = fetch(url, headers={"Accept-Encoding": "identity"})
    answer = fetch(url, headers={"Accept-Encoding": "gzip, deflate", "Range": "bytes=0-9"})
    assert (answer.status, gzip.decompress(answer.body)) == (200, TEXT)
    assert "content-length" not in answer.headers
    assert "content-range" not in answer.headers
    assert answer.headers["etag"] == f"W/{plain.headers['etag']}"
    for coding in ("identity", "gzip;q=0", "br"):
        assert "content-encoding" not in fetch(url, headers={"Accept-Encoding": coding}).headers
    noise = strict.endpoint + resolve(strict, "noise").headers["location"]
    assert "content-encoding" not in fetch(noise, headers={"Accept-Encoding": "gzip"}).headers


# Quotas


def test_every_answer_announces_the_quota() -> None:
    with hub_in_thread() as hub:
        hub.add_repo("acme/tiny", files={"f": b"1"})
        for number, path in enumerate(("models/acme/tiny", "models/acme/none", "models/acme/tiny/tree/none")):
            answer = fetch(f"{hub.endpoint}/api/{path}")
            assert answer.headers["ratelimit"].startswith(f'"api";r={499 - number};t=')
            assert answer.headers["ratelimit-policy"] == '"fixed window";"api";q=500;w=300'
        answer = fetch(f"{hub.endpoint}/acme/tiny/resolve/main/f")
        assert answer.headers["ratelimit"].startswith('"resolvers";r=2999;')
        answer = fetch(hub.endpoint + answer.headers["location"])
        assert answer.headers["ratelimit"].startswith('"resolvers";r=2998;')


def test_an_exhausted_quota_is_429_until_the_window_ends(clock: Clock) -> None:
    with hub_in_thread(quotas=Quotas(api=2, window_s=100), tokens={"hf_a": "alice"}, clock=clock) as hub:
        hub.add_repo("acme/tiny", files={"f": b"1"})
        url = f"{hub.endpoint}/api/models/acme/tiny"
        assert [fetch(url).status for _ in range(3)] == [200, 200, 429]
        clock.now += 40
        refused = fetch(url)
        assert refused.headers["ratelimit"] == '"api";r=0;t=60'
        assert "retry-after" not in refused.headers
        assert "error" in refused.json
        assert fetch(url, headers={"Authorization": "Bearer hf_a"}).status == 200  # a window of their own
        assert fetch(f"{hub.endpoint}/acme/tiny/resolve/main/f").status == 307  # another bucket
        clock.now += 60
        assert fetch(url).status == 200


# Pages, names, refusals


def test_pages_follow_one_another(strict: Hub) -> None:
    strict.add_repo("acme/many", files={f"{name}/{n}": b"x" for name in "ab" for n in range(5)})
    url: str | None = f"{strict.endpoint}/api/models/acme/many/tree/main?recursive=true&expand=false"
    pages: list[list[str]] = []
    while url is not None:
        answer = fetch(url)
        pages.append([row["path"] for row in answer.json])
        link = re.fullmatch(r'<(http://[^>]+)>; rel="next"', answer.headers.get("link", ""))
        url = link[1] if link else None
    assert [len(page) for page in pages] == [3, 3, 3, 3]
    assert [path for page in pages for path in page] == sorted(
        ["a", "b", *(f"{name}/{n}" for name in "ab" for n in range(5))]
    )
    few = fetch(f"{strict.endpoint}/api/models/acme/many/tree/main/b?limit=2")
    assert [row["path"] for row in few.json] == ["b/0", "b/1"]
    assert "cursor=" in few.headers["link"]


def test_refusals_look_like_those_of_the_hub() -> None:
    tokens = {"hf_alice": Token("alice"), "hf_bob": Token("bob", repos=frozenset({"acme/other"}))}
    with hub_in_thread(tokens=tokens) as hub:
        hub.add_repo("acme/open", files={"f": b"1"})
        hub.add_repo("acme/private", files={"f": b"1"}, private=True)
        hub.add_repo("acme/gated", files={"f": b"1"}, gated=True)
        hub.add_repo("acme/disabled", files={"f": b"1"}, disabled=True)
        table: list[tuple[str, str | None, int, str | None]] = [
            ("/api/models/acme/none", None, 401, "RepoNotFound"),
            ("/api/models/acme/none", "hf_bob", 404, "RepoNotFound"),
            ("/api/models/acme/private", None, 401, "RepoNotFound"),
            ("/api/models/acme/private", "hf_bob", 404, "RepoNotFound"),
            ("/api/models/acme/private", "hf_alice", 200, None),
            ("/acme/private/resolve/main/f", None, 401, "RepoNotFound"),
            ("/api/models/acme/open", "hf_wrong", 401, None),
            ("/api/models/acme/gated", None, 200, None),
            ("/api/models/acme/gated/tree/main", None, 200, None),
            ("/acme/gated/resolve/main/f", None, 401, "GatedRepo"),
            ("/acme/gated/resolve/main/f", "hf_bob", 403, "GatedRepo"),
            ("/acme/gated/resolve/main/f", "hf_alice", 307, None),
            ("/api/models/acme/disabled", None, 403, None),
            ("/api/models/acme/open/revision/none", None, 404, "RevisionNotFound"),
            ("/acme/open/resolve/none/f", None, 404, "RevisionNotFound"),
            ("/acme/open/resolve/main/none", None, 404, "EntryNotFound"),
            ("/api/models/acme/open/tree/main/none", None, 404, "EntryNotFound"),
            ("/datasets/acme/open/resolve/main/f", None, 401, "RepoNotFound"),
            ("/nothing/at/all", None, 404, None),
            ("/api/whoami-v2", None, 401, None),
            ("/api/whoami-v2", "hf_bob", 200, None),
        ]
        for path, token, status, code in table:
            for method in ("GET", "HEAD"):
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                answer = fetch(hub.endpoint + path, method=method, headers=headers)
                assert (answer.status, answer.headers.get("x-error-code")) == (status, code), (method, path, token)
                assert "ratelimit" in answer.headers
                if status >= 400 and method == "GET":
                    assert answer.json["error"] == answer.headers["x-error-message"]
        wrong = fetch(f"{hub.endpoint}/api/models/acme/open", headers={"Authorization": "Bearer hf_wrong"})
        assert wrong.headers["x-error-message"] == "Invalid credentials in Authorization header"
        disabled = fetch(f"{hub.endpoint}/api/models/acme/disabled")
        assert disabled.headers["x-error-message"] == "Access to this resource is disabled."
        absent = fetch(f"{hub.endpoint}/acme/open/resolve/main/none")
        assert absent.headers["x-repo-commit"] == hub.repo("acme/open").head
        info = [fetch(f"{hub.endpoint}/api/models/acme/{name}").json for name in ("open", "gated")]
        assert [(row["private"], row["gated"]) for row in info] == [(False, False), (False, "auto")]


def test_resolve_cache_without_its_query_is_an_open_question() -> None:
    for allowed, status in ((True, 200), (False, 404)):
        with hub_in_thread(resolve_cache_without_query=allowed) as hub:
            repo = hub.add_repo("acme/tiny", files={"f": b"1"})
            assert fetch(f"{hub.endpoint}/api/resolve-cache/models/acme/tiny/{repo.head}/f").status == status


def test_paths_info_takes_forms_and_json(strict: Hub) -> None:
    url = f"{strict.endpoint}/api/models/acme/tiny/paths-info/main"
    bodies = {
        "application/json": b'{"paths": ["config.json", "none"]}',
        "application/x-www-form-urlencoded": b"paths=config.json&paths=none",
    }
    for kind, body in bodies.items():
        answer = fetch(url, method="POST", body=body, headers={"Content-Type": kind})
        assert [row["path"] for row in answer.json] == ["config.json"]
    assert fetch(url, method="POST", body=b"[", headers={"Content-Type": "application/json"}).status == 400
    assert fetch(url).status == 405


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/models/a/b", Route("info", "models", "a/b")),
        ("/api/models/legacy", Route("info", "models", "legacy")),
        ("/api/models/legacy/tree/main", Route("tree", "models", "legacy", "main")),
        ("/api/datasets/a/tree", Route("info", "datasets", "a/tree")),
        ("/api/models/a/b/tree/refs%2Fpr%2F1/x%2Fy", Route("tree", "models", "a/b", "refs/pr/1", "x/y")),
        ("/api/spaces/a/b/revision/v1", Route("info", "spaces", "a/b", "v1")),
        ("/api/models/a/b/refs", Route("refs", "models", "a/b")),
        ("/a/b/resolve/main/x/y%20z", Route("resolve", "models", "a/b", "main", "x/y z")),
        ("/datasets/a/b/raw/v1/x", Route("raw", "datasets", "a/b", "v1", "x")),
        ("/legacy/resolve/main/x", Route("resolve", "models", "legacy", "main", "x")),
        ("/a/b/resolve/main/resolve/main/x", Route("resolve", "models", "a/b", "main", "resolve/main/x")),
        (f"/api/resolve-cache/models/a/b/{'0' * 40}/x", Route("resolve-cache", "models", "a/b", "0" * 40, "x")),
        (f"/api/resolve-cache/models/a/{'0' * 40}/x", Route("resolve-cache", "models", "a", "0" * 40, "x")),
        ("/api/models/a/b/tree/main/x/y", Route("tree", "models", "a/b", "main", "x/y")),
        ("/api/models/a/b/refs/main", Route("other")),
        ("/api/models/a/b/unknown/main", Route("other")),
        ("/api/nothing/a/b", Route("other")),
        ("/api/models", Route("other")),
        ("/", Route("other")),
        ("/a/b/resolve/main", Route("other")),
    ],
)
def test_routes(path: str, route: Route) -> None:
    known: set[tuple[Any, str]] = {("datasets", "a/tree")}
    assert parse(path, lambda kind, repo_id: (kind, repo_id) in known) == route
