"""The C client computes what everybody computes; the emulated link delays what crosses it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import blake3
import pytest

from benchmarks.native.compiled import REFERENCE
from benchmarks.origins import links
from benchmarks.origins.nginx import Nginx
from fetcher.testing.contents import Synthetic

MIB = 1 << 20


def _reference(*arguments: str) -> dict[str, object]:
    done = subprocess.run([str(REFERENCE.build()), *arguments], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.needs("reference")
@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("size", [1, 1024, MIB - 1, MIB, MIB + 1, 2 * MIB, 33 * MIB + 5])
def test_the_c_client_computes_what_everybody_computes(
    tmp_path: Path, root: Path, server: Nginx, size: int, connections: int
) -> None:
    content = Synthetic(size, seed=7)
    content.write_to(root / "file")
    output = tmp_path / "output"
    output.write_bytes(b"old" * 100_000)
    options = (f"--connections={connections}", "--blake3", "--sha256")
    told = _reference(*options, f"{server.plain}/file", str(output))
    data = content.read()
    assert output.read_bytes() == data
    assert told["files"] == [
        {"bytes": size, "blake3": blake3.blake3(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
    ]


@pytest.mark.needs("reference")
def test_the_c_client_writes_the_same_past_the_page_cache(tmp_path: Path, root: Path, server: Nginx) -> None:
    content = Synthetic(5 * MIB + 4097, seed=3)
    content.write_to(root / "file")
    told = _reference("--allocate", "--direct", "--blake3", "--durable", f"{server.plain}/file", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == content.read()
    assert isinstance(told["files"], list) and told["files"][0]["blake3"] == blake3.blake3(content.read()).hexdigest()


@pytest.mark.needs("reference")
def test_the_c_client_follows_several_files_at_once_over_tls(tmp_path: Path, root: Path, server: Nginx) -> None:
    contents = [Synthetic(size, seed=size) for size in (20 * MIB, 3 * MIB + 1, 17 * MIB + 9)]
    pairs = []
    for number, content in enumerate(contents):
        content.write_to(root / f"file-{number}")
        pairs += [f"{server.tls}/file-{number}", str(tmp_path / f"output-{number}")]
    told = _reference("--blake3", "--sha256", f"--cacert={server.certificate}", *pairs)
    assert isinstance(told["files"], list)
    assert [file["sha256"] for file in told["files"]] == [content.sha256 for content in contents]
    for number, content in enumerate(contents):
        assert (tmp_path / f"output-{number}").read_bytes() == content.read()


@pytest.mark.needs("reference")
def test_the_c_client_trusts_no_other_certificate(tmp_path: Path, root: Path, server: Nginx) -> None:
    (root / "file").write_bytes(b"x")
    other = tmp_path / "other"
    other.mkdir()
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", other / "key", "-out", other / "pem")
    subprocess.run(["openssl", "req", "-x509", *key, "-subj", "/CN=localhost"], check=True, capture_output=True)
    arguments = [str(REFERENCE.build()), f"--cacert={other / 'pem'}", f"{server.tls}/file", str(tmp_path / "output")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1 and "TLS with localhost" in done.stderr


@pytest.mark.needs("root", "netns", "debian:ip", "debian:gcc")
def test_the_link_delays_both_ways_and_leaves_nothing() -> None:
    with links.link(round_trip_ms=40.0) as pair:
        serve = f"import socket; s = socket.create_server(({links.SERVER!r}, 7000)); print(flush=True); s.accept()"
        process = subprocess.Popen(
            [*pair.at_server(), sys.executable, "-c", serve], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        with process:
            try:
                assert process.stdout and process.stdout.readline() == b"\n"
                script = (
                    "import socket, time; start = time.monotonic(); "
                    f"socket.create_connection(({links.SERVER!r}, 7000), 20); print(time.monotonic() - start)"
                )
                done = subprocess.run(
                    [*pair.at_client(), sys.executable, "-c", script],
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=30,
                )
            finally:
                process.terminate()
        assert float(done.stdout) >= 0.04  # a handshake can't be sooner than a round trip
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert pair.server not in left and pair.client not in left
