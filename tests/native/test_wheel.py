"""What is shipped: the sdist, the wheel built from it as for a release, and what is installed without a compiler."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.native.cores import NATIVE_MODULES

ROOT = Path(__file__).parents[2]
SMOKE = Path(__file__).with_name("smoke.py")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")


def release_environment() -> dict[str, str]:
    """What cibuildwheel is told to build with: the same environment, so that it is tried here too."""
    environment = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["environment"]
    assert environment["FETCHER_BUILD_REQUIRE_NATIVE"] == "1"
    return dict(environment)


def run(*command: str | Path, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FETCHER_BUILD_")}
    return subprocess.run(
        command, cwd=directory, env=clean | environment, capture_output=True, text=True, timeout=55, check=False
    )


def succeed(*command: str | Path, directory: Path, **environment: str) -> str:
    done = run(*command, directory=directory, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(sdist: Path, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    directory.mkdir(exist_ok=True)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", directory)
    return run(*PIP, "wheel", *options, sdist, directory=directory, **environment)


# --- built once per run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of the run share; who holds it builds, who comes later finds what was built."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def sdist(workshop: Path) -> Path:
    """Made in a copy of the checkout, from what git would give to anyone."""
    with (workshop / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made := list(workshop.glob("*.tar.gz"))):
            copy = workshop / "checkout"
            ignored = shutil.ignore_patterns("__pycache__", "*.so", "core.*")
            for name in ("fetcher", "docs", "tests/native"):
                shutil.copytree(ROOT / name, copy / name, ignore=ignored)
            for path in (ROOT / name for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE")):
                shutil.copy(path, copy)
            for path in ROOT.glob("*.md"):
                shutil.copy(path, copy)
            script = "from setuptools import build_meta; build_meta.build_sdist('..')"
            succeed(sys.executable, "-c", script, directory=copy)
            made = list(workshop.glob("*.tar.gz"))
    (path,) = made
    return path


@pytest.fixture(scope="session")
def wheel(workshop: Path, sdist: Path) -> Path:
    """The release wheel of this machine, from the sdist alone."""
    directory = workshop / "dist"
    with (workshop / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            built = build_wheel(sdist, directory, **release_environment())
            assert built.returncode == 0, built.stdout + built.stderr
    (path,) = directory.glob("*.whl")
    return path


# --- what is in them -------------------------------------------------------------------------------------------------


def test_sdist_has_the_sources_and_nothing_generated(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    native = Path("fetcher/_native")
    sources = {
        str(path.relative_to(ROOT)) for pattern in ("*.py*", "core/*.[ch]") for path in (ROOT / native).glob(pattern)
    }
    assert {str(native / f"{module}.pyx") for module in NATIVE_MODULES} < sources
    assert sources | {"setup.py", "pyproject.toml", "docs/BUILDING.md", "tests/native/smoke.py"} <= names
    generated = {str(native / f"{module}.c") for module in NATIVE_MODULES}
    assert not [name for name in names if name in generated or name.endswith((".so", ".pyc"))]


@pytest.mark.needs("native")
def test_wheel_is_for_every_python_from_3_11_on(wheel: Path) -> None:
    assert re.fullmatch(r"fetcher-[\d.]+-cp311-abi3-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert "Root-Is-Purelib: false" in archive.read(name).decode()


@pytest.mark.needs("native")
def test_wheel_has_the_extensions_and_not_their_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    compiled = sorted(name for name in names if name.endswith(".so"))
    assert compiled == [f"fetcher/_native/{module}.abi3.so" for module in NATIVE_MODULES]
    expected = ["fetcher/py.typed", *(f"fetcher/_native/{module}.pyi" for module in NATIVE_MODULES)]
    expected += (str(path.relative_to(ROOT)) for path in (ROOT / "fetcher").rglob("*.py"))
    expected += (str(path.relative_to(ROOT)) for path in (ROOT / "fetcher/schemas").glob("*.json"))
    assert not set(expected) - set(names)
    assert not [name for name in names if name.endswith((".pyx", ".pxd", ".c", ".h")) or name.startswith("tests")]


@pytest.mark.needs("native")
def test_extensions_of_the_wheel_are_stripped(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                assert b".symtab" not in archive.read(name), name


@pytest.mark.needs("native", "python:abi3audit")
def test_wheel_keeps_to_the_stable_abi(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    audit = (sys.executable, "-m", "abi3audit", "--strict")
    succeed(*audit, wheel, directory=tmp_path)

    # The judge does object where there is something to object to.
    ordinary = tmp_path / "ordinary"
    assert build_wheel(sdist, ordinary, FETCHER_BUILD_ABI3="0").returncode == 0
    (bound,) = ordinary.glob("*.whl")
    assert "-abi3-" not in bound.name
    judged = run(*audit, bound.rename(ordinary / wheel.name), directory=tmp_path)
    assert judged.returncode != 0 and "ABI violations found" in " ".join(judged.stdout.split() + judged.stderr.split())


# --- where they run --------------------------------------------------------------------------------------------------


def pythons() -> list[Path]:
    """Interpreters from 3.11 on, by the names under which they are found; asking each would cost every test run."""
    names = [f"python3.{minor}" for minor in range(11, 30)]
    directories = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]
    found = [Path(directory, name) for directory in directories for name in names]
    # A version manager's shims are scripts that choose among its versions; those themselves lie beside the shims.
    managed = {Path(directory).parent for directory in directories if Path(directory).name == "shims"}
    for root in managed:
        if os.access(root, os.R_OK):
            found += (path for name in names for path in root.glob(f"versions/*/bin/{name}"))
    usable = [path for path in found if os.access(path, os.X_OK) and path.parent.name != "shims"]
    # Free-threaded ones (python3.13t) import no abi3; a link may hide that they are.
    return sorted({path.resolve() for path in usable if path.resolve().name in names})


def version_of(python: Path) -> str:
    return python.name.removeprefix("python")


@pytest.fixture(scope="session")
def installed(request: pytest.FixtureRequest, workshop: Path) -> Path:
    """The wheel and what smoke.py needs beside it, installed for the version of the interpreter at hand."""
    python: Path = request.param
    wheel: Path = request.getfixturevalue("wheel")
    directory = workshop / version_of(python)
    with (workshop / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            # pip of our own environment installs for another version; old pips don't run on new Pythons.
            options = ("--no-deps", "--only-binary", ":all:", "--python-version", version_of(python))
            options += ("--quiet", "--target", str(directory))
            succeed(*PIP, "install", *options, wheel, directory=workshop)
            judge = run(*PIP, "install", *options, "blake3", directory=workshop)
            if judge.returncode != 0:
                shutil.rmtree(directory)
                pytest.skip(f"pip finds no blake3 for Python {version_of(python)}")
    return directory


@pytest.mark.needs("native")
@pytest.mark.parametrize(
    ("python", "installed"),
    [pytest.param(path, path, id=str(path)) for path in pythons()],
    indirect=["installed"],
)
def test_wheel_works(python: Path, installed: Path, tmp_path: Path) -> None:
    # -s: no package of the user's own.
    said = succeed(python, "-s", SMOKE, directory=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert said[0].startswith(version_of(python))
    assert "portable" in said[1]
    loaded = {line.split(" (")[0] for line in said[1:]}
    assert {f"{installed}/fetcher/_native/{module}.abi3.so" for module in NATIVE_MODULES} <= loaded
    version = succeed(python, "-s", "-m", "fetcher", "--version", directory=tmp_path, PYTHONPATH=str(installed))
    assert f"(Python {said[0].split()[0]}, core: native (" in version


# --- from source, without a compiler ---------------------------------------------------------------------------------


def test_without_a_compiler_the_package_installs_and_says_so(sdist: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--target", target)
    succeed(*PIP, "install", *options, sdist, directory=tmp_path, CC="/bin/false")
    assert not list(target.rglob("*.so"))

    program = (sys.executable, "-m", "fetcher")
    version = succeed(*program, "--version", directory=tmp_path, PYTHONPATH=str(target))
    reason = "plain (no block trees, SHA-256 by hashlib): the compiled core was not built"
    assert version.startswith("fetcher ") and f"core: {reason})" in version
    doctor = succeed(*program, "doctor", directory=tmp_path, PYTHONPATH=str(target))
    (core,) = (line for line in doctor.splitlines() if "core:" in line)
    assert core.startswith("warn") and reason in core
    assert "hint: install gcc and the Python headers" in doctor


def test_without_a_compiler_there_is_no_release(sdist: Path, tmp_path: Path) -> None:
    built = build_wheel(sdist, tmp_path / "dist", CC="/bin/false", **release_environment())
    assert built.returncode != 0
    assert not list(tmp_path.rglob("*.whl"))
