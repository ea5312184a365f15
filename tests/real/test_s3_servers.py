"""S3 from real servers, through the program: OpenStack Swift (strict) and ``rclone serve s3`` (odd).

What the program fetched is compared with what was put there, and with what rclone and s5cmd fetch from the same place.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.real import support
from tests.real.odd_keys import nested, odd_keys
from tests.real.support import MIB, got, hashes_of, job_of, noise, refusal, s3_environment, s3_resource, tree_of
from tests.support.cli import CHECKOUT, CommandLine
from tests.support.servers.places import program
from tests.support.servers.rclone import RcloneServer, run_rclone
from tests.support.servers.s3client import S3Server
from tests.support.servers.swift import READER, run_swift

KEYS = 2_500
JUDGED = 300
"""As many of them others fetch, too: each costs the server 7 ms, whoever asks."""
FROM_HERE = {"FETCHER_ALLOW_NET": support.LOOPBACK}


@pytest.fixture(scope="module", params=["swift", "rclone"])
def server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the two in turn."""
    found: S3Server = request.getfixturevalue(f"{request.param}_s3")
    return found


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> str:
    """A new bucket there, of this test alone."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:24]
    return server.client.make_bucket(f"t{name}")


def write_job(directory: Path, *resources: Mapping[str, object]) -> Path:
    path = directory / "job.json"
    path.write_text(json.dumps(job_of(*resources)))
    return path


# --- thousands of odd keys


def fill(server: S3Server, bucket: str, objects: Mapping[str, bytes]) -> None:
    server.client.make_bucket(bucket)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.real.swift_fill", str(server.server.log.parent), bucket],
        input=json.dumps({key: body.hex() for key, body in objects.items()}).encode(),
        env={"PATH": os.defpath, "PYTHONPATH": str(CHECKOUT), "EVENTLET_THREADPOOL_SIZE": "0", "HOME": "/nonexistent"},
        timeout=50,
        check=True,
    )


@pytest.mark.timeout(300)  # 3,400 requests to a server that takes 7 ms of a processor for each
@pytest.mark.needs("swift", "program:rclone", "program:s5cmd")
def test_thousands_of_odd_keys_come_as_they_are(
    swift_s3: S3Server, run_cli: CommandLine, tmp_path: Path, seed: int
) -> None:
    keys = odd_keys(KEYS, seed)
    # Not the first ones: to names as long as names can be s5cmd adds something.
    keys = [*keys[:-JUDGED], *(f"judged + 100%/{key}" for key in keys[-JUDGED:])]
    files = {key: noise(len(key) % 60, key) for key in keys}
    fill(
        swift_s3, "odd-keys-many", {f"in/{key}": body for key, body in files.items()} | {"in2/other": b"no", "in": b""}
    )
    snapshot = got(run_cli("get", "s3://odd-keys-many/in", "--json", env=s3_environment(swift_s3), timeout_s=100))
    assert (snapshot["files"], snapshot["hit"]) == (KEYS, False)
    assert snapshot["downloaded"] == snapshot["bytes"] == sum(map(len, files.values()))
    assert snapshot["verified_by"] == "md5"
    assert tree_of(Path(snapshot["path"])) == hashes_of(files)

    # One folder of them, by a job with keys of its own, and by the judges.
    place = "odd-keys-many/in/judged + 100%/"
    job = write_job(tmp_path, s3_resource(swift_s3, support.as_url(place)))
    mounts = run_cli("job", job, "--json", env=FROM_HERE).last
    ours = tree_of(Path(mounts["mounts"][0]["source"]))
    assert ours == hashes_of({path: files[f"judged + 100%/{path}"] for path in nested(keys, "judged + 100%")})
    assert len(ours) == JUDGED
    assert support.rclone_copy(swift_s3, place, tmp_path / "rclone") == ours
    assert support.s5cmd_copy(swift_s3, place, tmp_path / "s5cmd") == ours


@pytest.mark.needs("rclone")
def test_odd_keys_come_from_a_store_of_files_too(
    rclone_s3: RcloneServer, run_cli: CommandLine, tmp_path: Path, seed: int
) -> None:
    """rclone's words are not Swift's, and its objects are files. Few, in few folders: for each it looks at all."""
    names = [key.rpartition("/")[2] for key in odd_keys(300, seed + 1)]
    files = {f"+ %2F ü/{name}" if name[3] in "02468" else name: noise(1 + len(name) % 60, name) for name in names}
    bucket = rclone_s3.client.make_bucket("odd-keys-files")
    rclone_s3.fill(bucket, {f"in/{key}": body for key, body in files.items()})
    snapshot = got(run_cli("get", f"s3://{bucket}/in/", "--json", env=s3_environment(rclone_s3), timeout_s=100))
    ours = tree_of(Path(snapshot["path"]))
    assert ours == hashes_of(files)
    assert snapshot["verified_by"] == "md5"
    assert support.rclone_copy(rclone_s3, f"{bucket}/in/", tmp_path / "rclone") == ours


HOSTILE = {
    "up": ("../up", "path segment '..'"),
    "inside": ("a/../../b", "path segment '..'"),
    "dot": ("a/./b", "path segment '.'"),
    "double-slash": ("a//b", "path segment ''"),
    "leading-slash": ("/etc/passwd", "absolute path"),
    "newline": ("new\nline", "control character"),
    "escape": ("\x1b[2J", "control character"),
    "backslash": ("a\\b", "backslash"),
    "drive": ("c:/windows", "drive letter"),
    "long-name": ("n" * 256, "name longer than 255 bytes"),
    "deep": ("/".join("d" * 65), "more than 64 folders deep"),
}


def test_a_key_that_can_be_no_file_refuses_the_whole_by_name(swift_s3: S3Server, run_cli: CommandLine) -> None:
    bucket = swift_s3.client.make_bucket("hostile-keys")
    swift_s3.client.put_all(bucket, {f"{name}/{key}": b"x" for name, (key, _) in HOSTILE.items()})
    swift_s3.client.put_all(bucket, {f"{name}/good": b"good" for name in HOSTILE})
    swift_s3.client.put_all(bucket, {"case/Read": b"1", "case/read": b"2", "both/a": b"1", "both/a/b": b"2"})
    cases = {name: (key, reason) for name, (key, reason) in HOSTILE.items()}
    cases |= {"case": ("read", "only in case"), "both": ("a", "as a folder")}
    uris = [f"s3://{bucket}/{name}/" for name in cases]
    result = run_cli("get", *uris, "--json", env=s3_environment(swift_s3))
    assert result.exit_code == 25
    errors = {error["resource"]: error for error in result.events("error")}
    assert set(errors) == set(uris)
    for uri, (key, reason) in zip(uris, cases.values(), strict=True):
        told = errors[uri]
        assert told["kind"] == "forbidden"
        assert reason in told["message"], told
        assert key[:40].encode("unicode_escape").decode().replace("\\\\", "\\") in told["message"].replace("\\\\", "\\")
        assert not any(ord(character) < 32 for character in told["message"])
    assert list((support.in_cache(run_cli) / "snapshots-v1").iterdir()) == []
    # What is good can be named, and comes.
    named = run_cli("get", uris[0], "--file", "good", "--json", env=s3_environment(swift_s3))
    assert tree_of(Path(got(named)["path"])) == hashes_of({"good": b"good"})


# --- checks


def test_a_body_put_in_parts_is_checked_by_its_etag(server: S3Server, bucket: str, run_cli: CommandLine) -> None:
    """At the upload both tell the MD5 of the parts' MD5s; later, rclone's has the MD5 of the whole instead."""
    body = noise(17 * MIB, "parts")
    etag = server.client.put_multipart(
        bucket, "m/parts.bin", [body[: 6 * MIB], body[6 * MIB : 12 * MIB], body[12 * MIB :]]
    )
    assert etag.endswith("-3")
    of_parts = not isinstance(server, RcloneServer)
    assert server.client.head(bucket, "m/parts.bin").etag == (etag if of_parts else hashlib.md5(body).hexdigest())
    server.client.put(bucket, "m/one.bin", noise(3 * MIB, "one"))
    snapshot = got(run_cli("get", f"s3://{bucket}/m/", "--json", env=s3_environment(server)))
    assert snapshot["verified_by"] == "md5"
    assert tree_of(Path(snapshot["path"])) == hashes_of({"parts.bin": body, "one.bin": noise(3 * MIB, "one")})


def test_a_large_object_comes_over_several_connections(server: S3Server, bucket: str, run_cli: CommandLine) -> None:
    body = noise(40 * MIB, bucket)
    server.client.put(bucket, "large", body)
    environment = s3_environment(server, FETCHER_PART_BYTES="4MiB")
    result = run_cli("get", f"s3://{bucket}/large", "--json", "--limit-rate", "30M", env=environment)
    assert tree_of(Path(got(result)["path"])) == hashes_of({"large": body})
    assert max(event["connections"] for event in result.events("progress")) >= 3


# --- refusals


def test_wrong_keys_are_refused_in_words(server: S3Server, bucket: str, run_cli: CommandLine) -> None:
    server.client.put(bucket, "in/file", b"x")
    wrong = {
        "mistyped": replace(server, secret_key="mistyped-secret"),
        "unknown": replace(server, access_key="AKIDUNKNOWN"),
    }
    for name, stranger in wrong.items():
        environment = s3_environment(stranger)
        told = refusal(run_cli("get", f"s3://{bucket}/in/", "--json", env=environment), 22)
        assert told["kind"] == "denied", name
        assert told["hint"]
        assert "the keys are not accepted" in told["message"], told
        assert "mistyped-secret" not in json.dumps(told)
    job = support.job_of(s3_resource(wrong["mistyped"], f"{bucket}/in/"))
    told = refusal(run_cli("job", "-", "--json", input=json.dumps(job), env=FROM_HERE), 22)
    assert told["at"] == "$.ops[0].args.resources[0]"
    anonymous = run_cli("get", f"{server.endpoint}/{bucket}/in/", "--json", env=FROM_HERE)
    assert "needs credentials" in refusal(anonymous, 22)["message"]


def test_what_is_not_there_is_told_as_such(server: S3Server, bucket: str, run_cli: CommandLine) -> None:
    server.client.put(bucket, "in/file", b"x")
    for uri, word in (
        (f"s3://{bucket}/in/other", "in/other"),
        (f"s3://{bucket}/out/", "holds no files"),
        ("s3://no-such-bucket-here/in/", "no such bucket"),
    ):
        told = refusal(run_cli("get", uri, "--json", env=s3_environment(server)), 21)
        assert word in told["message"], told
        assert told["hint"]
    told = refusal(run_cli("get", f"s3://{bucket}/in/", "--file", "none", "--json", env=s3_environment(server)), 21)
    assert "in/none" in told["message"]


@pytest.mark.needs("debian:faketime")
@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_off_is_made_up_for(server: S3Server, bucket: str, run_cli: CommandLine, hours: int) -> None:
    """The server's Date teaches the time; what a clock does to a wrong secret is told as the secret's fault."""
    server.client.put(bucket, "in/file", b"x")
    command = [program("faketime"), "-f", f"{hours:+}h", sys.executable, "-m", "fetcher"]
    for one, exit_code in ((server, 0), (replace(server, secret_key="mistyped"), 22)):
        environment = run_cli.environment(s3_environment(one))
        run_cli.home().mkdir(exist_ok=True)
        arguments = ["get", f"s3://{bucket}/in/", "--json", "--refresh", "--quiet"]
        done = subprocess.run(
            [str(word) for word in (*command, *arguments)],
            env=environment,
            capture_output=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == exit_code, done.stdout + done.stderr
        last = json.loads(done.stdout.splitlines()[-1])
        if exit_code == 0:
            assert tree_of(Path(last["path"])) == hashes_of({"file": b"x"})


@pytest.mark.needs("swift")
def test_who_may_read_but_not_list_is_told_the_ways_out(run_cli: CommandLine) -> None:
    with run_swift() as own:
        bucket = own.client.make_bucket("closed-listing")
        own.client.put_all(bucket, {"in/file": b"x", "in/other": b"y"})
        # ".r:*" without ".rlistings": whoever has an account may read every object, and list nothing.
        support.swift_read_acl(own, bucket, ".r:*")
        reader = replace(own, access_key=READER[0], secret_key=READER[1])
        environment = s3_environment(reader)
        assert reader.client.get(bucket, "in/file").body == b"x"
        told = refusal(run_cli("get", f"s3://{bucket}/in/", "--json", env=environment), 22)
        assert "403" in told["message"]
        assert "if only the listing is closed, name the files" in told["hint"]
        assert "--file" in told["hint"]
        named = run_cli(*("get", f"s3://{bucket}/in/", "--file", "file", "--file", "other", "--json"), env=environment)
        assert tree_of(Path(got(named)["path"])) == hashes_of({"file": b"x", "other": b"y"})
        job = job_of(s3_resource(reader, f"{bucket}/in", files=["file"]))
        mounted = run_cli("job", "-", "--json", input=json.dumps(job), env=FROM_HERE)
        assert mounted.exit_code == 0, mounted.stderr
        assert tree_of(Path(mounted.last["mounts"][0]["source"])) == hashes_of({"file": b"x"})


# --- what changes meanwhile


def test_what_was_replaced_is_fetched_anew_and_what_was_not_is_a_hit(
    server: S3Server, bucket: str, run_cli: CommandLine
) -> None:
    files = {"keep": noise(2 * MIB, "keep"), "change": noise(MIB, "before"), "small": b"1"}
    server.client.put_all(bucket, {f"in/{key}": body for key, body in files.items()})
    get = ("get", f"s3://{bucket}/in/", "--json", "--quiet")
    first = got(run_cli(*get, env=s3_environment(server)))
    again = got(run_cli(*get, "--refresh", env=s3_environment(server)))
    assert (again["hit"], again["downloaded"], again["path"]) == (True, 0, first["path"])

    files["change"] = noise(MIB, "after")
    server.client.put(bucket, "in/change", files["change"])
    fresh = got(run_cli(*get, env=s3_environment(server)))
    assert (fresh["hit"], fresh["path"]) == (True, first["path"])  # within a day nobody is asked
    newer = got(run_cli(*get, "--refresh", env=s3_environment(server)))
    assert not newer["hit"]
    assert newer["path"] != first["path"]
    assert tree_of(Path(newer["path"])) == hashes_of(files)
    # The earlier one is what it was.
    assert tree_of(Path(first["path"])) == hashes_of({**files, "change": noise(MIB, "before")})


def test_an_object_put_anew_in_mid_download_is_never_mixed(server: S3Server, run_cli: CommandLine) -> None:
    """Swift answers 412 to the next part; rclone sends whatever is there now, and only its ETag tells."""
    size = 12 * MIB
    before, after = noise(size, "before"), noise(size, "after")
    if isinstance(server, RcloneServer):
        with run_rclone(arguments=("--bwlimit", "4M")) as slow:
            _put_anew(run_cli, slow, (), before, after)
    else:
        _put_anew(run_cli, server, ("--limit-rate", "4M"), before, after)


def _put_anew(run_cli: CommandLine, server: S3Server, arguments: tuple[str, ...], before: bytes, after: bytes) -> None:
    bucket = server.client.make_bucket("put-anew")
    if isinstance(server, RcloneServer):
        server.fill(bucket, {"in/file": before})  # past the limit
    else:
        server.client.put(bucket, "in/file", before)
    environment = s3_environment(server, FETCHER_PART_BYTES="1MiB", FETCHER_CONNECTIONS_MAX="3")
    with run_cli.start("get", f"s3://{bucket}/in/", "--json", *arguments, env=environment) as process:
        assert process.stdout is not None
        downloaded = 0
        while downloaded < 3 * MIB:
            downloaded = json.loads(process.stdout.readline())["bytes_downloaded"]
        assert downloaded < len(before) - 2 * MIB, "too fast to be changed in the middle"
        if isinstance(server, RcloneServer):
            _replace(server.data / bucket / "in/file", after)
        else:
            server.client.put(bucket, "in/file", after)
        lines = [json.loads(line) for line in process.stdout]
        assert process.stderr is not None
        told = process.stderr.read().decode()
        code = process.wait(50)
    assert code == 0, (lines[-1], told)
    snapshot = lines[-1]
    assert tree_of(Path(snapshot["path"])) == hashes_of({"file": after})
    assert snapshot["verified_by"] == "md5"


def _replace(path: Path, body: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(body)
    new.rename(path)
