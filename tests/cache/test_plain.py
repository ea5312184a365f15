"""Without the compiled core: same names on disk, roots said by the caller, nothing resumed, files hashed whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cache.world import ROOT_OF_CHECKOUT

_SCRIPT = """
import sys
from pathlib import Path
import blake3
from fetcher import hashing
from fetcher.cache.store import Cache
from fetcher.cache.tree_file import TreeFile
from fetcher.errors import InternalError
from tests.cache.world import *

assert not hashing.HAS_TREE
data = paint(2 * MIB + 5)
root = blake3.blake3(data).hexdigest()
place = Path(sys.argv[1])

def fill(cache):
    partial = cache.partial_open(head_of(data))
    assert partial.proven == {}
    for block in range(3):
        assert partial.write_block(block, block_of(data, block)) == b""
    partial.sync()
    return partial

with Cache.open(settings(place)) as cache:
    fill(cache).close()
with Cache.open(settings(place)) as cache:
    options = {"digests": [sha256(data)], "verified_by": "sha256", "private": False, "principal": None}
    partial = fill(cache)
    try:
        cache.commit(partial, **options)
        raise SystemExit("a root out of nothing")
    except InternalError:
        pass
    blob = cache.commit(fill(cache), root=root, **options)
    assert blob.root == root and blob.path.read_bytes() == data
    tree = TreeFile.decode(cache.layout.tree(root).read_bytes())
    assert (tree.block_bytes, tree.chaining_values, tree.size) == (0, b"", len(data))
    inode = blob.path.stat().st_ino
    assert put_large(cache, data, private=True, principal="p" * 32).path.stat().st_ino == inode
    blob.path.chmod(0o600)
    with blob.path.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(bytes(5))
    assert put_large(cache, data, private=True, principal="q" * 32).path.read_bytes() == data
    assert put_large(cache, b"one block").root == blake3.blake3(b"one block").hexdigest()
    small = put_small(cache, b"small")
    snapshot = cache.publish(new_snapshot("m", {}, 0.0), [
        (entry("large", data), root, "sha256"), (entry("small", b"small"), small.root, "sha256")])
    assert tree_on_disk(snapshot.path) == {"large": data, "small": b"small"}
    assert_sound(cache)
"""


def test_plain_mode(place: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(place)],
        cwd=ROOT_OF_CHECKOUT,
        env={**os.environ, "FETCHER_NATIVE": "plain"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
