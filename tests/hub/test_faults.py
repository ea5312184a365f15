"""Each fault does what its docstring says, seen from a socket; alone, combined, and only when it is due."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetcher.testing import Exchange, Fault, FaultPlan, Hub, Rule, Synthetic, hub_in_thread
from fetcher.testing.contents import ContentLike
from fetcher.testing.faults import (
    ChangeContent,
    CutAfter,
    CutAt,
    CutHead,
    Delay,
    FlipByte,
    GzipBody,
    HangUp,
    HeadersWithoutEnd,
    IgnoreRange,
    MaxConcurrentBodies,
    OnRequest,
    RedirectAlreadyExpired,
    RedirectTo,
    RefuseHead,
    ShiftRange,
    ShortBody,
    StallAfter,
    Status,
    Trickle,
    UrlUses,
)
from fetcher.testing.hub import HOSTILE_ROWS, AnnounceQuota, EndlessLinks, HostileTree, JsonGarbage
from fetcher.testing.messages import CutHow, Reply
from tests.hub.raw import Answer, fetch

MIB = 1 << 20
LARGE = Synthetic(4 * MIB + 9, 7)
SMALL = b"a small file\n" * 10
NAME = "model.bin"


@contextlib.contextmanager
def faulty(*rules: Fault | Rule, files: dict[str, ContentLike] | None = None) -> Iterator[Hub]:
    with hub_in_thread(faults=FaultPlan(*rules)) as hub:
        hub.add_repo("acme/tiny", files=files or {NAME: LARGE, "small.txt": SMALL})
        yield hub


def locate(hub: Hub, path: str = NAME) -> str:
    location = fetch(f"{hub.endpoint}/acme/tiny/resolve/main/{path}").headers["location"]
    return location if location.startswith("http") else hub.endpoint + location


def part(hub: Hub, start: int, stop: int, **more: float) -> Answer:
    return fetch(locate(hub), headers={"Range": f"bytes={start}-{stop - 1}"}, **more)  # type: ignore[arg-type]


# The connection


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("point", [0, 1, 4095, MIB, MIB + 1, 4 * MIB + 8])
def test_cut_after(how: CutHow, point: int) -> None:
    with faulty(CutAfter(point, how).on("cdn", times=1)) as hub:
        answer = fetch(locate(hub))
        assert (answer.status, answer.ended, answer.body) == (200, how, LARGE.read(0, point))
        record = hub.requests.select("cdn")[0]
        assert (record.body_bytes, record.complete, record.ended) == (point, False, True)
        assert fetch(locate(hub)).body == LARGE.read()
        assert hub.body_bytes_sent(NAME) == point + LARGE.size
        assert sum(hub.faults.fired.values()) == 1


def test_cut_after_a_whole_body_of_a_file_on_disk(tmp_path: Path) -> None:
    LARGE.write_to(tmp_path / "file")
    with faulty(CutAfter(2 * MIB + 3).on("cdn", nth=2), files={NAME: tmp_path / "file"}) as hub:
        assert fetch(locate(hub)).body == LARGE.read()
        assert fetch(locate(hub)).body == LARGE.read(0, 2 * MIB + 3)


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_cut_at_an_offset_hits_only_the_part_that_holds_it(how: CutHow) -> None:
    with faulty(CutAt(2 * MIB + 5, how)) as hub:
        assert part(hub, 0, 2 * MIB).body == LARGE.read(0, 2 * MIB)
        cut = part(hub, 2 * MIB, 3 * MIB)
        assert (cut.ended, cut.body) == (how, LARGE.read(2 * MIB, 2 * MIB + 5))


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("point", [0, 7, 40])
def test_cut_head(how: CutHow, point: int) -> None:
    with faulty(CutHead(point, how).on("info")) as hub:
        answer = fetch(f"{hub.endpoint}/api/models/acme/tiny")
        assert (answer.status, answer.ended, answer.received_bytes) == (None, how, point)
        assert hub.requests[0].status is None


def test_hang_up_closes_a_kept_connection_without_saying_so() -> None:
    with faulty(HangUp().on("info", nth=2)) as hub:
        host, port = hub.endpoint.removeprefix("http://").split(":")
        request = f"GET /api/models/acme/tiny HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            for number in range(2):
                connection.sendall(request)
                received = b""
                while not received.endswith(b"}"):
                    received += connection.recv(65536)
                assert b"onnection: close" not in received, number
            assert connection.recv(10) == b""
        assert [record.complete for record in hub.requests] == [True, True]
        assert len({record.connection for record in hub.requests}) == 1


def test_stall_for_ever() -> None:
    with faulty(StallAfter(MIB + 1).on("cdn")) as hub:
        answer = fetch(locate(hub), timeout_s=2.0)
        assert (answer.ended, answer.body) == ("silence", LARGE.read(0, MIB + 1))
        deadline = time.monotonic() + 20
        while not hub.requests.select("cdn")[0].ended:  # the stalled answer notices that the client has gone
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_stall_for_a_time() -> None:
    with faulty(StallAfter(1000, seconds=0.3).on("bodies", path="*.bin")) as hub:
        answer = fetch(locate(hub))
        assert (answer.ended, answer.body) == ("complete", LARGE.read())
        assert answer.seconds > 0.29


def test_a_hub_can_be_left_while_an_answer_stalls() -> None:
    with faulty(StallAfter(0)) as hub:
        url = locate(hub)
        thread = threading.Thread(target=fetch, args=(url,))
        thread.start()
        while not hub.requests.select("cdn"):
            time.sleep(0.005)
        began = time.monotonic()
    thread.join()
    assert time.monotonic() - began < 20


def test_trickle() -> None:
    with faulty(Trickle(100_000)) as hub:
        answer = part(hub, 5, 40_005)
        assert answer.body == LARGE.read(5, 40_005)
        assert 0.35 < answer.seconds < 20


def test_delay() -> None:
    with faulty(Delay(0.2).on("info")) as hub:
        assert fetch(f"{hub.endpoint}/api/models/acme/tiny").seconds > 0.19


def test_headers_without_end() -> None:
    with faulty(HeadersWithoutEnd().on("tree")) as hub:
        answer = fetch(f"{hub.endpoint}/api/models/acme/tiny/tree/main", bytes_max=5 * MIB)
        assert (answer.status, answer.ended) == (None, "too much")


# Instead of an answer


def test_status_bursts() -> None:
    with faulty(Status(429, retry_after=3).on("api", nth=1), Status(503).on("cdn", skip=1, times=2)) as hub:
        info = f"{hub.endpoint}/api/models/acme/tiny"
        first = fetch(info)
        assert (first.status, first.headers["retry-after"]) == (429, "3")
        assert ";r=0;" not in first.headers["ratelimit"]
        assert fetch(info).status == 200
        assert [fetch(locate(hub)).status for _ in range(4)] == [200, 503, 503, 200]
        hit = [record.faults for record in hub.requests.select("cdn")]
        assert hit == [[], ["Status-503"], ["Status-503"], []]


def test_refuse_head() -> None:
    with faulty(RefuseHead()) as hub:
        url = f"{hub.endpoint}/acme/tiny/resolve/main/{NAME}"
        assert (fetch(url, method="HEAD").status, fetch(url).status) == (405, 302)


def test_redirects_elsewhere() -> None:
    metadata = "http://169.254.169.254/latest/meta-data/"
    with faulty(RedirectTo(metadata).on("resolve", path=NAME), RedirectTo().on("resolve", path="small.txt")) as hub:
        assert fetch(f"{hub.endpoint}/acme/tiny/resolve/main/{NAME}").headers["location"] == metadata
        circle = fetch(f"{hub.endpoint}/acme/tiny/resolve/main/small.txt")
        assert (circle.status, circle.headers["location"]) == (302, "/acme/tiny/resolve/main/small.txt")


def test_a_url_good_for_some_uses() -> None:
    with faulty(UrlUses(3)) as hub:
        url = locate(hub)
        assert [fetch(url, headers={"Range": "bytes=0-9"}).status for _ in range(5)] == [206, 206, 206, 403, 403]
        assert fetch(locate(hub)).status == 200


def test_a_redirect_already_expired() -> None:
    with faulty(RedirectAlreadyExpired().on(times=2)) as hub:
        assert [fetch(locate(hub)).status for _ in range(3)] == [403, 403, 200]


def test_at_most_so_many_bodies_at_once() -> None:
    # The first two bodies stall, so they are surely under way when the others come.
    with faulty(MaxConcurrentBodies(2).on("cdn"), StallAfter(10, seconds=2.0).on("cdn", times=2)) as hub:
        urls = [locate(hub) for _ in range(5)]
        with contextlib.ExitStack() as stack:
            for url in urls[:2]:
                host, port = url.removeprefix("http://").partition("/")[0].split(":")
                connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
                target = url.removeprefix(f"http://{host}:{port}")
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert connection.recv(100)
            assert hub.open_bodies("cdn") == 2
            assert [fetch(url).status for url in urls[2:4]] == [503, 503]
        while hub.open_bodies("cdn"):
            time.sleep(0.01)
        assert fetch(urls[4]).status == 200


# Wrong bytes, wrong ranges


@pytest.mark.parametrize("offset", [0, MIB - 1, MIB, 4 * MIB + 8])
def test_flip_byte(offset: int, tmp_path: Path) -> None:
    LARGE.write_to(tmp_path / "file")
    right = LARGE.read()
    wrong = right[:offset] + bytes([right[offset] ^ 1]) + right[offset + 1 :]
    for content in (LARGE, tmp_path / "file"):
        with faulty(FlipByte(offset).on("cdn", times=1), files={NAME: content}) as hub:
            other = (offset + MIB) % LARGE.size
            assert part(hub, other, other + 1).body == right[other : other + 1]  # not counted: it does not hold it
            assert fetch(locate(hub)).body == wrong
            assert fetch(locate(hub)).body == right


def test_flip_byte_always_and_in_small_files() -> None:
    with faulty(FlipByte(3, mask=0x80)) as hub:
        wrong = SMALL[:3] + bytes([SMALL[3] ^ 0x80]) + SMALL[4:]
        assert [fetch(locate(hub, "small.txt")).body for _ in range(2)] == [wrong, wrong]
        assert part(hub, 3, 4).body != LARGE.read(3, 4)


def test_ignore_range() -> None:
    with faulty(IgnoreRange()) as hub:
        answer = part(hub, 10, 20)
        assert (answer.status, answer.body) == (200, LARGE.read())
        assert hub.requests.select("cdn")[0].range == "bytes=10-19"


@pytest.mark.parametrize("lying", [False, True])
@pytest.mark.parametrize("by", [MIB, -5, 1])
def test_shift_range(lying: bool, by: int) -> None:
    with faulty(ShiftRange(by, lying)) as hub:
        answer = part(hub, MIB, 2 * MIB)
        assert (answer.status, answer.body) == (206, LARGE.read(MIB + by, 2 * MIB + by))
        named = 0 if lying else by
        assert answer.headers["content-range"] == f"bytes {MIB + named}-{2 * MIB + named - 1}/{LARGE.size}"
        assert part(hub, 0, LARGE.size).body == LARGE.read()  # nowhere to shift to: left alone


def test_short_body() -> None:
    with faulty(ShortBody(100)) as hub:
        answer = part(hub, 0, 1000)
        assert (answer.ended, answer.body) == ("complete", LARGE.read(0, 900))
        assert answer.headers["content-range"] == f"bytes 0-999/{LARGE.size}"


def test_gzip_body_though_identity_was_asked() -> None:
    with faulty(GzipBody()) as hub:
        answer = fetch(locate(hub, "small.txt"), headers={"Accept-Encoding": "identity", "Range": "bytes=0-3"})
        assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
        assert gzip.decompress(answer.body) == SMALL
        assert "content-length" not in answer.headers


def test_content_changes_in_the_middle_of_a_file() -> None:
    with faulty(ChangeContent(seed=9).on("cdn", skip=1)) as hub:
        url, other = locate(hub), Synthetic(LARGE.size, 9)
        before = fetch(url, headers={"Range": "bytes=0-99"})
        after = fetch(url, headers={"Range": "bytes=100-199"})
        assert (before.body, after.body) == (LARGE.read(0, 100), other.read(100, 200))
        assert before.headers["etag"] != after.headers["etag"]
        conditional = {"Range": "bytes=100-199", "If-Range": before.headers["etag"]}
        restarted = fetch(url, headers=conditional)
        assert (restarted.status, restarted.body) == (200, other.read())
        assert fetch(url, headers={"If-Match": before.headers["etag"]}).status == 412


def test_content_changes_and_nobody_says_so() -> None:
    with faulty(ChangeContent(same_etag=True).on("cdn", skip=1)) as hub:
        url = locate(hub)
        before, after = fetch(url), fetch(url)
        assert before.headers["etag"] == after.headers["etag"]
        assert before.body != after.body


def test_only_the_etag_changes() -> None:
    with faulty(ChangeContent(same_bytes=True).on("cdn", skip=1)) as hub:
        url = locate(hub)
        before, after = fetch(url), fetch(url)
        assert before.headers["etag"] != after.headers["etag"]
        assert before.body == after.body


def test_a_branch_moves_in_mid_run() -> None:
    def move(exchange: Exchange) -> None:
        exchange.origin.commit("acme/tiny", {"small.txt": b"moved"})

    with faulty(OnRequest(move).on("tree", nth=1)) as hub:
        first = fetch(f"{hub.endpoint}/api/models/acme/tiny").json["sha"]
        fetch(f"{hub.endpoint}/api/models/acme/tiny/tree/{first}")
        second = fetch(f"{hub.endpoint}/api/models/acme/tiny").json["sha"]
        assert first != second == hub.repo("acme/tiny").head
        assert hub.faults.fired == {"OnRequest-move": 1}


def test_a_callback_may_answer_and_wait() -> None:
    async def teapot(exchange: Exchange) -> Reply:
        return Reply(418)

    with faulty(OnRequest(teapot)) as hub:
        assert fetch(f"{hub.endpoint}/api/models/acme/tiny").status == 418


def test_a_callback_that_fails_is_not_swallowed() -> None:
    def broken(exchange: Exchange) -> None:
        raise LookupError("in the callback")

    def run() -> None:
        with faulty(OnRequest(broken)) as hub:
            assert fetch(f"{hub.endpoint}/api/models/acme/tiny").status == 500

    with pytest.raises(LookupError, match="in the callback"):
        run()


# The API


@pytest.mark.parametrize("kind", ["html", "truncated", "wrong-shape", "deep"])
def test_json_garbage(kind: str) -> None:
    with faulty(JsonGarbage(kind).on("tree")) as hub:  # type: ignore[arg-type]
        answer = fetch(f"{hub.endpoint}/api/models/acme/tiny/tree/main")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        with contextlib.suppress(ValueError, RecursionError):
            assert not isinstance(answer.json, list)


@pytest.mark.parametrize("kind", ["same", "fresh"])
def test_endless_links(kind: str) -> None:
    with faulty(EndlessLinks(kind)) as hub:  # type: ignore[arg-type]
        url = f"{hub.endpoint}/api/models/acme/tiny/tree/main?recursive=true"
        pages, urls = [], set()
        for _ in range(30):
            answer = fetch(url)
            pages.append(tuple(row["path"] for row in answer.json))
            url = answer.headers["link"].partition("<")[2].partition(">")[0]
            urls.add(url)
        assert len(urls) == 30  # no two next pages have one address
        assert len(set(pages)) == (1 if kind == "same" else 30)


@pytest.mark.parametrize("name", HOSTILE_ROWS)
def test_hostile_rows_are_sent_as_they_are(name: str) -> None:
    rows = HOSTILE_ROWS[name]
    with faulty(HostileTree(rows)) as hub:
        answer = fetch(f"{hub.endpoint}/api/models/acme/tiny/tree/main?recursive=true")
        sent = answer.json[-len(rows) :]
        wanted = [row if isinstance(row, str) else None for row in rows]
        assert [row["path"] if path is not None else row for path, row in zip(wanted, sent, strict=True)] == [*rows]


def test_announced_quota() -> None:
    with faulty(AnnounceQuota(remaining=0, reset_s=7).on("info", nth=1)) as hub:
        url = f"{hub.endpoint}/api/models/acme/tiny"
        assert fetch(url).headers["ratelimit"] == '"api";r=0;t=7'
        assert fetch(url).headers["ratelimit"].startswith('"api";r=498;')


# When a rule is due


def statuses(rule: Rule, paths: str = "aaaaaa") -> list[int]:
    """What requests for the files of one letter get."""
    with hub_in_thread(faults=FaultPlan(rule, seed=3)) as hub:
        hub.add_repo("acme/tiny", files={"a": b"1", "b": b"2"})
        return [fetch(f"{hub.endpoint}/acme/tiny/resolve/main/{path}").status or 0 for path in paths]


def test_turns() -> None:
    fault = Status(500)
    assert statuses(fault.on("resolve", nth=3)) == [307, 307, 500, 307, 307, 307]
    assert statuses(fault.on("resolve", skip=2)) == [307, 307, 500, 500, 500, 500]
    assert statuses(fault.on("resolve", times=2)) == [500, 500, 307, 307, 307, 307]
    assert statuses(fault.on("resolve", every=2)) == [500, 307, 500, 307, 500, 307]
    assert statuses(fault.on("resolve", skip=1, every=3, times=1)) == [307, 500, 307, 307, 307, 307]
    assert statuses(fault.on("resolve", path="b"), "aabb") == [307, 307, 500, 500]
    assert statuses(fault.on("resolve", times=1, per_path=True), "abab") == [500, 500, 307, 307]
    assert statuses(fault.on("resolve", method="HEAD"), "aa") == [307, 307]
    assert statuses(fault.on("api", "cdn"), "aa") == [307, 307]
    by_chance = statuses(fault.on("resolve", probability=0.5), "a" * 30)
    assert 5 < by_chance.count(500) < 25
    assert by_chance == statuses(fault.on("resolve", probability=0.5), "a" * 30)  # seeded


def test_faults_combine() -> None:
    rules = [FlipByte(100).on(), Trickle(1e6).on(), CutAfter(5000, "fin").on("cdn"), Delay(0.1).on("cdn")]
    with faulty(*rules) as hub:
        answer = fetch(locate(hub))
        right = LARGE.read(0, 5000)
        assert (answer.ended, len(answer.body)) == ("fin", 5000)
        assert answer.body == right[:100] + bytes([right[100] ^ 1]) + right[101:]
        assert answer.seconds > 0.1
        assert len(hub.requests.select("cdn")[0].faults) == 4


def test_plans_can_be_changed_and_say_what_they_are() -> None:
    plan = FaultPlan(CutAfter(1000), Status(503).on("api", nth=2))
    assert plan.name == "CutAfter-1000-rst+Status-503"
    assert FaultPlan().name == "no-fault"
    assert Status(429, retry_after=1).name == "Status-429-1"
    assert (StallAfter(5).name, StallAfter(5, seconds=0.5).name) == ("StallAfter-5", "StallAfter-5-0.5")
    assert (ShiftRange(3).name, ShiftRange(3, lying=True).name) == ("ShiftRange-3", "ShiftRange-3-lying")
    with hub_in_thread(faults=plan) as hub:
        hub.add_repo("acme/tiny", files={NAME: LARGE})
        assert fetch(locate(hub)).ended == "rst"
        plan.clear()
        assert fetch(locate(hub)).ended == "complete"
        plan.add(ShortBody(1))
        assert len(fetch(locate(hub)).body) == LARGE.size - 1
        assert plan.fired == {"CutAfter-1000-rst": 1, "ShortBody-1": 1}
    with pytest.raises(ValueError, match="unknown place 'cnd'"):
        Status(503).on("cnd")


def test_a_client_that_resets_harms_nobody_else() -> None:
    with faulty() as hub:
        url = locate(hub)
        host, port = url.removeprefix("http://").partition("/")[0].split(":")
        target = url.removeprefix(f"http://{host}:{port}")
        for _ in range(5):
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert connection.recv(10)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert fetch(url).body == LARGE.read()
