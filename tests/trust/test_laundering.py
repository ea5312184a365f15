"""What is public may be made of public bytes only: who brings a credential must not, by asking for a stranger's public
resource, carry his own private bytes into it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher import FetcherError
from fetcher.testing import Hub, hub_in_thread
from fetcher.testing.faultplan import Exchange
from fetcher.testing.hub.hostility import HostileTree
from fetcher.testing.messages import Reply
from tests.e2e.support import bytes_below, fetch, fetcher_of
from tests.trust.side_by_side import ALICE, SECRET

CLAIMS = "mallory/claims"
CLAIM = {
    "type": "file",
    "oid": "0" * 40,
    "size": SECRET.size,
    "path": "claimed.bin",
    "lfs": {"oid": SECRET.sha256, "size": SECRET.size, "pointerSize": 134},
}
"""As an origin (or a mirror) lists a file that it does not have."""


class Claiming(HostileTree):
    """In the listing of ``CLAIMS`` alone."""

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return CLAIMS in exchange.request.path and super().fits(exchange, reply)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_in_thread(tokens={ALICE: "alice"}) as running:
        running.add_repo("acme/private", files={"model.safetensors": SECRET}, private=True)
        running.add_repo(CLAIMS, files={"readme": "public"})
        yield running


@pytest.mark.parametrize("role", ["job", "operator"])
def test_ones_own_private_bytes_do_not_become_public(hub: Hub, cache_dir: Path, role: str) -> None:
    """Alice asks for a public repository, with her token, as every client does. Its listing names her private file."""
    token: dict[str, Any] = {"accessToken": ALICE}
    private = fetch(hub, cache_dir, {"type": "HF", "repo": "acme/private", **token}, asker=role)
    assert SECRET.read() in bytes_below(private.snapshot.path)
    hub.faults.add(Claiming((CLAIM,)).on())
    for item in ({"type": "HF", "repo": CLAIMS, **token}, {"type": "HF", "repo": CLAIMS}):
        with pytest.raises(FetcherError) as caught:
            fetch(hub, cache_dir, item, asker=role)
        assert caught.value.exit_code in (21, 30), "it has no such bytes"
    assert CLAIM["lfs"]["oid"] == SECRET.sha256 and hub.faults.fired
    hub.faults.clear()
    again = fetch(hub, cache_dir, {"type": "HF", "repo": "acme/private", **token}, asker=role)
    assert again.hit


def test_nor_while_they_come(hub: Hub, cache_dir: Path) -> None:
    """Both are asked for in one call, by one asker: they are two contents, and only one of them is there."""
    hub.faults.add(Claiming((CLAIM,)).on())

    async def main() -> list[Any]:
        async with fetcher_of(hub, cache_dir) as fetcher:
            items = [{"type": "HF", "repo": repo, "accessToken": ALICE} for repo in ("acme/private", CLAIMS)]
            return await fetcher.fetch_each([(item, "job") for item in items])

    private, claims = asyncio.run(main())
    assert private.snapshot.private and SECRET.read() in bytes_below(private.snapshot.path)
    assert isinstance(claims, FetcherError)
