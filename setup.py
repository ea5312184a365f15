"""The compiled part of the build and nothing else: all metadata is in pyproject.toml.

Without a working C compiler the build goes on, with a warning, and the package runs in plain mode. Environment:

- FETCHER_BUILD_REQUIRE_NATIVE=1  a failing compiler fails the build (release wheels: none ships without its core)
- FETCHER_BUILD_WERROR=1          compiler warnings are errors
- FETCHER_BUILD_SANITIZE=1        address and undefined-behaviour sanitizers (see tests/native/sanitize.sh)

No -m flags: wide kernels carry their target in an attribute and are chosen at run time, so one build runs on every CPU.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

CORE = Path("fetcher/_native/core")

COMPILE = ["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g"]


def wanted(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    compile_arguments = list(COMPILE)
    link_arguments: list[str] = []
    if wanted("FETCHER_BUILD_WERROR"):
        compile_arguments.append("-Werror")
    if wanted("FETCHER_BUILD_SANITIZE"):
        compile_arguments += SANITIZE
        link_arguments += SANITIZE[:1]
    built = cythonize(
        [
            Extension(
                "fetcher._native.blake3",
                sources=["fetcher/_native/blake3.pyx", *sorted(map(str, CORE.glob("*.c")))],
                depends=["fetcher/_native/blake3.pxd", *sorted(map(str, CORE.glob("*.h")))],
                include_dirs=["fetcher/_native"],
                define_macros=[("_FILE_OFFSET_BITS", "64")],
                extra_compile_args=compile_arguments,
                extra_link_args=link_arguments,
            )
        ],
        language_level=3,
    )
    # Set here because cythonize() returns new objects, on which an `optional` given above is lost.
    for extension in built:
        extension.optional = not wanted("FETCHER_BUILD_REQUIRE_NATIVE")
    return list(built)


if __name__ == "__main__":  # as it is for every build front end
    setup(ext_modules=extensions())
