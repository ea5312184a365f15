"""``prefetch`` as users run it: where a list may come from, what is told and when, exit codes."""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher import hashing
from fetcher.testing import Hub, Synthetic
from fetcher.testing.market import Market, market_in_thread
from fetcher.testing.registry import registry_in_thread
from tests.cli.support import check
from tests.images.stub import engine_in_thread, layer, line, says
from tests.support.cli import CommandLine, Completed, User

MIB = 1 << 20
MARKET = "97G9NnvBDQ2WpKu6fasoMsAKmfj63C9rhysJnkeWodAf"
PIN = f"market:{MARKET}"
NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/engine.sock"}
TINY = {"type": "HF", "url": "acme/tiny"}
MODEL = {"type": "Ollama", "model": "tiny"}
LARGE = "large.bin"
MISSING = {"type": "HF", "url": "acme/none"}
GATED = {"type": "HF", "url": "acme/gated"}
PUBLIC_PAGE = [
    "registry.hub.docker.com/nosana/frpc:0.1.0",
    "registry.hub.docker.com/nosana/stats:v1.0.4",
    "registry.hub.docker.com/nosana/llm_benchmark:1.0.0",
    "registry.hub.docker.com/nosana/remote-resource-helper:0.1.0",
    "docker.io/openmmlab/lmdeploy:v0.5.3-cu12",
    "docker.io/vllm/vllm-openai:v0.5.4",
    "docker.io/saladtechnologies/a1111:ipv6-v1.9.4",
]
"""The images of the example on the network's public page."""


@pytest.fixture
def market(hub: Hub, isolated_environment: pytest.MonkeyPatch) -> Iterator[Market]:
    """A market endpoint beside a hub and a registry that hold what its lists will require."""
    hub.add_repo("acme/tiny", files={"config.json": b"{}", "model.bin": Synthetic(MIB + 5, 1)})
    hub.add_repo("acme/gated", files={"a": b"1"}, gated=True)
    with registry_in_thread() as registry, market_in_thread() as running:
        registry.add_model("library/tiny")
        isolated_environment.setenv("FETCHER_OLLAMA_URL", registry.endpoint)
        isolated_environment.setenv("FETCHER_MARKET_URL", running.template)
        isolated_environment.setenv("FETCHER_SPACE_FLOOR_BYTES", "0")
        isolated_environment.setenv("FETCHER_API_TIME_MAX_S", "2")
        yield running


def document(*resources: Any, images: Any = ()) -> dict[str, Any]:
    return {"required_images": list(images), "required_remote_resources": list(resources)}


def lines(done: Completed) -> list[dict[str, Any]]:
    for each in done.json:
        check(each)
    return done.json


def statuses(done: Completed) -> list[tuple[str, str]]:
    assert done.last["event"] == "summary"
    return [(item["resource"], item["status"]) for item in done.last["items"]]


def pins(run_cli: CommandLine) -> dict[str, list[str]]:
    return {entry["resource"]: entry["pins"] for entry in lines(run_cli("ls", "--json"))}


# --- from everywhere -------------------------------------------------------------------------------------------------


def test_a_market_as_any_user(market: Market, run_cli: CommandLine, cli_user: User) -> None:
    market.set(MARKET, document(TINY, MODEL))
    done = run_cli("prefetch", MARKET, user=cli_user)
    assert done.exit_code == 0, done.stderr
    assert [row.split()[:2] for row in done.stdout.splitlines()] == [
        ["RESOURCE", "STATUS"],
        ["hf://acme/tiny@main", "done"],
        ["ollama://tiny:latest", "done"],
    ]
    assert "6.3 MB to fetch" in done.stderr, "the plan comes first, as talk"
    again = run_cli("prefetch", MARKET, "--json", "--quiet", user=cli_user)
    assert statuses(again) == [("hf://acme/tiny@main", "hit"), ("ollama://tiny:latest", "hit")]
    assert again.stderr == ""


@pytest.mark.parametrize("spelling", ["template", "api_template"])
def test_the_url_of_a_list_tells_its_market(market: Market, run_cli: CommandLine, spelling: str) -> None:
    market.set(MARKET, document(TINY))
    url = getattr(market, spelling).format(market=MARKET)
    assert run_cli("prefetch", url).exit_code == 0
    assert pins(run_cli) == {"hf://acme/tiny@main": [PIN]}


