"""What measures the hot path is right itself: the C client's digests, the judge of outputs, the link, the reckoning."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import blake3
import pytest

from benchmarks.hotpath import links, report, servers, targets
from benchmarks.hotpath.compiled import REFERENCE
from benchmarks.hotpath.machine import Conditions
from benchmarks.hotpath.race import Options, Race, Row
from benchmarks.hotpath.refusals import recovery
from benchmarks.hotpath.rivals import RIVALS
from benchmarks.hotpath.servers import Hubs, Nginx, nginx
from benchmarks.hotpath.work import Command, Rival, Work
from fetcher.testing.contents import Synthetic

CHECKOUT = Path(__file__).resolve().parents[1]
MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def server(tmp_path: Path, root: Path) -> Iterator[Nginx]:
    directory = tmp_path / "nginx"
    directory.mkdir()
    with nginx(directory, root) as running:
        yield running


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


@pytest.mark.needs("reference")
def test_a_port_that_was_taken_meanwhile_costs_another_try(
    tmp_path: Path, root: Path, server: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, free = list(server.ports.values()), servers._free_ports(5)
    answers = iter([taken, free])
    monkeypatch.setattr(servers, "_free_ports", lambda count: next(answers))
    directory = tmp_path / "another"
    directory.mkdir()
    with nginx(directory, root) as another:
        assert list(another.ports.values()) == free


def _race(tmp_path: Path, root: Path, server: Nginx, name: str) -> list[Row]:
    sink = tmp_path / "sink"
    sink.mkdir()
    work = Work(server.plain, ("file",), sink)
    found = list(Race("row", Options(rounds=2), "file", (name,), work, root, Conditions(), server).rows())
    assert not list(sink.iterdir())
    return found


@pytest.mark.needs("reference")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("printf right > output/file; exit 3", "ended with 3"),
        ("printf wrong > output/file", "other bytes"),
        ("printf rightt > output/file", "another size"),
        ("true", "not there"),
    ],
)
def test_who_does_not_do_the_work_drops_out(
    tmp_path: Path, root: Path, server: Nginx, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    (root / "file").write_bytes(b"right")

    def cheat(work: Work) -> Command:
        return Command(("sh", "-c", script.replace("output", str(work.directory))))

    monkeypatch.setitem(RIVALS, "cheat", Rival("cheat", {"file": cheat}, lambda: "1"))
    (only,) = _race(tmp_path, root, server, "cheat")
    assert reason in only["failed"]


@pytest.mark.needs("reference")
def test_who_is_not_here_is_said_to_be_missing(
    tmp_path: Path, root: Path, server: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"right")
    absent = dataclasses.replace(RIVALS["curl"], needs=("no-such-program",))
    monkeypatch.setitem(RIVALS, "curl", absent)
    (only,) = _race(tmp_path, root, server, "curl")
    assert only["missing"] == "no-such-program is not installed"


@pytest.mark.needs("reference")
def test_a_hub_behind_nginx_has_its_bytes_sent_by_nginx(tmp_path: Path, root: Path) -> None:
    for name, size in (("large/model.bin", 11 * MIB), ("small/config.dat", 500)):
        (root / name).parent.mkdir()
        Synthetic(size, seed=size).write_to(root / name)
    directory, sink = tmp_path / "nginx", tmp_path / "sink"
    directory.mkdir()
    sink.mkdir()
    with nginx(directory, root, Hubs({"bench/large": "large", "bench/small": "small"})) as server:
        for repo, name in (("large", "model.bin"), ("small", "config.dat")):
            work = Work(f"{server.plain}/{repo}", (name,), sink, hub=server.hub, repo=f"bench/{repo}")
            race = Race("row", Options(rounds=1), "repo", ("fetcher",), work, root / repo, Conditions(), server)
            (row,) = race.rows()
            assert "failed" not in row and row["bytes"] == (root / repo / name).stat().st_size


@pytest.mark.needs("reference", "native")
def test_the_transfer_layer_alone_does_a_row(tmp_path: Path) -> None:
    arguments = ["--row=engine", "--rounds=1", "--size=33MiB", f"--memory={tmp_path}", "--rival=fetcher engine"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hotpath", *arguments, "--rival=C"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    lines, _, table = done.stdout.partition("\n\n")
    found = [json.loads(line) for line in lines.splitlines()]
    assert [row["rival"] for row in found] == ["fetcher engine", "C"]
    assert all(row["wall_s"] > row["transfer"]["wall_s"] > 0 for row in found), found
    assert "| C |" in table
    assert not list(tmp_path.iterdir())


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


def test_recovery_is_the_first_whole_window_at_nine_tenths_of_the_plateau() -> None:
    rates = [100 * MIB] * 80 + [0] * 100 + [0] * 20 + [95 * MIB] * 40  # a tenth of a second each
    samples, count = [], 0
    for number, rate in enumerate(rates):
        samples.append((number / 10, count))
        count += rate // 10
    found = recovery(samples, {True: 8.0, False: 18.0})
    assert found == {"plateau_mib_s": 100.0, "recovery_s": 2.0}
    assert recovery(samples[:190], {True: 8.0, False: 18.0})["recovery_s"] is None
    assert recovery(samples, {True: 8.0})["recovery_s"] is None


def test_ratios_are_taken_within_rounds() -> None:
    common = {"row": "http", "bytes": 1 << 30, "files": 1, "rss_mib": 50.0, "server_cpu_s": 0.5}
    measured = [
        {**common, "rival": rival, "round": number, "wall_s": wall, "cpu_s": cpu}
        for rival, walls, cpu in (
            ("fetcher", (1.0, 4.0, 1.0), 2.0),
            ("C", (0.5, 2.0, 0.5), 1.0),
            ("curl", (2, 8, 2), 4.0),
        )
        for number, wall in enumerate(walls)
    ]
    table = report.tables(measured)
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[4:]
    }
    assert lines["C"][-2:] == ["0.5 (0.5–0.5)", "2 (2–2)"]
    assert lines["curl"][-2:] == ["2 (2–2)", "0.5 (0.5–0.5)"]
    assert targets.ratio(measured, targets.Target("http", "fetcher", targets.BEST, "wall", 0.8)) == 2.0
    assert targets.ratio(measured, targets.Target("http", "fetcher", "C", "CPU", 1.25)) == 2.0
    assert targets.ratio(measured, targets.Target("http", "fetcher", "obstore", "wall", 1.0)) is None


def test_a_target_is_for_somebody_who_is_there() -> None:
    for target in targets.TARGETS:
        assert target.ours in RIVALS and target.against in {*RIVALS, targets.BEST}
        assert target.aim is None or target.reached(target.aim)
        assert not target.reached(0.0) if target.figure == "wall" else not target.reached(99.0)
