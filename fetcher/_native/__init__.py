"""The switch: which core hashes. Callers import the names from here (most of them through fetcher/hashing).

The compiled core is taken when it can be imported and its answers agree with the ``blake3`` package and with hashlib.
Without it *plain mode* runs, which has no block trees. SHA-256 is the core's where the CPU has instructions for it,
else hashlib's: OpenSSL has faster code for CPUs without. ``FETCHER_NATIVE=plain`` forces plain mode,
``FETCHER_SIMD=<name>`` chooses a kernel of BLAKE3, ``FETCHER_SHA256=<name>`` one of SHA-256, or ``hashlib``. Below all
floors: must not know anything else of this package.
"""

import os

from fetcher._native import _check

__all__ = [
    "ACTIVE",
    "SHA256_ACTIVE",
    "BlockSink",
    "Sha256",
    "SubtreeHasher",
    "describe",
    "hash_blocks",
    "merge_root",
    "preallocate",
    "root_of",
    "roots_of",
    "scan_file",
    "sha256_pair",
    "sha256_pair_files",
    "write_blocks",
]

_plain = os.environ.get("FETCHER_NATIVE") == "plain"

try:
    if _plain:
        raise ImportError("FETCHER_NATIVE=plain")
    # Not `from fetcher._native import blake3`: where there is none, that speaks of a circular import.
    import fetcher._native.blake3 as _blake3
    from fetcher._native.blake3 import (
        SubtreeHasher,
        hash_blocks,
        merge_root,
        root_of,
        roots_of,
        scan_file,
        write_blocks,
    )

    _remark = _check.wrong_kernel(_blake3, "FETCHER_SIMD")
    if _fault := _check.wrong_answer(_blake3):
        raise ImportError(_fault)
    ACTIVE = "native"
except ImportError as error:
    from fetcher._native.plain import (  # type: ignore[assignment]  # the hasher is another class of the same shape
        SubtreeHasher,
        hash_blocks,
        merge_root,
        root_of,
        roots_of,
        scan_file,
        write_blocks,
    )

    _remark = "the compiled core was not built" if error.name == f"{__name__}.blake3" else str(error)
    ACTIVE = "plain"

try:
    if ACTIVE == "plain":
        raise ImportError
    import fetcher._native.sink as _sink
    from fetcher._native.blake3 import simd as _simd
    from fetcher._native.sink import BlockSink, preallocate

    # The same sources as above in an extension of their own: whatever works there and is asked for, here too.
    _sink.set_simd(_simd())
except ImportError:
    from fetcher._native.plain_sink import BlockSink, preallocate  # type: ignore[assignment]  # the same shape

_sha256_remark = None
try:
    if _plain or os.environ.get("FETCHER_SHA256") == "hashlib":
        raise ImportError
    import fetcher._native.sha256 as _sha256
    from fetcher._native.sha256 import Sha256, sha256_pair, sha256_pair_files

    _sha256_remark = _check.wrong_kernel(_sha256, "FETCHER_SHA256")
    if _sha256.simd() == "portable" != os.environ.get("FETCHER_SHA256"):
        raise ImportError
    if _fault := _check.wrong_sha256(_sha256):
        raise ImportError(_fault)
    SHA256_ACTIVE = _sha256.simd()
except ImportError as error:
    from fetcher._native.plain import Sha256, sha256_pair, sha256_pair_files  # type: ignore[assignment]  # the same

    _sha256_remark = str(error) or _sha256_remark
    SHA256_ACTIVE = "hashlib"


def describe() -> str:
    """One line for ``--version`` and ``doctor``: what is in use, and why not the better thing."""
    trees = f"native ({_blake3.simd()}" if ACTIVE == "native" else "plain (no block trees"
    # Of a core that was not built at all one remark is enough.
    remarks = [remark for remark in (_remark, _sha256_remark if ACTIVE == "native" else None) if remark]
    active = f"{trees}, SHA-256 by {SHA256_ACTIVE})"
    return f"{active}: {'; '.join(remarks)}" if remarks else active