def test_any_other_url_pins_by_name_only(market: Market, hub: Hub, run_cli: CommandLine) -> None:
    market.set(MARKET, document(TINY))
    market.set("lists", document(TINY))
    url = market.url(MARKET).removesuffix("required-resources") + "required-resources?of=me"
    assert run_cli("prefetch", url, "--pin", "mine").exit_code == 0
    assert pins(run_cli) == {"hf://acme/tiny@main": ["mine"]}


def test_a_file_or_stdin_is_pinned_by_name_only(market: Market, run_cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(document(TINY)))
    done = run_cli("prefetch", path)
    assert done.exit_code == 0
    assert "note: nothing is pinned" in done.stderr
    assert pins(run_cli) == {"hf://acme/tiny@main": []}
    assert market.count() == 0
    done = run_cli("prefetch", "-", "--pin", "mine", input=json.dumps(document(TINY, MODEL)))
    assert done.exit_code == 0
    assert pins(run_cli) == {"hf://acme/tiny@main": ["mine"], "ollama://tiny:latest": ["mine"]}
    done = run_cli("prefetch", path, "--pin", "mine")
    assert "note: 1 item that is no longer on the list: no longer pinned as mine" in done.stderr
    assert pins(run_cli) == {"hf://acme/tiny@main": ["mine"], "ollama://tiny:latest": []}


@pytest.mark.parametrize(
    ("place", "text", "code", "says"),
    [
        ("no-such-file.json", None, 2, "can't read no-such-file.json"),
        ("-", "", 10, "JSON"),
        ("-", "[]", 10, "an object, not a list"),
        ("-", '{"required_images":7}', 10, "must be a list"),
        ("Z" * 44, None, 2, "not a market"),
        ("0OIl", None, 2, "not a market"),
        ("http://[", None, 25, "not a usable URL"),
        (f"http://user:{'s' * 12}@127.0.0.1:9/x", None, 25, "user name or password"),
    ],
)
def test_what_is_no_list(market: Market, run_cli: CommandLine, place: str, text: str, code: int, says: str) -> None:
    done = run_cli("prefetch", place, input=text)
    assert (done.exit_code, done.stdout) == (code, "")
    assert says in done.stderr and "ssss" not in done.stderr
    done = run_cli("prefetch", place, "--json", input=text)
    assert done.exit_code == code
    *_, error, summary = lines(done)
    assert says in error["message"]
    assert summary == {"event": "summary", "items": []}, "the last line, always"


def test_an_unknown_market(market: Market, run_cli: CommandLine) -> None:
    done = run_cli("prefetch", MARKET, "--json", "--quiet")
    assert done.exit_code == 21
    assert [line["event"] for line in lines(done)] == ["error", "summary"]


# --- what is told ----------------------------------------------------------------------------------------------------


def test_json_of_a_mixed_list(market: Market, run_cli: CommandLine) -> None:
    market.set(MARKET, document(TINY, MISSING, {"type": "Ollama"}, MODEL, images=[PUBLIC_PAGE[0], 7]))
    done = run_cli("prefetch", MARKET, "--json", env=NO_ENGINE)
    assert done.exit_code == 11
    events = [each["event"] for each in lines(done)]
    assert events.count("plan") == 1 and events[-1] == "summary"
    assert set(events[: events.index("plan")]) <= {"progress"}, "before the first byte"
    assert events[-4:-1] == ["error"] * 3
    errors = done.events("error")
    assert [(error["kind"], error["at"]) for error in errors] == [
        ("not_found", "$.required_remote_resources[1]"),
        ("resource", "$.required_remote_resources[2].model"),
        ("resource", "$.required_images[1]"),
    ]
    assert errors[0]["resource"] == "hf://acme/none@main" and all(error["hint"] or error["message"] for error in errors)
    assert [(item["kind"], item["status"]) for item in done.last["items"]] == [
        ("HF", "done"),
        ("HF", "failed"),
        ("Ollama", "failed"),
        ("Ollama", "done"),
        ("image", "skipped"),
        ("image", "failed"),
    ]
    assert done.last["items"][4]["reason"].startswith("no container engine answers (DOCKER_HOST=unix:///nowhere")
    (plan,) = done.events("plan")
    assert [item["resource"] for item in plan["resources"]] == ["hf://acme/tiny@main", "ollama://tiny:latest"]
    assert plan["images"] == [
        {"name": PUBLIC_PAGE[0], "action": "skip", "bytes": None, "reason": done.last["items"][4]["reason"]}
    ]


