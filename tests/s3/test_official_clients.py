"""Programs that know Amazon's S3 take the embedded one for it: botocore, s5cmd, rclone; and all are refused alike."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fetcher.testing import FaultPlan, Synthetic
from fetcher.testing.contents import ContentLike
from fetcher.testing.s3 import S3, Key, S3Error, add_hostile_objects, s3_in_thread
from tests.hub.raw import fetch
from tests.s3.judge import KEY_ID, SECRET, client, keys, presigned, signed
from tests.support.servers.places import program

MIB = 1 << 20
TOKEN = "session+token/=="
TREE: dict[str, ContentLike] = {
    "tree/config.json": b'{"a": 1}',
    "tree/deep/er/file with space+plus.txt": b"odd name",
    "tree/é/(x)~'s.bin": Synthetic(70_001, 1),
    "tree/weights.bin": Synthetic(12 * MIB + 5, 2),
    "tree2/sibling": b"not of the tree",
} | {f"tree/many/{n:03}": f"{n}".encode() for n in range(40)}


@pytest.fixture
def s3() -> Iterator[S3]:
    keys_ = {KEY_ID: SECRET, "ASIATEMP": Key("temporary", "temp", TOKEN)}
    with s3_in_thread(keys=keys_, page_keys=7) as running:
        bucket = running.add_bucket("models", TREE)
        bucket.put("tree/parts.bin", Synthetic(11 * MIB, 3), part_bytes=5 * MIB, checksum="crc32c")
        yield running


# botocore


def _resolve_test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every name below ``s3.test`` be this machine."""
    real = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host.endswith("s3.test") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_botocore_lists_and_reads(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    _resolve_test_names(monkeypatch)
    bucket = s3.bucket("models")
    port = s3.endpoint.rpartition(":")[2]
    for style in ("path", "virtual"):
        with client(f"http://s3.test:{port}", style=style) as sdk:
            assert [each["Name"] for each in sdk.list_buckets()["Buckets"]] == ["models"]
            assert sdk.head_bucket(Bucket="models")["ResponseMetadata"]["HTTPStatusCode"] == 200
            pages = list(sdk.get_paginator("list_objects_v2").paginate(Bucket="models", Prefix="tree/"))
            found = {each["Key"]: each for listed in pages for each in listed["Contents"]}
            assert len(pages) == -(-len(found) // 7)
            assert set(found) == {key for key in bucket.objects if key.startswith("tree/")}
            for key, stored in bucket.objects.items():
                if key in found:
                    assert found[key]["Size"] == stored.content.size
                    assert found[key]["ETag"] == f'"{stored.etag}"'
                    # The body is checked against the checksum by botocore itself where it is a full one.
                    answer = sdk.get_object(Bucket="models", Key=key)
                    assert answer["Body"].read() == stored.content.read()
    assert {record.principal for record in s3.requests} == {KEY_ID}
    hosts = {record.headers["host"] for record in s3.requests}
    assert hosts == {f"s3.test:{port}", f"models.s3.test:{port}"}


def test_botocore_of_old_lists_in_version_1(s3: S3) -> None:
    with client(s3.endpoint) as sdk:
        pages = sdk.get_paginator("list_objects").paginate(Bucket="models", Delimiter="/")
        assert [each["Prefix"] for listed in pages for each in listed.get("CommonPrefixes", [])] == ["tree/", "tree2/"]


def test_botocore_sees_parts_ranges_and_conditions(s3: S3) -> None:
    stored = s3.bucket("models").objects["tree/parts.bin"]
    where = {"Bucket": "models", "Key": "tree/parts.bin"}
    with client(s3.endpoint) as sdk:
        head = sdk.head_object(**where, PartNumber=1, ChecksumMode="ENABLED")
        assert (head["PartsCount"], head["ContentLength"], head["ChecksumType"]) == (3, 5 * MIB, "COMPOSITE")
        assert sdk.head_object(**where, ChecksumMode="ENABLED")["ChecksumCRC32C"].endswith("-3")
        part = sdk.get_object(**where, Range="bytes=10-19", IfMatch=stored.etag)
        assert (part["Body"].read(), part["ContentRange"]) == (stored.content.read(10, 20), f"bytes 10-19/{11 * MIB}")
        for settings, expected in (
            ({"IfMatch": '"x"'}, "PreconditionFailed"),
            ({"Range": "bytes=99999999-"}, "InvalidRange"),
        ):
            with pytest.raises(ClientError) as caught:
                sdk.get_object(**where, **settings)
            assert caught.value.response["Error"]["Code"] == expected


def test_botocore_notices_a_wrong_byte(s3: S3) -> None:
    from botocore.exceptions import FlexibleChecksumError

    bucket = s3.bucket("models")
    for algorithm in ("crc32", "crc64nvme", "sha256"):
        bucket.put("right", b"content", checksum=algorithm)  # type: ignore[arg-type]
        bucket.put("wrong", b"cOntent", checksum=algorithm, checksum_value=bucket.objects["right"].checksum_value)  # type: ignore[arg-type]
        with client(s3.endpoint) as sdk:
            assert sdk.get_object(Bucket="models", Key="right")["Body"].read() == b"content"
            with pytest.raises(FlexibleChecksumError):
                sdk.get_object(Bucket="models", Key="wrong")["Body"].read()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"secret": "another"}, "SignatureDoesNotMatch"),
        ({"key_id": "AKIDNOBODY"}, "InvalidAccessKeyId"),
        ({"key_id": "ASIATEMP", "secret": "temporary"}, "InvalidToken"),
        ({"key_id": "ASIATEMP", "secret": "temporary", "token": TOKEN}, None),
    ],
)
def test_botocore_with_other_credentials(s3: S3, settings: dict[str, str], expected: str | None) -> None:
    with client(s3.endpoint, **settings) as sdk:
        if expected is None:
            assert sdk.get_object(Bucket="models", Key="tree/config.json")["Body"].read() == b'{"a": 1}'
            return
        for ask in (sdk.get_object, sdk.list_objects_v2):
            more = {"Key": "tree/config.json"} if ask == sdk.get_object else {}
            with pytest.raises(ClientError) as caught:
                ask(Bucket="models", **more)
            assert caught.value.response["Error"]["Code"] == expected


