"""Who may have what: scopes of Snapshots, Blobs and contents; a claimed digest is not possession."""

from __future__ import annotations

import hashlib
import os

import pytest

from fetcher.cache.records import SmallFile
from fetcher.cache.store import Cache
from fetcher.errors import CacheError
from fetcher.model.digest import Digest
from tests.cache.asking import blob_of, blob_of_content, blob_with
from tests.cache.world import MIB, head_of, key_of, paint, publish, put, sha256

ALICE, BOB = "a" * 32, "b" * 32


def test_a_private_snapshot_is_its_principals(cache: Cache) -> None:
    mine = publish(cache, "m", {"f": b"secret"}, private=True, principal=ALICE)
    assert cache.lookup(key_of("m"), ALICE) == mine
    assert cache.lookup(key_of("m"), BOB) is None
    assert cache.lookup(key_of("m"), None) is None


def test_two_principals_have_two_snapshots_and_one_body(cache: Cache) -> None:
    one = publish(cache, "m", {"f": b"secret"}, private=True, principal=ALICE)
    two = publish(cache, "m", {"f": b"secret"}, private=True, principal=BOB)
    assert one.id != two.id
    assert os.path.samefile(one.path / "f", two.path / "f")
    assert cache.lookup(key_of("m"), BOB) == two


def test_a_public_snapshot_is_everybodys(cache: Cache) -> None:
    snapshot = publish(cache, "m", {"f": b"open"}, private=False, principal=ALICE)
    for principal in (None, ALICE, BOB):
        assert cache.lookup(key_of("m"), principal) == snapshot


def test_private_bytes_of_nobody_are_nobodys(cache: Cache) -> None:
    publish(cache, "m", {"f": b"secret"}, private=True, principal=None)
    for principal in (None, ALICE, ""):
        assert cache.lookup(key_of("m"), principal) is None
        assert blob_with(cache, sha256(b"secret"), 6, principal=principal) is None


@pytest.mark.parametrize("data", [b"small", paint(2 * MIB)], ids=["small", "large"])
def test_a_private_blob_is_found_by_who_fetched_it(cache: Cache, data: bytes) -> None:
    blob = put(cache, data, private=True, principal=ALICE)
    digest = sha256(data)
    assert blob_with(cache, digest, len(data), principal=ALICE) == blob
    assert blob_with(cache, digest, len(data), principal=BOB) is None
    assert blob_with(cache, digest, len(data), principal=None) is None
    put(cache, data)  # now it was fetched in public, too
    for principal in (None, ALICE, BOB):
        assert blob_with(cache, digest, len(data), principal=principal) == blob


def test_only_a_sha256_that_we_computed_finds_a_blob(cache: Cache) -> None:
    data = b"content"
    git = Digest("git-sha1", hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
    md5 = Digest("md5", hashlib.md5(data).hexdigest())
    cache.commit_small([SmallFile("0" * 64, data, (git, md5), "git-sha1")], private=False, principal=None)
    for digest in (git, md5, sha256(data)):  # nobody computed the sha256
        assert blob_with(cache, digest, len(data), principal=None) is None
    put(cache, data)
    assert blob_with(cache, sha256(data), len(data), principal=None) is not None
    assert blob_with(cache, sha256(data), len(data) + 1, principal=None) is None


def test_a_content_is_found_by_its_own_id(cache: Cache) -> None:
    data = b"content"
    blob = put(cache, data, private=True, principal=ALICE)
    hers = head_of(data, private=True, principal=ALICE).content_id
    his = head_of(data, private=True, principal=BOB).content_id
    assert blob_of_content(cache, hers, None, len(data), principal=ALICE) == blob
    assert blob_of_content(cache, his, sha256(data), len(data), principal=BOB) is None
    assert blob_of_content(cache, hers, None, len(data) + 1, principal=ALICE) is None


def test_a_blob_that_is_gone_or_cut_is_not_found(cache: Cache) -> None:
    data = paint(2 * MIB)
    blob = put(cache, data)
    assert blob is not None
    os.truncate(blob.path, 5)
    assert blob_with(cache, sha256(data), len(data), principal=None) is None
    blob.path.unlink()
    assert blob_of(cache, blob.root) is None
    assert put(cache, data) == blob
    assert blob_of(cache, blob.root) == blob


def test_the_principal_key(cache: Cache) -> None:
    key = cache.principal_key
    assert len(key) == 32
    assert cache.layout.principal_key.stat().st_mode & 0o777 == 0o600
    with Cache.open(cache.settings) as other:
        assert other.principal_key == key
    cache.layout.principal_key.chmod(0o644)
    with Cache.open(cache.settings) as other, pytest.raises(CacheError, match="32 secret bytes"):
        _ = other.principal_key


def test_no_secret_is_on_disk(cache: Cache) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, private=True, principal=ALICE)
    sidecar = cache.layout.sidecar(snapshot.id)
    assert sidecar.stat().st_mode & 0o777 == 0o600
    assert ALICE in sidecar.read_text(), "the keyed hash is what is kept"