@pytest.mark.parametrize(
    ("resources", "code"),
    [
        ([TINY, MODEL], 0),
        ([], 0),
        ([TINY, MISSING], 11),
        ([MISSING, {"type": "Ollama", "model": "none"}], 21),
        ([GATED], 22),
        ([MISSING, GATED], 11),
        ([{"type": "HF"}], 10),
    ],
    ids=["good", "nothing", "some", "all-of-one-kind", "one", "all-of-two-kinds", "unreadable"],
)
def test_exit_codes(market: Market, run_cli: CommandLine, resources: list[Any], code: int) -> None:
    market.set(MARKET, document(*resources))
    for dry in ([], ["--dry-run"]):
        done = run_cli("prefetch", MARKET, "--json", "--quiet", *dry)
        assert done.exit_code == code
        assert len(statuses(done)) == len(resources)
        assert len(done.events("error")) == sum(status == "failed" for _, status in statuses(done))


def test_the_table_of_the_public_page(market: Market, run_cli: CommandLine) -> None:
    """Everything fits a line of 100 characters; a long reason is told once."""
    market.set(MARKET, document(TINY, MISSING, images=PUBLIC_PAGE))
    done = run_cli("prefetch", MARKET, env=NO_ENGINE)
    assert done.exit_code == 11
    rows = done.stdout.splitlines()
    assert len(rows) == 1 + 2 + len(PUBLIC_PAGE)
    assert max(len(row) for row in rows) <= 100
    assert [row.split(maxsplit=3)[3] for row in rows if "skipped" in row] == ["no container engine"] * len(PUBLIC_PAGE)
    assert [row.split() for row in rows if "failed" in row] == [["hf://acme/none@main", "failed", "-", "not", "found"]]
    assert done.stderr.count("no container engine answers (DOCKER_HOST=") == 1
    assert done.stderr.count("error: ") == 1
    dry = run_cli("prefetch", MARKET, "--dry-run", env=NO_ENGINE)
    told = dry.stdout.splitlines()
    assert max(len(row) for row in told if not row.startswith("images are skipped: ")) <= 100
    assert told[-1].endswith(": fits")
    assert [row for row in told if row.startswith(PUBLIC_PAGE[3])] == [f"{PUBLIC_PAGE[3]}     -  skipped"]


def test_a_narrow_terminal_gets_shorter_reasons(market: Market, run_cli: CommandLine) -> None:
    market.set(MARKET, document(images=PUBLIC_PAGE))
    done = run_cli("prefetch", MARKET, env=NO_ENGINE | {"COLUMNS": "90"})
    rows = done.stdout.splitlines()
    assert max(len(row) for row in rows) <= 90
    assert rows[1].endswith("…")


def test_nothing_is_required(market: Market, run_cli: CommandLine) -> None:
    market.set(MARKET, document())
    done = run_cli("prefetch", MARKET)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "the market requires nothing" in done.stderr
    assert lines(run_cli("prefetch", MARKET, "--json", "--quiet"))[-1] == {"event": "summary", "items": []}


def test_quiet_says_nothing_but_errors(market: Market, run_cli: CommandLine) -> None:
    market.set(MARKET, document(TINY))
    assert run_cli("prefetch", MARKET, "--quiet").stderr == ""
    market.set(MARKET, document(TINY, MISSING))
    assert run_cli("prefetch", MARKET, "--quiet").stderr.startswith("error: ")


# --- the endpoint is down, the network is not to be used -----------------------------------------------------------


def test_a_list_of_before_is_used_and_said_so(market: Market, run_cli: CommandLine) -> None:
    market.set(MARKET, document(TINY))
    run_cli("prefetch", MARKET)
    market.behave("down")
    done = run_cli("prefetch", MARKET)
    assert done.exit_code == 0
    assert "ago is used, as no current one can be had: http://127.0.0.1" in done.stderr
    assert "answered 503" in done.stderr
    assert pins(run_cli) == {"hf://acme/tiny@main": [PIN]}