def test_botocore_presigns(s3: S3) -> None:
    with client(s3.endpoint) as sdk:
        url = sdk.generate_presigned_url("get_object", {"Bucket": "models", "Key": "tree/é/(x)~'s.bin"}, ExpiresIn=60)
    assert fetch(url).body == TREE["tree/é/(x)~'s.bin"].read()  # type: ignore[union-attr]


_ALPHABET = [
    *"abcABC019", *"-_.~", *"!*'()", *"&$@=;/:+ ,?", *"\\{^}%`]\"<>[#|", *"\t\n\r\x00\x01\x1f\x7f",
    *"éßçñ漢ٱ", "\u0301", "\u202e", "\ufeff", "\ufffe", "\u2028", "\U0001f600", "\U0010ffff", "..", "//", "%2F", "%",
]  # fmt: skip


def test_two_thousand_odd_keys_signed_by_botocore(rng: random.Random) -> None:
    names: set[str] = set()
    while len(names) < 2000:
        names.add("".join(rng.choices(_ALPHABET, k=rng.randrange(1, 30))))
    with s3_in_thread(keys={KEY_ID: SECRET}, page_keys=997) as s3:
        bucket = s3.add_bucket("bucket")
        for number, key in enumerate(sorted(names)):
            bucket.put(key, f"object {number}")
        names |= set(add_hostile_objects(bucket))
        with client(s3.endpoint) as sdk:
            pages = sdk.get_paginator("list_objects_v2").paginate(Bucket="bucket")
            assert [each["Key"] for listed in pages for each in listed["Contents"]] == sorted(names, key=str.encode)
            for key in names:
                # Signed by the official signer over our URL, and by the official client over its own.
                url = s3.url("bucket", key)
                answer = fetch(url, headers=signed(url))
                assert (answer.status, answer.body) == (200, bucket.objects[key].content.read()), key
            for key in rng.sample(sorted(names), 100):
                assert sdk.get_object(Bucket="bucket", Key=key)["Body"].read() == bucket.objects[key].content.read()
            for key in rng.sample(sorted(names), 100):
                assert fetch(presigned(s3.url("bucket", key))).body == bucket.objects[key].content.read(), key
        assert s3.count(status=200) == len(s3.requests)


# Programs


