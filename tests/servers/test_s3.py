"""The S3 servers are what tests take them for: real, checked by official clients, each with the manners known of it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.servers.places import program
from tests.support.servers.process import accepts
from tests.support.servers.rclone import RcloneServer, run_rclone
from tests.support.servers.s3client import S3Refused, S3Server
from tests.support.servers.swift import run_swift

MIB = 1 << 20

ODD_KEYS = (
    *(
        "plain",
        "a b",
        "a+b",
        "a%2Fb",
        "ü/…",
        "../up",
        "a//b",
        "/lead",
        "q/e/",
        "new\nline",
        "a&b=c?d#e",
        "~-._",
        "tab\t",
    ),
)


@pytest.fixture(scope="module", params=["swift", "rclone"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(f"{request.param}_s3")
    return found


def _run(*command: str | Path, server: S3Server, home: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env={"PATH": os.defpath, "HOME": str(home), **server.environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _s5cmd(server: S3Server, home: Path, *arguments: str | Path) -> str:
    return _run(program("s5cmd"), "--endpoint-url", server.endpoint, *arguments, server=server, home=home)


def _rclone(server: S3Server, home: Path, *arguments: str | Path) -> str:
    options = ("--config", "", "--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", server.endpoint)
    return _run(program("rclone"), *arguments, *options, server=server, home=home)


@pytest.mark.needs("program:s5cmd")
def test_s5cmd_reads_what_was_put_and_the_other_way_round(server: S3Server, tmp_path: Path) -> None:
    bucket = server.client.make_bucket("s5cmd-round-trip")
    server.client.put_all(bucket, {f"in/{number}": b"x" * number for number in range(20)})
    # s5cmd passes over what was modified after it began; Swift rounds the time of an object up to the next second.
    time.sleep(1.1)
    _s5cmd(server, tmp_path, "cp", f"s3://{bucket}/in/*", f"{tmp_path}/got/")
    assert {path.name: path.stat().st_size for path in (tmp_path / "got").iterdir()} == {str(n): n for n in range(20)}

    (tmp_path / "up").write_bytes(b"from s5cmd")
    _s5cmd(server, tmp_path, "cp", tmp_path / "up", f"s3://{bucket}/up")
    assert server.client.get(bucket, "up").body == b"from s5cmd"


@pytest.mark.needs("program:rclone")
def test_rclone_copies_the_same_tree_out_of_both(server: S3Server, tmp_path: Path) -> None:
    bucket = server.client.make_bucket("rclone-tree")
    files = {"a": b"1", "b/c": b"22", "b/d/e f": b"", "b/ü": b"4" * MIB}
    server.client.put_all(bucket, files)
    _rclone(server, tmp_path, "copy", f":s3:{bucket}", tmp_path / "got")
    got = {
        str(path.relative_to(tmp_path / "got")): path.read_bytes()
        for path in (tmp_path / "got").rglob("*")
        if path.is_file()
    }
    assert got == files


@pytest.mark.needs("swift", "program:s5cmd")
def test_swift_gives_a_multipart_object_the_etag_of_its_parts(swift_s3: S3Server, tmp_path: Path) -> None:
    body = bytes(range(251)) * (9 * MIB // 251 + 1)
    parts = [body[: 5 * MIB], body[5 * MIB : 9 * MIB]]
    bucket = swift_s3.client.make_bucket("multipart")
    etag = swift_s3.client.put_multipart(bucket, "nine", parts)
    expected = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest() + "-2"
    assert etag == expected == swift_s3.client.head(bucket, "nine").etag
    assert swift_s3.client.get(bucket, "nine").body == b"".join(parts)

    (tmp_path / "nine").write_bytes(b"".join(parts))
    _s5cmd(swift_s3, tmp_path, "cp", "--part-size", "5", tmp_path / "nine", f"s3://{bucket}/by-s5cmd")
    assert swift_s3.client.head(bucket, "by-s5cmd").etag == expected


def test_swift_keeps_every_odd_key(swift_s3: S3Server) -> None:
    bucket = swift_s3.client.make_bucket("odd-keys")
    swift_s3.client.put_all(bucket, {key: key.encode() for key in ODD_KEYS})
    for key in ODD_KEYS:
        assert swift_s3.client.get(bucket, key).body == key.encode()
    listing = swift_s3.client.request("GET", f"/{bucket}", query={"list-type": "2"}).body
    assert f"<KeyCount>{len(ODD_KEYS)}</KeyCount>".encode() in listing


def test_both_refuse_a_wrong_secret_and_a_wrong_clock(server: S3Server) -> None:
    bucket = server.client.make_bucket("refusals")
    wrong = replace(server.client, secret_key="guessed").get(bucket, "x")
    assert (wrong.status, wrong.error_code) == (403, "SignatureDoesNotMatch")
    early = replace(server.client, clock_offset_s=3600).get(bucket, "x")
    assert (early.status, early.error_code) == (403, "RequestTimeTooSkewed")
    missing = server.client.get(bucket, "x")
    assert (missing.status, missing.error_code) == (404, "NoSuchKey")
    with pytest.raises(S3Refused, match="answered 404"):
        server.client.put("no-such-bucket", "x", b"")


def test_they_differ_in_manners(swift_s3: S3Server, rclone_s3: S3Server) -> None:
    """Tests rely on these: who honours If-Match, how a range is answered, what a slow clock and no signature get."""
    late, unsigned = {"clock_offset_s": -3600.0}, {"access_key": None}
    for server, unmatched, ranged, refused, unknown in (
        (swift_s3, 412, 206, (403, "RequestTimeTooSkewed"), (400, None)),
        (rclone_s3, 200, 200, (400, "AccessDenied"), (400, "UnsupportedAlgorithm")),
    ):
        bucket = server.client.make_bucket("manners")
        for changes, expected in ((late, refused), (unsigned, unknown)):
            answer = replace(server.client, **changes).get(bucket, "x")
            assert (answer.status, answer.error_code) == expected
        server.client.put(bucket, "x", b"0123456789")
        assert server.client.get(bucket, "x", {"If-Match": '"other"'}).status == unmatched
        part = server.client.get(bucket, "x", {"Range": "bytes=2-4"})
        assert (part.status, part.headers["content-range"], part.body) == (ranged, "bytes 2-4/10", b"234")


@pytest.mark.needs("rclone")
def test_rclone_serves_files_put_beside_it(rclone_s3: RcloneServer) -> None:
    assert rclone_s3.client.get("filled", "a/b").status == 404
    rclone_s3.fill("filled", {"a/b": b"1", "c": b"2"})
    assert rclone_s3.client.get("filled", "a/b").body == b"1"
    rclone_s3.fill("filled", {"a/new": b"3"})
    assert rclone_s3.client.get("filled", "a/new").body == b"3"


@pytest.mark.needs("rclone", "python:cryptography")
def test_rclone_can_be_open_to_all_and_speak_tls() -> None:
    with run_rclone(anonymous=True, tls=True) as server:
        assert server.endpoint.startswith("https://")
        bucket = server.client.make_bucket("open")
        server.client.put(bucket, "x", b"hello")
        assert server.client.get(bucket, "x").body == b"hello"


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_swift, id="swift", marks=pytest.mark.needs("swift", "ordinary-user")),
        pytest.param(run_rclone, id="rclone", marks=pytest.mark.needs("rclone", "ordinary-user")),
    ],
)
def test_an_ordinary_user_can_run_them_and_nothing_stays(run: Callable[..., AbstractContextManager[S3Server]]) -> None:
    with run(user="ordinary") as server:
        assert os.stat(f"/proc/{server.server.pid}").st_uid != 0
        bucket = server.client.make_bucket("ordinary")
        server.client.put(bucket, "x", b"hello")
        assert server.client.get(bucket, "x").body == b"hello"
        directory, port = server.server.log.parent, int(server.endpoint.rpartition(":")[2])
    assert not directory.exists()
    assert not accepts(port)
