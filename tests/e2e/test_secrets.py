"""A credential goes to the origin it is for, and nowhere else: no CDN, no disk, no text that people read."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from fetcher import FetcherError
from fetcher.testing import Hub, hub_in_thread
from fetcher.testing.faults import FlipByte, RedirectTo, StallAfter, Status
from tests.e2e.support import REPO, assert_whole, bytes_below, fetch, mixed_files
from tests.support.cli import CommandLine

CANARY = "hf_CanaryThatMustNotSing0123456789"
ITEM: Any = {"type": "HF", "repo": REPO, "accessToken": CANARY}


def assert_silent(hub: Hub, *places: Path, said: str = "") -> None:
    assert any(record.principal == "alice" for record in hub.requests), "the token was used at all"
    for place in places:
        assert CANARY.encode() not in bytes_below(place)
        assert b"Signature=" not in bytes_below(place), "a signed URL is a credential too"
    assert CANARY not in said
    assert "Signature=" not in said
    for record in hub.requests.select("cdn"):
        assert not record.authorization
        assert CANARY not in str(record)


def test_a_private_fetch(cache_dir: Path, tmp_path: Path) -> None:
    with hub_in_thread(tokens={CANARY: "alice"}) as hub:
        hub.add_repo(REPO, files=mixed_files(), private=True)
        events: list[Any] = []
        outcome = fetch(hub, cache_dir, ITEM, on_event=events.append, state_dir=str(tmp_path / "state"))
        assert_whole(outcome.snapshot, hub)
        assert_silent(hub, cache_dir, tmp_path / "state", said=repr((events, outcome)))


@pytest.mark.parametrize(
    "fault",
    [
        Status(403).on("cdn"),
        Status(503).on("cdn"),
        Status(500).on("api"),
        FlipByte(1).on(),
        StallAfter(10).on(),
        RedirectTo("http://10.0.0.1/{self}").on(),
        RedirectTo("http://127.0.0.9:1/elsewhere").on("info"),
    ],
    ids=lambda rule: f"{rule.name}-{'+'.join(sorted(rule.routes))}",
)
def test_a_failed_private_fetch(cache_dir: Path, fault: Any) -> None:
    with hub_in_thread(tokens={CANARY: "alice"}) as hub:
        hub.add_repo(REPO, files=mixed_files(), private=True)
        hub.faults.add(fault)
        events: list[Any] = []
        with pytest.raises(FetcherError) as caught:
            fetch(
                hub,
                cache_dir,
                ITEM,
                on_event=events.append,
                no_progress_timeout_s=1.0,
                api_time_max_s=1.5,
                api_tries_max=3,
            )
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
        assert_silent(hub, cache_dir, said=shown + repr(events))


def test_a_token_stays_at_its_origin(cache_dir: Path) -> None:
    """The API redirects to another hub that would know the token; it does not get it."""
    with hub_in_thread(tokens={CANARY: "alice"}) as hub, hub_in_thread(tokens={CANARY: "alice"}) as other:
        for each in (hub, other):
            each.add_repo(REPO, files=mixed_files(), private=True)
        hub.faults.add(RedirectTo(other.endpoint + "{self}").on("info", "tree", "resolve", "resolve-cache"))
        with pytest.raises(FetcherError):
            fetch(hub, cache_dir, ITEM, no_progress_timeout_s=1.0, api_time_max_s=1.5, api_tries_max=2)
        assert len(other.requests) > 0
        assert not any(record.authorization for record in other.requests)


def test_an_operators_token_on_the_command_line(run_cli: CommandLine, tmp_path: Path) -> None:
    with hub_in_thread(tokens={CANARY: "alice"}) as hub:
        hub.add_repo(REPO, files=mixed_files(), private=True)
        env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": CANARY, "FETCHER_ALLOW_NET": "127.0.0.0/8"}
        done = run_cli("get", f"hf://{REPO}", "--json", "--verbose", env=env)
        assert done.exit_code == 0, done.stderr
        listed = run_cli("ls", "--json", env=env)
        job = {
            "version": "0.1",
            "type": "container",
            "ops": [
                {
                    "type": "container/run",
                    "id": "op",
                    "args": {"image": "x", "resources": [{"type": "HF", "repo": REPO, "target": "/m"}]},
                }
            ],
        }
        # The job gets no token, is told so once, and not which.
        refused = run_cli("job", "-", input=json.dumps(job), env=env)
        assert refused.exit_code == 21, refused.stderr
        assert "HF_TOKEN" in refused.stderr
        said = "".join(run.stdout + run.stderr for run in (done, listed, refused))
        assert_silent(hub, run_cli.home(), said=said)