def run(
    name: str, s3: S3, *arguments: str, key_id: str = KEY_ID, secret: str = SECRET
) -> subprocess.CompletedProcess[str]:
    """Run an S3 program against ``s3`` with these credentials and no configuration of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
    }
    command = [str(program(name)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=40, check=False, env=environment)


def s5cmd(s3: S3, *arguments: str, **key: str) -> subprocess.CompletedProcess[str]:
    return run("s5cmd", s3, "--endpoint-url", s3.endpoint, "--retry-count", "0", *arguments, **key)


def rclone(s3: S3, *arguments: str, **key: str) -> subprocess.CompletedProcess[str]:
    flags = ["--config", "", "--s3-provider", "AWS", "--s3-env-auth", "--s3-endpoint", s3.endpoint, "--retries", "1"]
    more = ["--s3-force-path-style", "--low-level-retries", "1"]
    return run("rclone", s3, *flags, *more, *arguments, **key)


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def tree(s3: S3) -> dict[str, bytes]:
    objects = s3.bucket("models").objects
    return {key.removeprefix("tree/"): objects[key].content.read() for key in objects if key.startswith("tree/")}


@pytest.mark.needs("program:s5cmd")
def test_s5cmd(s3: S3, tmp_path: Path) -> None:
    listed = s5cmd(s3, "ls", "s3://models/tree/*")
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.splitlines()) == len(tree(s3))
    copied = s5cmd(s3, "cp", "--concurrency", "3", "--part-size", "5", "s3://models/tree/*", f"{tmp_path}/copy/")
    assert copied.returncode == 0, copied.stderr
    assert files(tmp_path / "copy") == tree(s3)
    assert len([record for record in s3.requests.select("object", path="tree/weights.bin") if record.range]) >= 3


@pytest.mark.needs("program:rclone")
def test_rclone(s3: S3, tmp_path: Path) -> None:
    listed = rclone(s3, "lsf", "-R", "--files-only", ":s3:models/tree")
    assert listed.returncode == 0, listed.stderr
    assert set(listed.stdout.splitlines()) == set(tree(s3))
    copied = rclone(s3, "copy", ":s3:models/tree", f"{tmp_path}/copy")
    assert copied.returncode == 0, copied.stderr
    assert files(tmp_path / "copy") == tree(s3)
    # It knows MD5 and compares it with the ETag; of the parts it can't.
    checked = rclone(s3, "check", ":s3:models/tree", f"{tmp_path}/copy")
    assert checked.returncode == 0, checked.stderr
    assert "0 differences" in checked.stderr


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs(f"program:{name}")) for name in ("s5cmd", "rclone")]
)
@pytest.mark.parametrize(
    ("key", "expected"),
    [({"secret": "wrong"}, "SignatureDoesNotMatch"), ({"key_id": "AKIDNOBODY"}, "InvalidAccessKeyId")],
)
def test_programs_are_refused(s3: S3, tmp_path: Path, name: str, key: dict[str, str], expected: str) -> None:
    if name == "s5cmd":
        attempts = [s5cmd(s3, "ls", "s3://models/tree/", **key)]
        attempts.append(s5cmd(s3, "cp", "s3://models/tree/config.json", f"{tmp_path}/", **key))
    else:
        attempts = [
            rclone(s3, "lsf", ":s3:models/tree", **key),
            rclone(s3, "cat", ":s3:models/tree/config.json", **key),
        ]
    for attempt in attempts:
        assert attempt.returncode != 0
    assert expected in attempts[0].stderr
    assert not (tmp_path / "config.json").exists()
    assert s3.body_bytes_sent() == 0
    assert {record.status for record in s3.requests} == {403}


@pytest.mark.needs("program:rclone")
def test_rclone_comes_again_after_a_slow_down(s3: S3, tmp_path: Path) -> None:
    s3.faults = FaultPlan(S3Error("SlowDown").on("object", "list", skip=2, times=1))
    copied = rclone(s3, "copy", "--low-level-retries", "10", ":s3:models/tree/many", f"{tmp_path}/copy")
    assert copied.returncode == 0, copied.stderr
    assert files(tmp_path / "copy") == {f"{n:03}": f"{n}".encode() for n in range(40)}
    assert s3.count(status=503) == 1


def test_listings_are_the_same_to_all(s3: S3) -> None:
    """What the programs read page by page is what a raw request shows at once."""
    s3.page_keys = 1000
    url = s3.url("models")
    assert len(keys(fetch(url, headers=signed(url)))) == len(s3.bucket("models").objects)
