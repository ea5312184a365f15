"""Which core is in use, and that it is said."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from fetcher import _native
from fetcher._native import _check, plain, pure, pure_sha256


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
    assert python(PLAIN, FETCHER_NATIVE="plain") == "plain (no block trees, SHA-256 by hashlib): FETCHER_NATIVE=plain"


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
    said = python(script, FETCHER_NATIVE="")
    assert said.startswith("plain (no block trees, SHA-256 by ") and said.endswith("): the compiled core was not built")


@pytest.mark.needs("native")
def test_plain_mode_when_the_core_is_wrong() -> None:
    script = """
        import sys, types
        import fetcher._native.pure as pure
        core = types.ModuleType("fetcher._native.blake3")
        core.__dict__.update(vars(pure), root_of=lambda data, key=None: bytes(32))
        del sys.modules["fetcher._native"], sys.modules["fetcher"]._native
        sys.modules["fetcher._native.blake3"] = core
        import fetcher._native
        assert fetcher._native.ACTIVE == "plain"
        print(fetcher._native.describe())
    """
    said = python(script)
    assert said.startswith("plain (no block trees, SHA-256 by ")
    assert said.endswith("): the compiled core hashes 0 bytes wrongly")


@pytest.mark.needs("native")
def test_hashlib_when_the_compiled_sha256_is_wrong_or_not_there() -> None:
    script = """
        import sys, types
        import fetcher._native
        import fetcher._native.sha256 as compiled
        core = types.ModuleType("fetcher._native.sha256")
        core.__dict__.update(vars(compiled), sha256_pair=lambda a, data_a, b, data_b: a.update(data_a))
        for wrong in (core, None):
            del sys.modules["fetcher._native"], sys.modules["fetcher"]._native
            sys.modules["fetcher._native.sha256"] = wrong
            import fetcher._native
            assert fetcher._native.ACTIVE == "native"
            assert fetcher._native.SHA256_ACTIVE == "hashlib"
            assert fetcher._native.Sha256.__module__ == "fetcher._native.plain"
            print(fetcher._native.describe())
    """
    wrong, absent = python(script, FETCHER_SHA256="portable").splitlines()
    assert wrong.endswith(", SHA-256 by hashlib): the compiled SHA-256 hashes 0 bytes wrongly")
    assert ", SHA-256 by hashlib): import of fetcher._native.sha256 halted" in absent


def test_self_check_of_sha256_finds_one_wrong_length() -> None:
    assert _check.wrong_sha256(pure_sha256) is _check.wrong_sha256(plain) is None
    for length in _check._SHA256_LENGTHS:

        class Wrong(plain.Sha256):
            def digest(self, length: int = length) -> bytes:
                return bytes(32) if self.tell() == length else super().digest()

        wrong = SimpleNamespace(Sha256=Wrong, sha256_pair=plain.sha256_pair)
        assert _check.wrong_sha256(wrong) == f"the compiled SHA-256 hashes {length} bytes wrongly"


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
    assert python(script, FETCHER_SIMD="portable", FETCHER_SHA256="hashlib") == "native (portable, SHA-256 by hashlib)"
    assert (
        python(script, FETCHER_SIMD="portable", FETCHER_SHA256="portable") == "native (portable, SHA-256 by portable)"
    )
    ignored = python(script, FETCHER_SIMD="mmx", FETCHER_SHA256="portable")
    assert ignored.startswith("native (")
    assert "FETCHER_SIMD is ignored, no kernel 'mmx'" in ignored


@pytest.mark.needs("native")
def test_sha256_by_environment() -> None:
    script = """
        from fetcher import _native, hashing
        from fetcher._native import sha256
        best = sha256.simd_names()[0]
        assert _native.SHA256_ACTIVE == ("hashlib" if best == "portable" else best)
        assert hashing.SHA256_PAIRS == hashing.Sha256.can_export == (best != "portable")
    """
    python(script, FETCHER_SHA256="")
    said = python("from fetcher import _native; print(_native.describe())", FETCHER_SHA256="mmx")
    assert "FETCHER_SHA256 is ignored, no kernel 'mmx'" in said


@pytest.mark.needs("native")
@pytest.mark.parametrize(
    ("asked", "active", "pairs", "remark"),
    [
        ("", "hashlib", False, False),
        ("sha-ni", "hashlib", False, True),
        ("hashlib", "hashlib", False, False),
        ("portable", "portable", False, False),
    ],
)
def test_sha256_on_a_cpu_without_instructions_for_it(asked: str, active: str, pairs: bool, remark: bool) -> None:
    script = """
        import sys, types
        import fetcher._native
        from fetcher._native import sha256 as compiled
        core = types.ModuleType("fetcher._native.sha256")
        core.__dict__.update(vars(compiled))
        compiled.set_simd("portable")

        def set_simd(name):
            if name != "portable":
                raise ValueError(f"no kernel {name!r} on this machine, there are: portable")

        core.set_simd = set_simd
        del sys.modules["fetcher._native"], sys.modules["fetcher"]._native
        sys.modules["fetcher._native.sha256"] = core
        from fetcher import hashing
        print(fetcher._native.SHA256_ACTIVE, hashing.SHA256_PAIRS, "is ignored" in hashing.describe())
    """
    assert python(script, FETCHER_SHA256=asked) == f"{active} {pairs} {remark}"


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
@pytest.mark.parametrize(("stub", "names", "methods"), [("blake3", 10, 6), ("sha256", 6, 8)])
def test_twins_have_the_names_of_the_stub(stub: str, names: int, methods: int) -> None:
    tree = ast.parse(Path(pure.__file__).with_name(f"{stub}.pyi").read_text())
    promised = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    (hasher,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    promised_methods = {node.name for node in hasher.body if isinstance(node, ast.FunctionDef)}
    assert (len(promised), len(promised_methods)) == (names, methods)
    compiled = import_module(f"fetcher._native.{stub}")
    for twin in (compiled, {"blake3": pure, "sha256": pure_sha256}[stub]):
        assert {name for name in promised if not hasattr(twin, name)} == set()
    for twin in (compiled, pure if stub == "blake3" else pure_sha256, plain):
        assert {name for name in promised_methods if not hasattr(getattr(twin, hasher.name), name)} == set()