def test_offline(market: Market, hub: Hub, run_cli: CommandLine) -> None:
    done = run_cli("prefetch", MARKET, "--offline", "--json", "--quiet")
    assert (done.exit_code, [each["event"] for each in lines(done)]) == (24, ["error", "summary"])
    market.set(MARKET, document(TINY, images=[PUBLIC_PAGE[0]]))
    run_cli("prefetch", MARKET, "--no-images")
    asked = len(market.requests) + len(hub.requests)
    done = run_cli("prefetch", MARKET, "--offline", "--json")
    assert done.exit_code == 0
    assert [item["status"] for item in done.last["items"]] == ["hit", "skipped"]
    assert done.last["items"][1]["reason"] == "no network is to be used"
    assert len(market.requests) + len(hub.requests) == asked


# --- the dry run -----------------------------------------------------------------------------------------------------


def state_of(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Every file with its size, its time and a digest; the index as its rows, which are all that counts of it."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and ".sqlite" not in path.name:
            status = path.stat()
            found[str(path)] = (status.st_size, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        elif path.suffix == ".sqlite":
            with sqlite3.connect(path) as rows:
                found[str(path)] = (0, 0, "\n".join(rows.iterdump()))
            rows.close()
    return found


def test_a_dry_run_writes_nothing(
    market: Market, hub: Hub, run_cli: CommandLine, cache_dir: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    env = {"FETCHER_STATE_DIR": str(state), **NO_ENGINE}
    market.set(MARKET, document(TINY))
    run_cli("prefetch", MARKET, env={**env, "FETCHER_FRESH_FOR_S": "0"})
    before = {**state_of(cache_dir), **state_of(state)}
    assert before
    market.set(MARKET, document(TINY, MODEL, MISSING, images=[PUBLIC_PAGE[0]]))
    done = run_cli("prefetch", MARKET, "--dry-run", "--json", env=env)
    assert done.exit_code == 11
    assert statuses(done) == [
        ("hf://acme/tiny@main", "hit"),
        ("ollama://tiny:latest", "skipped"),
        ("hf://acme/none@main", "failed"),
        (f"docker://{PUBLIC_PAGE[0]}", "skipped"),
    ]
    assert run_cli("prefetch", MARKET, "--dry-run", env=env).exit_code == 11
    assert {**state_of(cache_dir), **state_of(state)} == before
    # What it saw is not what stands in on the day when nobody answers.
    market.behave("down")
    done = run_cli("prefetch", MARKET, "--dry-run", "--json", "--quiet", env=env)
    assert statuses(done) == [("hf://acme/tiny@main", "hit")]


@pytest.mark.parametrize("command", ["get", "prefetch"])
def test_a_dry_run_makes_no_cache(market: Market, run_cli: CommandLine, cache_dir: Path, command: str) -> None:
    market.set(MARKET, document(TINY, MODEL))
    done = run_cli(command, MARKET if command == "prefetch" else "hf://acme/tiny", "--dry-run", "--json", "--quiet")
    assert done.exit_code == 0, done.stdout
    (plan,) = done.events("plan")
    assert plan["fits"] and plan["bytes_to_fetch"] > MIB and plan["bytes_free"] > 0
    assert not cache_dir.exists()


# --- images ----------------------------------------------------------------------------------------------------------


def test_images_are_pulled_skipped_and_refused(market: Market, run_cli: CommandLine) -> None:
    market.set(MARKET, document(TINY, images=["127.0.0.1:9/acme/app:1", "127.0.0.1:9/acme/here:1"]))
    pull = says(
        layer("Downloading", "aaaaaaaaaaaa", 5, 10), layer("Pull complete", "aaaaaaaaaaaa"), line(status="Done")
    )
    with engine_in_thread(pull_says=pull, tags={"127.0.0.1:9/acme/here:1": "127.0.0.1:9/acme/here:1"}) as engine:
        env = {"DOCKER_HOST": f"unix://{engine.socket}"}
        dry = run_cli("prefetch", MARKET, "--dry-run", env=env)
        assert [row.split() for row in dry.stdout.splitlines() if "acme/" in row][1:] == [
            ["127.0.0.1:9/acme/app:1", "-", "all"],
            ["127.0.0.1:9/acme/here:1", "42", "B", "present"],
        ]
        assert not [request for request in engine.requests if request.startswith("POST")]
        done = run_cli("prefetch", MARKET, "--json", env=env)
        assert done.exit_code == 0
        assert [(item["status"], item["bytes"]) for item in done.last["items"][1:]] == [("done", 42), ("hit", 42)]
        lines(done)
        del engine.tags["127.0.0.1:9/acme/app:1"]
        engine.pull_status = 500
        done = run_cli("prefetch", MARKET, "--json", env=env)
        assert done.exit_code == 11
        (error,) = done.events("error")
        assert (error["kind"], error["resource"]) == ("image", "docker://127.0.0.1:9/acme/app:1")
        assert error["at"] == "$.required_images[0]"


def test_an_engine_elsewhere_is_refused(market: Market, run_cli: CommandLine) -> None:
    env = {"DOCKER_HOST": "tcp://127.0.0.1:2375"}
    market.set(MARKET, document(images=PUBLIC_PAGE[:2]))
    done = run_cli("prefetch", MARKET, "--json", env=env)
    assert done.exit_code == 70
    assert [error["resource"] for error in done.events("error")] == [f"docker://{name}" for name in PUBLIC_PAGE[:2]]
    market.set(MARKET, document(TINY, images=PUBLIC_PAGE[:1]))
    assert run_cli("prefetch", MARKET, "--json", env=env).exit_code == 11
    assert run_cli("prefetch", MARKET, "--json", "--no-images", env=env).exit_code == 0


# --- stopped ---------------------------------------------------------------------------------------------------------


def test_a_stop_keeps_what_came_and_the_summary_is_the_last_line(
    market: Market, hub: Hub, run_cli: CommandLine
) -> None:
    hub.add_repo("acme/large", files={LARGE: Synthetic(24 * MIB, 2)})
    large = {"type": "HF", "url": "acme/large"}
    market.set(MARKET, document(TINY, large, {"type": "HF"}))
    env = {"FETCHER_PART_BYTES": "1MiB", "FETCHER_CONNECTIONS_MAX": "2"}
    with run_cli.start("prefetch", MARKET, "--json", "--limit-rate", "4MiB", env=env) as process:
        assert process.stdout is not None
        for each in process.stdout:
            fact = json.loads(each)
            if fact["event"] == "progress" and fact["bytes_done"] > 4 * MIB:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    *_, error, summary = [json.loads(each) for each in out.splitlines()]
    check(error)
    check(summary)
    assert error["kind"] == "interrupted" and error["message"].endswith("are kept")
    assert [(item["resource"], item["status"]) for item in summary["items"]] == [
        ("hf://acme/tiny@main", "failed"),
        ("hf://acme/large@main", "failed"),
        ("$.required_remote_resources[2]", "failed"),
    ]
    assert summary["items"][0]["reason"] == error["message"]
    assert summary["items"][2]["reason"] != error["message"]
    sent = hub.body_bytes_sent(LARGE)
    done = run_cli("prefetch", MARKET, "--json", "--quiet")
    found = [status for _, status in statuses(done)]
    assert found[0] in ("hit", "done") and found[1:] == ["done", "failed"]
    again = hub.body_bytes_sent(LARGE) - sent
    assert again < 24 * MIB if hashing.HAS_TREE else again == 24 * MIB
    assert pins(run_cli) == {"hf://acme/tiny@main": [PIN], "hf://acme/large@main": [PIN]}


def test_no_space_for_all_of_it(market: Market, run_cli: CommandLine) -> None:
    market.set(MARKET, document(TINY, MODEL))
    run_cli("get", "hf://acme/tiny")
    for dry in ((), ("--dry-run",)):
        done = run_cli("prefetch", MARKET, "--json", *dry, env={"FETCHER_SPACE_FLOOR_BYTES": str(1 << 60)})
        assert done.exit_code == 11
        assert statuses(done) == [("hf://acme/tiny@main", "hit"), ("ollama://tiny:latest", "failed")]
        (error,) = done.events("error")
        assert (error["kind"], error["resource"]) == ("no_space", "ollama://tiny:latest")
