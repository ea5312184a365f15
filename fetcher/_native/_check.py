"""What is asked of the compiled core once, at import: cheap insurance against a wrong build or a CPU nobody has tried.

Some tens of microseconds. Must not decide anything: it says what is wrong, the switch decides.
"""

import hashlib
import os
from types import ModuleType

import blake3

# An empty chunk, a partial one, a parent; then a full load of every kernel and some left: of chunks, of parents, too.
_LENGTHS = (0, 1, 2048, 29 * 1024 + 5, 79 * 1024)
# Padding in the last message and in one of its own, nothing but whole messages, some of each.
_SHA256_LENGTHS = (0, 55, 56, 64, 1000)


def _content(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def wrong_answer(core: ModuleType) -> str | None:
    """A sentence when the core's hashes are not those of the ``blake3`` package."""
    for length in _LENGTHS:
        content = _content(length)
        if core.root_of(content) != blake3.blake3(content).digest():
            return f"the compiled core hashes {length} bytes wrongly"
    return None


def wrong_sha256(core: ModuleType) -> str | None:
    """A sentence when the core's SHA-256, one alone or one of two, is not hashlib's."""
    for length in _SHA256_LENGTHS:
        content, longer = _content(length), _content(length + 3)
        alone, one, other = core.Sha256(), core.Sha256(), core.Sha256()
        alone.update(content)
        core.sha256_pair(one, content, other, longer)
        right = hashlib.sha256(content).digest()
        if not alone.digest() == one.digest() == right or other.digest() != hashlib.sha256(longer).digest():
            return f"the compiled SHA-256 hashes {length} bytes wrongly"
    return None


def wrong_kernel(core: ModuleType, variable: str) -> str | None:
    """Puts the kernel that the environment names to work, if it names one; a sentence when there is no such."""
    if name := os.environ.get(variable):
        try:
            core.set_simd(name)
        except ValueError as error:
            return f"{variable} is ignored, {error}"
    return None
