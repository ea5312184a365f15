"""setup.py: with a broken compiler, and the checks that a release build relies on. Builds in a copy of its own."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.native.cores import NATIVE_MODULES

ROOT = Path(__file__).parents[2]


def copy(directory: Path) -> None:
    package = directory / "fetcher" / "_native"
    package.mkdir(parents=True)
    (directory / "fetcher" / "__init__.py").touch()
    shutil.copy(ROOT / "setup.py", directory)
    shutil.copytree(ROOT / "fetcher" / "_native" / "core", package / "core")
    for source in (ROOT / "fetcher" / "_native").glob("*.p*"):
        shutil.copy(source, package)


def build(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    if not (directory / "setup.py").exists():
        copy(directory)
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
    return list(directory.rglob("*.so"))


def test_without_a_compiler_the_build_goes_on(tmp_path: Path) -> None:
    run = build(tmp_path, CC="/bin/false")
    assert run.returncode == 0, run.stderr
    for module in NATIVE_MODULES:
        assert f"fetcher._native.{module}" in run.stderr  # it is not silent about what is missing
    assert extensions(tmp_path) == []


def test_a_release_build_does_not_go_on(tmp_path: Path) -> None:
    run = build(tmp_path, CC="/bin/false", FETCHER_BUILD_REQUIRE_NATIVE="1")
    assert run.returncode != 0
    assert extensions(tmp_path) == []


def test_nothing_of_an_earlier_build_stands_in_for_one_that_fails(tmp_path: Path) -> None:
    copy(tmp_path)
    platform = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    for directory in (tmp_path / "fetcher/_native", tmp_path / f"build/lib.{platform}/fetcher/_native"):
        directory.mkdir(parents=True, exist_ok=True)
        for suffix in (sysconfig.get_config_var("EXT_SUFFIX"), ".abi3.so"):
            (directory / f"blake3{suffix}").touch()
    assert len(extensions(tmp_path)) == 4
    run = build(tmp_path, CC="/bin/false")
    assert run.returncode == 0, run.stderr
    assert extensions(tmp_path) == []


@pytest.mark.needs("native")
def test_the_copy_builds(tmp_path: Path) -> None:
    # Without this, those above could pass for a reason that has nothing to do with the compiler.
    run = build(tmp_path, FETCHER_BUILD_REQUIRE_NATIVE="1")
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in (tmp_path / "fetcher").rglob("*.so")) == [
        f"{module}.abi3.so" for module in NATIVE_MODULES
    ]


@pytest.mark.needs("native")
def test_a_build_for_this_interpreter_alone(tmp_path: Path) -> None:
    run = build(tmp_path, FETCHER_BUILD_REQUIRE_NATIVE="1", FETCHER_BUILD_ABI3="0", FETCHER_BUILD_WERROR="1")
    assert run.returncode == 0, run.stderr
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert sorted(path.name for path in (tmp_path / "fetcher").rglob("*.so")) == [
        f"{module}{suffix}" for module in NATIVE_MODULES
    ]


def setup_py() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "setup.py"), run_name="read, not run")


@pytest.mark.parametrize(
    ("asked", "without_gil", "stable"),
    [("", 0, True), ("1", 0, True), ("0", 0, False), ("", 1, False), ("1", 1, False)],
)
def test_the_stable_abi_where_there_is_one(
    asked: str, without_gil: int, stable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FETCHER_BUILD_ABI3", asked)
    monkeypatch.setitem(sysconfig.get_config_vars(), "Py_GIL_DISABLED", without_gil)
    assert setup_py()["stable_abi"]() is stable


def test_each_source_is_compiled_into_some_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that no pattern names would be missed at import only: a shared object may link with names undefined.
    monkeypatch.chdir(ROOT)
    core_sources = setup_py()["core_sources"]
    compiled = {source for module in NATIVE_MODULES for source in core_sources(module)}
    assert compiled == {str(path) for path in Path("fetcher/_native/core").glob("*.c")}
