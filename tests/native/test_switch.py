"""Which core is in use, and that it is said."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from fetcher import _native
from fetcher._native import _check, pure


def python(script: str, **environment: str) -> str:
    """What the script prints, run in an interpreter of its own."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.needs("native")
def test_the_compiled_core_was_really_loaded() -> None:
    assert _native.ACTIVE == "native"
    assert _native.describe().startswith("native (")
    assert type(_native.hash_blocks).__name__ == "cython_function_or_method"
    assert _native.SubtreeHasher.__module__ == "fetcher._native.blake3"


PLAIN = """
    import os, sys, tempfile
    from fetcher import hashing
    import blake3
    assert not hashing.HAS_TREE
    assert "fetcher._native.blake3" not in sys.modules
    content = bytes(range(250)) * 5000
    assert hashing.root_of(content) == blake3.blake3(content).digest()
    assert hashing.root_of(b"x", key=bytes(32)) == blake3.blake3(b"x", key=bytes(32)).digest()
    digest = hashing.InOrderDigest.new("blake3", len(content))
    for at in range(0, len(content), 70_001):
        digest.update(content[at : at + 70_001])
    assert digest.hexdigest() == blake3.blake3(content).hexdigest()
    with tempfile.TemporaryFile() as file:
        assert hashing.write_blocks(file.fileno(), 1 << 20, content) == b""
        assert os.pread(file.fileno(), len(content) + 1, 1 << 20) == content
        try:
            hashing.write_blocks(file.fileno(), 5, b"x")
        except ValueError:
            pass
        else:
            raise SystemExit("offset taken")
    try:
        hashing.write_blocks(-1, 0, b"x")
    except OSError as error:
        assert error.errno == 9
    else:
        raise SystemExit("closed descriptor taken")
    assert hashing.tree_root(3, b"", small_root=hashing.root_of(b"abc")) == blake3.blake3(b"abc").digest()
    for call in (
        lambda: hashing.hash_blocks(b"x", 0),
        lambda: hashing.merge_root(bytes(64), 2 << 20),
        lambda: hashing.tree_root(2 << 20, bytes(64)),
        lambda: hashing.scan_file(0, 0, 1, bytes(32)),
        lambda: hashing.SubtreeHasher(0),
    ):
        try:
            call()
        except RuntimeError as error:
            assert "HAS_TREE" in str(error), error
        else:
            raise SystemExit("a tree in plain mode")
    print(hashing.describe())
"""


def test_plain_mode_by_choice() -> None:
    assert python(PLAIN, FETCHER_NATIVE="plain") == "plain, no block trees: FETCHER_NATIVE=plain"


def test_plain_mode_without_a_compiled_core() -> None:
    hidden = """
    import sys

    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name == "fetcher._native.blake3":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Hidden())
    """
    script = textwrap.dedent(hidden) + textwrap.dedent(PLAIN)
    assert python(script, FETCHER_NATIVE="") == "plain, no block trees: the compiled core was not built"


@pytest.mark.needs("native")
def test_plain_mode_when_the_core_is_wrong() -> None:
    script = """
        import sys, types
        import fetcher._native.pure as pure
        core = types.ModuleType("fetcher._native.blake3")
        core.__dict__.update(vars(pure), root_of=lambda data, key=None: bytes(32))
        for name in [name for name in sys.modules if name == "fetcher._native"]:
            del sys.modules[name]
        sys.modules["fetcher._native.blake3"] = core
        import fetcher._native
        assert fetcher._native.ACTIVE == "plain"
        print(fetcher._native.describe())
    """
    assert python(script) == "plain, no block trees: the compiled core hashes 0 bytes wrongly"


def test_self_check_finds_one_wrong_length() -> None:
    assert _check.wrong_answer(_native if _native.ACTIVE == "native" else pure) is None
    for length in _check._LENGTHS:
        wrong = SimpleNamespace(
            root_of=lambda data, length=length: bytes(32) if len(data) == length else _native.root_of(data)
        )
        assert _check.wrong_answer(wrong) == f"the compiled core hashes {length} bytes wrongly"


@pytest.mark.needs("native")
def test_kernel_by_environment() -> None:
    script = "from fetcher import _native; print(_native.describe())"
    assert python(script, FETCHER_SIMD="portable") == "native (portable)"
    ignored = python(script, FETCHER_SIMD="mmx")
    assert ignored.startswith("native (")
    assert "FETCHER_SIMD is ignored, no kernel 'mmx'" in ignored


def test_the_switch_imports_nothing_of_the_floors() -> None:
    script = """
        import sys
        import fetcher
        before = set(sys.modules)
        import fetcher._native
        new = {name for name in set(sys.modules) - before if not name.startswith("fetcher._native")}
        print(sorted(name for name in new if name.partition(".")[0] in ("fetcher", "asyncio", "aiohttp", "rich")))
    """
    assert python(script) == "[]"


@pytest.mark.needs("native")
def test_twins_have_the_same_names_and_docs() -> None:
    import ast
    from pathlib import Path

    from fetcher._native import blake3 as compiled
    from fetcher._native import plain

    stub = ast.parse(Path(pure.__file__).with_name("blake3.pyi").read_text())
    names = {node.name for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    hasher = next(node for node in stub.body if isinstance(node, ast.ClassDef))
    methods = {node.name for node in hasher.body if isinstance(node, ast.FunctionDef)}
    assert len(names) == 9 and len(methods) == 6
    for twin in (compiled, pure):
        assert {name for name in names if not hasattr(twin, name)} == set()
    for twin in (compiled, pure, plain):
        assert {name for name in methods if not hasattr(twin.SubtreeHasher, name)} == set()
