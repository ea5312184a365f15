"""The house's floors: imports go down only, rooms on one floor never import each other, and start-up stays light.

The table below is the law; docs/ARCHITECTURE.md explains it. Every import statement counts: at the top of a module,
inside a function, under TYPE_CHECKING, and ``import_module("…")`` with a literal.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "fetcher"

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"_native"}),
    frozenset({"errors"}),
    frozenset({"model"}),
    frozenset({"config"}),
    frozenset({"plan"}),
    frozenset({"net", "hashing", "credentials"}),
    frozenset({"origins", "cache", "images"}),
    frozenset({"engine"}),
    frozenset({"client"}),
    frozenset({"__init__"}),
    frozenset({"cli", "daemon"}),
    frozenset({"__main__"}),
)
"""From below; a room may import what stands lower, and itself. Floor 0 of the design is the three after ``_native``."""

TESTING_MAY_USE = frozenset({"_native", "errors", "model", "config", "plan", "net", "hashing", "credentials"})

# What a room must not know, by third-party or standard module: the sentence of its floor, made checkable.
FORBIDDEN: dict[str, frozenset[str]] = {
    "model": frozenset({"aiohttp", "asyncio", "socket", "sqlite3", "threading", "time"}),
    "plan": frozenset(
        {"aiofiles", "aiohttp", "asyncio", "os", "random", "shutil", "socket", "sqlite3", "threading", "time"}
    ),
    "origins": frozenset({"aiofiles", "mmap", "os", "shutil", "sqlite3", "tempfile", "threading"}),
    "cache": frozenset({"aiohttp", "http.client", "ssl", "urllib.request", "yarl"}),
    "cli": frozenset({"sqlite3"}),
}

HEAVY = ("asyncio", "aiohttp", "msgspec", "rich", "uvloop", "ssl")
"""What neither ``import fetcher`` nor ``fetcher --help`` may load: each costs 35 to 260 ms."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement: where it stands and what it names."""

    place: str
    """``fetcher/plan/x.py:12``"""
    room: str
    """Room of the importing module."""
    target: str
    """Full dotted name, with the imported name at its end where that is a module."""


def room_of(module: str) -> str:
    """``fetcher.net.guard`` → ``net``; the package itself is ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Every import of the module at ``path``; ``root`` is the folder that holds the package."""
    relative = path.relative_to(root)
    module = ".".join(relative.with_suffix("").parts)
    package = module.rpartition(".")[0]
    room = room_of(module)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        place = f"{relative}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(place, room, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield Import(place, room, _named(base, alias.name, root))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield Import(place, room, node.args[0].value)


def _named(base: str, name: str, root: Path) -> str:
    """``from fetcher import errors`` names ``fetcher.errors``; ``from fetcher import get`` names the face."""
    folder = root.joinpath(*base.split("."))
    is_module = (folder / name).is_dir() or any((folder / f"{name}{end}").exists() for end in (".py", ".pyx", ".pyi"))
    return f"{base}.{name}" if is_module else base


def violations(root: Path) -> list[str]:
    """Each import under ``root``/fetcher that breaks the law, as ``file:line: sentence``."""
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    found: dict[str, None] = {}
    for path in sorted((root / "fetcher").rglob("*.py")):
        for each in imports_of(path, root):
            top = each.target.partition(".")[0]
            if top != "fetcher":
                for name in FORBIDDEN.get(each.room, ()):
                    if f"{each.target}.".startswith(f"{name}."):
                        found[f"{each.place}: {each.room} must not know {name}"] = None
                continue
            target = room_of(each.target)
            if target == each.room:
                continue
            if "testing" in (each.room, target):
                if each.room != "testing":
                    found[f"{each.place}: the product must not import fetcher.testing"] = None
                elif target not in TESTING_MAY_USE:
                    found[f"{each.place}: testing must not import fetcher.{target}"] = None
            elif each.room not in floor or target not in floor:
                found[f"{each.place}: fetcher.{each.room} or fetcher.{target} stands on no floor of the table"] = None
            elif floor[target] >= floor[each.room]:
                word = "beside" if floor[target] == floor[each.room] else "above"
                found[f"{each.place}: {each.room} imports {target}, which stands {word} it"] = None
    return list(found)


def test_imports_go_down_only() -> None:
    assert not violations(CHECKOUT), "\n" + "\n".join(violations(CHECKOUT))


@pytest.mark.parametrize(
    ("module", "line", "sentence"),
    [
        ("plan/a.py", "from fetcher.engine import flights", "plan imports engine, which stands above it"),
        ("plan/a.py", "def f():\n    import fetcher.cache.index", "plan imports cache, which stands above it"),
        ("plan/a.py", "from ..client import Fetcher", "plan imports client, which stands above it"),
        ("plan/a.py", "from fetcher import Fetcher", "plan imports __init__, which stands above it"),
        ("plan/a.py", "import time", "plan must not know time"),
        ("origins/a.py", "from fetcher.cache.store import Store", "origins imports cache, which stands beside it"),
        ("net/a.py", "import importlib as i\ni.import_module('fetcher.cli')", "net imports cli, which stands above it"),
        ("net/a.py", "if TYPE_CHECKING:\n    from .. import engine", "net imports engine, which stands above it"),
        ("engine/a.py", "from fetcher.testing import hub", "the product must not import fetcher.testing"),
        ("testing/a.py", "from fetcher.cache import store", "testing must not import fetcher.cache"),
        ("shed/a.py", "from fetcher import errors", "fetcher.shed or fetcher.errors stands on no floor of the table"),
    ],
)  # fmt: skip
def test_a_planted_violation_is_found(tmp_path: Path, module: str, line: str, sentence: str) -> None:
    for room in ("engine", "cache", "cli", "client", "testing", "errors"):
        (tmp_path / "fetcher" / room).mkdir(parents=True)
    path = tmp_path / "fetcher" / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'"""Planted."""\n{line}\n')
    (found,) = violations(tmp_path)
    assert found.startswith(f"fetcher/{module}:")
    assert found.endswith(sentence)


def test_what_the_law_allows_is_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "fetcher" / "engine" / "a.py"
    path.parent.mkdir(parents=True)
    (tmp_path / "fetcher" / "errors.py").write_text("")
    path.write_text(
        "import asyncio\nfrom fetcher import errors\nfrom fetcher.cache.store import Store\nfrom . import b\n"
    )
    assert violations(tmp_path) == []


def test_every_module_opens_with_its_role() -> None:
    silent = [
        str(path.relative_to(CHECKOUT))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def _loaded_by(program: str) -> set[str]:
    """Names of ``sys.modules`` after ``program``, in an interpreter of its own."""
    script = f"{program}\nimport sys\nsys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines())


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("import fetcher", id="import"),
        pytest.param(
            "import sys; from fetcher.cli.app import main\nsys.argv = ['fetcher', '--help']\n"
            "try: main()\nexcept SystemExit as end: assert not end.code, end.code",
            id="help",
        ),
    ],
)
def test_start_up_loads_nothing_heavy(program: str) -> None:
    assert not _loaded_by(program).intersection(HEAVY)


def test_the_start_up_test_would_notice() -> None:
    assert "asyncio" in _loaded_by("import asyncio")
