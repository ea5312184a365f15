"""setup.py: with a broken compiler, and the checks that a release build relies on. Builds in a copy of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    package = directory / "fetcher" / "_native"
    package.mkdir(parents=True)
    (directory / "fetcher" / "__init__.py").touch()
    shutil.copy(ROOT / "setup.py", directory)
    shutil.copytree(ROOT / "fetcher" / "_native" / "core", package / "core")
    for source in (ROOT / "fetcher" / "_native").glob("*.p*"):
        shutil.copy(source, package)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FETCHER_BUILD_")}
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=directory,
        env=clean | {"CFLAGS": "-O0"} | environment,
        capture_output=True,
        text=True,
        timeout=55,
    )


def extensions(directory: Path) -> list[Path]:
    return list((directory / "fetcher").rglob("*.so"))


def test_without_a_compiler_the_build_goes_on(tmp_path: Path) -> None:
    run = build(tmp_path, CC="/bin/false")
    assert run.returncode == 0, run.stderr
    assert "fetcher._native.blake3" in run.stderr  # it is not silent about what is missing
    assert extensions(tmp_path) == []


def test_a_release_build_does_not_go_on(tmp_path: Path) -> None:
    run = build(tmp_path, CC="/bin/false", FETCHER_BUILD_REQUIRE_NATIVE="1")
    assert run.returncode != 0
    assert extensions(tmp_path) == []


@pytest.mark.needs("native")
def test_the_copy_builds(tmp_path: Path) -> None:
    # Without this, the two above could pass for a reason that has nothing to do with the compiler.
    run = build(tmp_path, FETCHER_BUILD_REQUIRE_NATIVE="1")
    assert run.returncode == 0, run.stderr
    assert [path.name.split(".")[0] for path in extensions(tmp_path)] == ["blake3"]
