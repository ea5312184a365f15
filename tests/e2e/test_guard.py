"""A job's addresses are judged, also on redirects; an operator's own origin is not, what it redirects to is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fetcher import ForbiddenError, UsageError
from fetcher.testing import Hub, hub_in_thread
from fetcher.testing.faults import RedirectTo
from tests.e2e.support import REPO, assert_whole, fetch, mixed_files, nothing_visible
from tests.support.cli import CommandLine

INSIDE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.2:1/",
    "http://127.1/",
    "http://2130706434/",
    "http://0x7f000002/",
    "http://0177.0.0.2/",
    "http://0.0.0.0:80/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://[::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "https://169.254.169.254/",
]


def test_a_job_does_not_reach_the_loopback(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    with pytest.raises(ForbiddenError) as caught:
        fetch(hub, cache_dir, allow_net="")
    assert caught.value.exit_code == 25
    assert "127.0.0.1" in caught.value.message
    assert "FETCHER_ALLOW_NET" in str(caught.value.hint)
    assert len(hub.requests) == 0


def test_a_job_of_the_command_line_neither(hub: Hub, run_cli: CommandLine) -> None:
    hub.add_repo(REPO, files=mixed_files())
    job = (
        '{"version":"0.1","type":"container","ops":[{"type":"container/run","id":"op","args":{"image":"x",'
        '"resources":[{"type":"HF","repo":"acme/mixed","target":"/models"}]}}]}'
    )
    refused = run_cli("job", "-", "--json", input=job, env={"FETCHER_ALLOW_NET": ""})
    assert refused.exit_code == 25, refused.stderr
    assert refused.events("error")[0]["kind"] == "forbidden"
    assert len(hub.requests) == 0
    allowed = run_cli("job", "-", "--json", input=job)
    assert allowed.exit_code == 0, allowed.stderr
    assert allowed.last["event"] == "mounts"
    assert allowed.last["mounts"][0]["target"] == "/models"


def test_a_job_reaches_what_is_allowed_and_nothing_beside(cache_dir: Path) -> None:
    with hub_in_thread(cdn_host="127.0.0.2") as hub:
        hub.add_repo(REPO, files=mixed_files())
        with pytest.raises(ForbiddenError, match=r"127\.0\.0\.2"):
            fetch(hub, cache_dir, allow_net="127.0.0.1/32")
        assert hub.count("cdn") == 0
        nothing_visible(cache_dir)
        assert_whole(fetch(hub, cache_dir, allow_net="127.0.0.1/32,127.0.0.2/32").snapshot, hub)


def test_an_operator_reaches_the_origin_he_named_and_its_redirects_are_judged(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo("acme/inline", files={"a.txt": "served by the hub itself"})
    hub.add_repo(REPO, files=mixed_files())
    assert_whole(fetch(hub, cache_dir, "hf://acme/inline", asker="operator", allow_net="").snapshot, hub, "acme/inline")
    with pytest.raises(ForbiddenError):
        fetch(hub, cache_dir, asker="operator", allow_net="")
    assert hub.count("cdn") == 0


@pytest.mark.parametrize("place", ["resolve", "info"])
@pytest.mark.parametrize("url", INSIDE)
def test_redirects_into_the_hosts_own_network(hub: Hub, cache_dir: Path, url: str, place: str) -> None:
    hub.add_repo(REPO, files=mixed_files())
    hub.faults.add(RedirectTo(url).on(place))
    for asker in ("job", "operator"):
        with pytest.raises(ForbiddenError) as caught:
            fetch(hub, cache_dir, asker=asker, allow_net="127.0.0.1/32")
        assert caught.value.exit_code == 25
    assert hub.faults.fired
    nothing_visible(cache_dir)


@pytest.mark.parametrize("asker", ["Operator", "root", "", None, 5, "job "])
def test_an_unknown_asker_is_nobody(hub: Hub, cache_dir: Path, asker: object) -> None:
    """A slip of the pen must not ask with the host's credentials."""
    hub.add_repo(REPO, files=mixed_files())
    with pytest.raises(UsageError, match="asker"):
        fetch(hub, cache_dir, asker=asker, allow_net="", environ={"HF_TOKEN": "hf_canary"})
    assert len(hub.requests) == 0
