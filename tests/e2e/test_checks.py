"""What each kind of claim verifies, how it is refused when it is wrong, and what a claim is no proof of."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fetcher import Fetcher, IntegrityError
from fetcher.engine.asks import Outcome
from fetcher.testing import S3, Exchange, Fault, Hub, Synthetic, s3_in_thread
from fetcher.testing.faults import OnRequest, StallAfter, Trickle
from fetcher.testing.messages import Reply
from fetcher.testing.s3 import RCLONE, Key, Quirks
from fetcher.testing.s3.checksums import digest
from tests.e2e.support import (
    HURRIED,
    MIB,
    Child,
    Gate,
    assert_blobs_sound,
    blobs_of,
    nothing_visible,
    partial_files,
    proven_blocks,
    run_fetch,
    sha256_of,
    wait_until,
)

SIZE = 8 * MIB + 321
LARGE, SMALL = Synthetic(SIZE, 1), Synthetic(70_000, 2)
KEY_ID, SECRET = "AKIDEXAMPLE", "a-secret-for-the-embedded-s3"


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread(keys={KEY_ID: Key(SECRET, "alice")}) as running:
        running.add_bucket("models", public=True)
        yield running


def options(cache_dir: Path, **more: Any) -> dict[str, Any]:
    return {**HURRIED, "cache_dir": str(cache_dir), **more}


def fetch(s3: S3, cache_dir: Path, item: Any = None, **more: Any) -> Outcome:
    make = lambda: Fetcher(environ={}, **options(cache_dir, **more))  # noqa: E731
    return run_fetch(make, f"{s3.endpoint}/models/" if item is None else item)


def signed(s3: S3, bucket: str = "models") -> dict[str, Any]:
    return {
        "type": "S3",
        "url": f"{s3.endpoint}/{bucket}/",
        "IAM": {"REGION": "us-east-1", "ACCESS_KEY_ID": KEY_ID, "SECRET_ACCESS_KEY": SECRET},
    }


@dataclass(frozen=True)
class Case:
    """One way of stating what the bytes are."""

    name: str
    verified_by: str
    put: Mapping[str, Any]
    quirks: Quirks | None = None
    content: Synthetic = LARGE
    is_checked: bool = True
    """Whether a wrong byte is noticed."""
    is_signed: bool = False


NO_GRID = Quirks(part_number="ignored")
CASES = [
    Case("md5-etag", "md5", {"checksum": None}),
    Case("md5-etag-small", "md5", {"checksum": None}, content=SMALL),
    Case("md5-of-parts-grid-told", "md5", {"checksum": None, "part_bytes": 3 * MIB}),
    Case("md5-of-parts-grid-told-odd", "md5", {"checksum": None, "part_bytes": 1_234_567}),
    Case("md5-of-parts-grid-guessed", "md5", {"checksum": None, "part_bytes": 5 * MIB}, NO_GRID, is_checked=False),
    Case("md5-of-one-part", "md5", {"checksum": None, "part_bytes": 16 * MIB}, NO_GRID, is_checked=False),
    Case("md5-of-parts-part-etag", "md5", {"checksum": None, "part_bytes": 3 * MIB}, Quirks(part_number="part-etag")),
    Case("parts-unknowable", "size", {"checksum": None, "part_bytes": 1_234_567}, NO_GRID, is_checked=False),
    Case(
        "parts-of-all-lengths",
        "size",
        {"checksum": None, "part_bytes": [MIB, 2 * MIB, SIZE - 3 * MIB]},
        is_checked=False,
    ),
    Case("kms", "size", {"checksum": None, "sse": "aws:kms"}, is_checked=False, is_signed=True),
    Case("kms-small", "size", {"checksum": None, "sse": "aws:kms"}, content=SMALL, is_checked=False, is_signed=True),
    Case("kms-parts", "size", {"checksum": None, "sse": "aws:kms", "part_bytes": 5 * MIB}, None, LARGE, False, True),
    Case("kms-dsse-crc", "crc64nvme", {"sse": "aws:kms:dsse"}, is_signed=True),
    Case("sse-s3", "md5", {"checksum": None, "sse": "AES256"}),
    *(Case(f"{name}-full", name, {"checksum": name}) for name in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")),
    Case("crc64nvme-of-parts-is-full", "crc64nvme", {"checksum": "crc64nvme", "part_bytes": 5 * MIB}),
    Case(
        "crc32-full-of-parts",
        "crc32",
        {"checksum": "crc32", "part_bytes": 5 * MIB, "checksum_type": "FULL_OBJECT"},
    ),
    *(
        Case(f"{name}-composite", name, {"checksum": name, "part_bytes": 3 * MIB})
        for name in ("crc32", "crc32c", "sha1", "sha256")
    ),
    Case("sha256-composite-guessed", "sha256", {"checksum": "sha256", "part_bytes": 8 * MIB}, NO_GRID, LARGE, False),
    Case("crc64nvme-small", "md5", {}, content=SMALL),
    Case("sha256-small", "sha256", {"checksum": "sha256"}, content=SMALL),
    Case("checksum-denied", "md5", {"checksum": "sha256"}, Quirks(checksum_mode="denied")),
    Case("checksum-unknown", "md5", {"checksum": "sha256"}, Quirks(checksum_mode="unknown")),
    Case("checksum-unknown-small", "md5", {"checksum": "sha256"}, Quirks(checksum_mode="unknown"), content=SMALL),
    Case("checksum-on-ranges", "crc32", {"checksum": "crc32"}, Quirks(checksum_on_range=True)),
    Case("rclone", "sha256", {"checksum": "sha256"}, RCLONE),
    Case("nothing-to-check-by", "size", {"checksum": None}, Quirks(validator="last-modified"), is_checked=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verified_by(s3: S3, cache_dir: Path, case: Case) -> None:
    bucket = s3.add_bucket("models", public=True, quirks=case.quirks)
    bucket.put("file.bin", case.content, **case.put)
    outcome = fetch(s3, cache_dir, signed(s3) if case.is_signed else None)
    assert sha256_of(outcome.snapshot.path / "file.bin") == case.content.sha256
    assert outcome.snapshot.verified_by == case.verified_by
    assert s3.body_bytes_sent() == case.content.size, "once, whole"


@dataclass(frozen=True)
class Corrupt(Fault):
    """The same wrong byte in every answer, whatever range it is."""

    late: ClassVar[bool] = True

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.patches[60_000] = 0x40


@pytest.mark.parametrize("case", [case for case in CASES if case.is_checked], ids=lambda case: case.name)
def test_a_wrong_byte_is_refused(s3: S3, cache_dir: Path, case: Case) -> None:
    bucket = s3.add_bucket("models", public=True, quirks=case.quirks)
    bucket.put("file.bin", case.content, **case.put)
    item = signed(s3) if case.is_signed else None
    s3.faults.add(Corrupt().on("object"))
    with pytest.raises(IntegrityError, match=r"file\.bin") as caught:
        fetch(s3, cache_dir, item)
    assert caught.value.exit_code == 40
    assert f"{case.verified_by}" in caught.value.message
    assert s3.body_bytes_sent() == 2 * case.content.size, "one refetch, no more"
    nothing_visible(cache_dir)
    assert_blobs_sound(cache_dir, [])
    s3.faults.clear()
    assert sha256_of(fetch(s3, cache_dir, item).snapshot.path / "file.bin") == case.content.sha256


@pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "crc64nvme", "sha1", "sha256", "md5"])
@pytest.mark.parametrize("content", [LARGE, SMALL], ids=["large", "small"])
def test_a_wrong_claim_is_refused_after_one_refetch(
    s3: S3, cache_dir: Path, algorithm: Any, content: Synthetic
) -> None:
    bucket = s3.bucket("models")
    if algorithm == "md5":
        bucket.put("file.bin", content, checksum=None, etag="0" * 32)
    else:
        wrong = base64.b64encode(bytes(len(digest(algorithm, [b""])))).decode()
        # A CRC counts for less than the MD5, which is right: for a small file it would not be looked at.
        bucket.put("file.bin", content, checksum=algorithm, checksum_value=wrong, etag="opaque")
    with pytest.raises(IntegrityError) as caught:
        fetch(s3, cache_dir)
    assert caught.value.exit_code == 40
    assert algorithm in caught.value.message
    assert s3.body_bytes_sent() == 2 * content.size
    nothing_visible(cache_dir)
    assert not blobs_of(cache_dir)


def test_a_guess_that_is_wrong_proves_nothing(s3: S3, cache_dir: Path) -> None:
    s3.add_bucket("models", public=True, quirks=NO_GRID).put("file.bin", LARGE, checksum=None, etag=f"{'0' * 32}-2")
    assert fetch(s3, cache_dir).snapshot.verified_by == "size"
    assert s3.body_bytes_sent() == SIZE


def test_a_web_servers_etag_of_32_digits_is_a_guess(s3: S3, cache_dir: Path) -> None:
    bucket = s3.bucket("models")
    for name, etag in (("right.bin", None), ("other.bin", "0" * 32)):
        bucket.put(name, SMALL, checksum=None, etag=etag)
    site = s3.add_site(bucket, "r2")
    right = fetch(s3, cache_dir, f"{site.endpoint}/right.bin")
    assert right.snapshot.verified_by == "md5"
    other = fetch(s3, cache_dir, f"{site.endpoint}/other.bin")
    assert other.snapshot.verified_by == "size"


@pytest.mark.parametrize("etag", [None, "0" * 32])
def test_an_empty_object_is_compared_as_well(s3: S3, cache_dir: Path, etag: str | None) -> None:
    """The ETag of an encrypted empty object looks like a digest, and is none."""
    s3.bucket("models").put("empty", b"", checksum=None, etag=etag)
    assert fetch(s3, cache_dir).snapshot.verified_by == ("md5" if etag is None else "size")


# --- out of order, and read back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("checksum", "is_free"), [("crc64nvme", True), ("crc32c", True), (None, False)])
def test_crcs_need_no_window(s3: S3, cache_dir: Path, checksum: Any, is_free: bool) -> None:
    s3.bucket("models").put("file.bin", LARGE, checksum=checksum)
    # Where nobody waits for the first body, there is time for the others on a busy machine, too.
    stall_s = 4.0 if is_free else 0.5
    s3.faults.add(StallAfter(0, stall_s).on("object", method="GET", nth=1))
    fetch(s3, cache_dir, window_bytes=2 * MIB)
    bodies = s3.requests.select("object", method="GET")
    early = [record for record in bodies if record.at < bodies[0].at + stall_s - 0.1]
    assert (len(early) == len(bodies) == 9) == is_free, "an in-order digest waits for the first missing block"


@pytest.mark.needs("native")
@pytest.mark.parametrize("checksum", ["crc32", "crc32c", "crc64nvme"])
def test_after_a_kill_the_blocks_that_are_here_are_read_back_for_their_crcs(
    s3: S3, cache_dir: Path, checksum: Any
) -> None:
    size = 24 * MIB + 5
    content = Synthetic(size, 3)
    s3.bucket("models").put("file.bin", content, checksum=checksum)
    gate = Gate()
    s3.faults.add(OnRequest(gate).on("object", method="GET", skip=14))
    with Child(options(cache_dir, connections_max=4), [f"{s3.endpoint}/models/"]) as child:
        assert child.line()["event"] == "ready"
        wait_until(lambda: proven_blocks(cache_dir) >= 12)
        child.send(signal.SIGKILL)
        assert child.process.wait() == -signal.SIGKILL
    s3.faults.clear()
    gate.open()
    wait_until(lambda: all(record.ended for record in s3.requests))
    s3.requests.clear()
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / "file.bin") == content.sha256
    assert outcome.snapshot.verified_by == checksum
    assert s3.body_bytes_sent() <= size - 12 * MIB
    assert not partial_files(cache_dir)


@pytest.mark.parametrize("checksum", ["crc64nvme", "sha256", None], ids=["crc64nvme", "sha256", "md5"])
def test_a_wrong_byte_before_the_kill_is_found_after_it(s3: S3, cache_dir: Path, checksum: Any) -> None:
    size = 12 * MIB
    content = Synthetic(size, 3)
    s3.bucket("models").put("file.bin", content, checksum=checksum)
    s3.faults.add(Corrupt().on("object"), Trickle(4 * MIB).on("object"))
    with Child(options(cache_dir, connections_max=2), [f"{s3.endpoint}/models/"]) as child:
        assert child.line()["event"] == "ready"
        wait_until(lambda: s3.body_bytes_sent() > size // 2 or child.process.poll() is not None)
        child.send(signal.SIGKILL)
        child.process.wait()
    s3.faults.clear()
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / "file.bin") == content.sha256


# --- headers that are about something else ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Header(Fault):
    """Put a header on answers about an object; ``ranged``: on those with a range only."""

    places: ClassVar[tuple[str, ...]] = ("object",)
    late: ClassVar[bool] = True
    header: str = ""
    value: str = ""
    ranged: bool = False

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return reply.status in (200, 206) and (not self.ranged or "Content-Range" in reply.headers)

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.headers[self.header] = self.value


@pytest.mark.parametrize("quirks", [None, Quirks(ranges="as-200")], ids=["206", "200"])
@pytest.mark.parametrize("algorithm", ["crc32", "crc64nvme", "sha256"])
def test_a_checksum_that_comes_with_a_range_is_not_believed(
    s3: S3, cache_dir: Path, algorithm: str, quirks: Quirks | None
) -> None:
    s3.add_bucket("models", public=True, quirks=quirks).put("file.bin", LARGE, checksum=None)
    value = base64.b64encode(digest(algorithm, LARGE.views(0, MIB))).decode()
    s3.faults.add(Header(f"x-amz-checksum-{algorithm}", value, ranged=True).on())
    outcome = fetch(s3, cache_dir)
    assert outcome.snapshot.verified_by == "md5"
    assert s3.faults.fired


def goog_hash(content: Synthetic, *, wrong: bool = False) -> str:
    crc = base64.b64encode(digest("crc32c", [b"other"] if wrong else content.views())).decode()
    return f"crc32c={crc}, md5={base64.b64encode(digest('md5', content.views())).decode()}"


@pytest.mark.parametrize(("content", "expected"), [(LARGE, "crc32c"), (SMALL, "md5")], ids=["large", "small"])
def test_google_states_hashes_of_the_whole(s3: S3, cache_dir: Path, content: Synthetic, expected: str) -> None:
    s3.bucket("models").put("file.bin", content, checksum=None, etag="opaque")
    s3.faults.add(Header("x-goog-hash", goog_hash(content)).on())
    outcome = fetch(s3, cache_dir)
    assert outcome.snapshot.verified_by == expected
    assert s3.body_bytes_sent() == content.size


def test_googles_hash_is_compared(s3: S3, cache_dir: Path) -> None:
    s3.bucket("models").put("file.bin", LARGE, checksum=None, etag="opaque")
    s3.faults.add(Header("x-goog-hash", goog_hash(LARGE, wrong=True)).on())
    with pytest.raises(IntegrityError, match="crc32c"):
        fetch(s3, cache_dir)
    nothing_visible(cache_dir)


# --- a claim is no possession ----------------------------------------------------------------------------------------


def test_a_sha256_that_we_computed_is_linked_elsewhere(s3: S3, hub: Hub, cache_dir: Path) -> None:
    s3.bucket("models").put("file.bin", LARGE, checksum="sha256")
    assert fetch(s3, cache_dir).downloaded == SIZE
    hub.add_repo("acme/same", files={"model.safetensors": LARGE})
    outcome = fetch(s3, cache_dir, "hf://acme/same", hf_endpoint=hub.endpoint)
    assert (outcome.downloaded, outcome.snapshot.verified_by) == (0, "sha256")
    assert hub.count("cdn") == 0
    other = s3.add_bucket("other", public=True)
    other.put("copy.bin", LARGE, checksum="sha256")
    assert fetch(s3, cache_dir, f"{s3.endpoint}/other/").downloaded == 0


@pytest.mark.parametrize(
    "put",
    [
        {"checksum": None},
        {"checksum": "crc64nvme"},
        {"checksum": "sha1"},
        {"checksum": "sha256", "part_bytes": 3 * MIB},
    ],
    ids=["md5", "crc64nvme", "sha1", "sha256-composite"],
)
def test_no_other_claim_is(s3: S3, cache_dir: Path, put: dict[str, Any]) -> None:
    s3.bucket("models").put("file.bin", LARGE, **put)
    s3.add_bucket("other", public=True).put("copy.bin", LARGE, **put)
    assert fetch(s3, cache_dir).downloaded == SIZE
    assert fetch(s3, cache_dir, f"{s3.endpoint}/other/").downloaded == SIZE
    assert len(blobs_of(cache_dir)) == 1, "it was fetched, and turned out to be the same"


def test_what_private_bytes_were_is_of_no_use_to_others(s3: S3, cache_dir: Path) -> None:
    s3.add_bucket("models").put("file.bin", LARGE, checksum="sha256")
    assert fetch(s3, cache_dir, signed(s3)).downloaded == SIZE
    s3.add_bucket("other", public=True).put("copy.bin", LARGE, checksum="sha256")
    assert fetch(s3, cache_dir, f"{s3.endpoint}/other/").downloaded == SIZE


# --- without the compiled core ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("put", "expected"),
    [
        ({}, "crc64nvme"),
        ({"checksum": None}, "md5"),
        ({"checksum": "sha256", "part_bytes": 3 * MIB}, "sha256"),
        ({"checksum": None, "part_bytes": [MIB, 2 * MIB, SIZE - 3 * MIB]}, "size"),
    ],
    ids=["crc", "md5", "composite", "size"],
)
def test_plain_mode(
    s3: S3, cache_dir: Path, put: dict[str, Any], expected: str, isolated_environment: pytest.MonkeyPatch
) -> None:
    isolated_environment.setenv("FETCHER_NATIVE", "plain")
    bucket = s3.bucket("models")
    bucket.put("file.bin", LARGE, **put)
    with Child(options(cache_dir), [f"{s3.endpoint}/models/"]) as child:
        done = child.done()
    assert sha256_of(Path(done["paths"][0]) / "file.bin") == LARGE.sha256
    (blob,) = blobs_of(cache_dir)
    import blake3

    assert blob.name == blake3.blake3(LARGE.read()).hexdigest(), "the same name as with the core"
    isolated_environment.delenv("FETCHER_NATIVE")
    assert fetch(s3, cache_dir).snapshot.verified_by == expected


def test_plain_mode_refuses_what_is_wrong(s3: S3, cache_dir: Path, isolated_environment: pytest.MonkeyPatch) -> None:
    isolated_environment.setenv("FETCHER_NATIVE", "plain")
    s3.bucket("models").put("file.bin", LARGE)
    s3.faults.add(Corrupt().on("object"))
    with Child(options(cache_dir), [f"{s3.endpoint}/models/"]) as child:
        assert child.result()["kind"] == "integrity"
    assert s3.body_bytes_sent() == 2 * SIZE
    nothing_visible(cache_dir)
