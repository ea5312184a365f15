"""What is asked of the compiled core once, at import: cheap insurance against a wrong build or a CPU nobody has tried.

Tens of microseconds. Must not decide anything: it says what is wrong, the switch decides.
"""

from types import ModuleType

import blake3

# An empty chunk, a partial one, a parent; then a full load of every kernel and some left: of chunks, of parents, too.
_LENGTHS = (0, 1, 2048, 29 * 1024 + 5, 79 * 1024)


def wrong_answer(core: ModuleType) -> str | None:
    """A sentence when the core's hashes are not those of the ``blake3`` package."""
    data = bytes(i % 251 for i in range(251)) * (max(_LENGTHS) // 251 + 1)
    for length in _LENGTHS:
        content = data[:length]
        if core.root_of(content) != blake3.blake3(content).digest():
            return f"the compiled core hashes {length} bytes wrongly"
    return None


def wrong_kernel(core: ModuleType, name: str | None) -> str | None:
    """Puts the kernel called ``name`` to work, if one is named; a sentence when there is none of that name."""
    if name:
        try:
            core.set_simd(name)
        except ValueError as error:
            return f"FETCHER_SIMD is ignored, {error}"
    return None
