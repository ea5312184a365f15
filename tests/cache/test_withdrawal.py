"""What an origin has closed: no index made anew opens it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fetcher.cache.store import Cache
from fetcher.cache.tree_file import TreeFile
from tests.cache.asking import blob_of, blob_of_content
from tests.cache.world import MIB, head_of, key_of, paint, publish, put_large, sha256

ALICE = "a" * 32
BIG = paint(2 * MIB + 17)
Open = Callable[..., Cache]


def is_given(cache: Cache, data: bytes, *, principal: str | None) -> bool:
    """Whether an asker is given these bytes, because he can name them by their digest or as a public content."""
    content = head_of(data).content_id
    return blob_of_content(cache, content, sha256(data), len(data), principal=principal) is not None


def lose_index(cache: Cache) -> None:
    cache.close()
    for path in cache.layout.state_dir.glob("index-v1.sqlite*"):
        path.unlink()


@pytest.mark.parametrize("left", ["of a snapshot", "of a download"])
def test_an_index_made_anew_opens_nothing_that_was_closed(cache: Cache, open_cache: Open, left: str) -> None:
    """Its Snapshot is gone, or there never was one: what says whose the bytes are is their tree."""
    if left == "of a snapshot":
        public = publish(cache, "m", {"big": BIG})
        cache.withdraw(key_of("m"), ALICE)
        cache.layout.sidecar(public.id).unlink()
    else:
        put_large(cache, BIG)
        cache.withdraw(key_of("m"), ALICE)
        cache.close_digests([sha256(BIG).hex], ALICE)
    (tree,) = cache.layout.blobs.glob("??/*.tree")
    said = TreeFile.decode(tree.read_bytes())
    assert (said.scope, said.content_id) == (None, None)
    assert said.digests == (sha256(BIG),) and tree.stat().st_mode & 0o777 == 0o444
    lose_index(cache)
    again = open_cache()
    assert again.recovery.blobs == 0
    assert not is_given(again, BIG, principal=None) and blob_of(again, said.root) is None


@pytest.mark.needs("native")
@pytest.mark.parametrize("how", ["withdraw", "close_digests"])
def test_a_tree_says_everybody_as_long_as_something_public_shows_it(cache: Cache, open_cache: Open, how: str) -> None:
    twin = publish(cache, "twin", {"big": BIG})
    if how == "withdraw":
        public = publish(cache, "m", {"big": BIG})
        cache.withdraw(key_of("m"), ALICE)
        cache.layout.sidecar(public.id).unlink()
    else:
        cache.close_digests([sha256(BIG).hex], ALICE)
    cache.layout.sidecar(twin.id).unlink()
    lose_index(cache)
    assert is_given(open_cache(), BIG, principal=None)
