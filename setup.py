"""The compiled part of the build and nothing else: all metadata is in pyproject.toml.

Each fetcher/_native/*.pyx becomes one extension. They keep to CPython's stable ABI, so one wheel (cp311-abi3) serves
every version from 3.11 on; free-threaded interpreters can't import such and get extensions of their own. Without a
working C compiler the build goes on, with a warning, and the package runs in plain mode. Environment
(docs/BUILDING.md):

- FETCHER_BUILD_REQUIRE_NATIVE=1  a failing compiler fails the build (release wheels: none ships without its core)
- FETCHER_BUILD_ABI3=0            for the interpreter that builds alone, instead of for every one from 3.11 on
- FETCHER_BUILD_WERROR=1          compiler warnings are errors
- FETCHER_BUILD_SANITIZE=1        address and undefined-behaviour sanitizers (see tests/native/sanitize.sh)

No -m flags: wide kernels carry their target in an attribute and are chosen at run time, so one build runs on every CPU.
"""

import os
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("fetcher/_native")

CORE_SOURCES = {
    "blake3": ("blake3_*.c", "block_*.c", "file_*.c"),
    "files": ("files_*.c",),
    "sink": ("blake3_*.c", "block_sink.c", "sink_*.c"),
    "sha256": ("sha256_*.c", "file_*.c"),
    "sockets": (),
}
"""Name of a .pyx → what of core/ is compiled into it. Each extension stands alone: what both use is compiled twice."""

ABI3 = ("cp311", "0x030B0000")
"""The oldest interpreter whose ABI is kept to (`requires-python`): as a wheel's tag, and as Python.h wants it."""

COMPILE = ["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", "-pthread"]
LINK = ["-pthread"]
"""The sink has threads. The C library of older systems has them in a library of its own."""
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g"]


def wanted(name: str, otherwise: str = "0") -> bool:
    return (os.environ.get(name) or otherwise) != "0"


def stable_abi() -> bool:
    return wanted("FETCHER_BUILD_ABI3", otherwise="1") and not sysconfig.get_config_var("Py_GIL_DISABLED")


def core_sources(name: str) -> list[str]:
    return sorted(str(path) for pattern in CORE_SOURCES[name] for path in (NATIVE / "core").glob(pattern))


class BuildExtensions(build_ext):
    """Begins without what an earlier build left.

    Python imports an extension of its own version before one of the stable ABI, however old it is; a wheel would hold
    both; and where the compiler fails now, what it made of older sources would stand in for the core.
    """

    def build_extension(self, extension: Extension) -> None:
        self.remove_built(extension, Path(self.get_ext_fullpath(extension.name)).parent)
        super().build_extension(extension)

    def copy_extensions_to_source(self) -> None:
        for extension in self.extensions:
            self.remove_built(extension, NATIVE)
        super().copy_extensions_to_source()

    def remove_built(self, extension: Extension, directory: Path) -> None:
        for built in directory.glob(f"{extension.name.rpartition('.')[2]}.*so"):
            built.unlink()


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    compile_arguments = list(COMPILE)
    link_arguments = list(LINK)
    macros: list[tuple[str, str | None]] = [("_FILE_OFFSET_BITS", "64")]
    if stable_abi():
        macros.append(("Py_LIMITED_API", ABI3[1]))
    if wanted("FETCHER_BUILD_WERROR"):
        compile_arguments.append("-Werror")
    if wanted("FETCHER_BUILD_SANITIZE"):
        compile_arguments += SANITIZE
        link_arguments += SANITIZE[:1]
    headers = sorted(str(path) for pattern in ("*.pxd", "core/*.h") for path in NATIVE.glob(pattern))
    built = cythonize(
        [
            Extension(
                f"fetcher._native.{source.stem}",
                sources=[str(source), *core_sources(source.stem)],
                depends=headers,
                include_dirs=[str(NATIVE)],
                define_macros=macros,
                extra_compile_args=compile_arguments,
                extra_link_args=link_arguments,
                py_limited_api=stable_abi(),
            )
            for source in sorted(NATIVE.glob("*.pyx"))
        ],
        language_level=3,
    )
    # Set here because cythonize() returns new objects, on which an `optional` given above is lost.
    for extension in built:
        extension.optional = not wanted("FETCHER_BUILD_REQUIRE_NATIVE")
    return list(built)


if __name__ == "__main__":  # as it is for every build front end
    setup(
        cmdclass={"build_ext": BuildExtensions},
        ext_modules=extensions(),
        options={"bdist_wheel": {"py_limited_api": ABI3[0]}} if stable_abi() else {},
    )
