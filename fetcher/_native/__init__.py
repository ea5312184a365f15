"""The switch: which core hashes blocks. Callers import the names from here (most of them through fetcher/hashing.py).

The compiled core is taken when it can be imported and its answers agree with the ``blake3`` package; otherwise *plain
mode* runs without block trees. ``FETCHER_NATIVE=plain`` forces that, ``FETCHER_SIMD=<name>`` chooses a kernel. Below
all floors: must not know anything else of this package.
"""

import os

__all__ = ["ACTIVE", "SubtreeHasher", "describe", "hash_blocks", "merge_root", "root_of", "scan_file", "write_blocks"]

try:
    if os.environ.get("FETCHER_NATIVE") == "plain":
        raise ImportError("FETCHER_NATIVE=plain")
    from fetcher._native import blake3 as _core
    from fetcher._native._check import wrong_answer, wrong_kernel
    from fetcher._native.blake3 import SubtreeHasher, hash_blocks, merge_root, root_of, scan_file, write_blocks

    _remark = wrong_kernel(_core, os.environ.get("FETCHER_SIMD"))
    if _fault := wrong_answer(_core):
        raise ImportError(_fault)
    ACTIVE = "native"
except ImportError as error:
    from fetcher._native.plain import (  # type: ignore[assignment]  # the hasher is another class of the same shape
        SubtreeHasher,
        hash_blocks,
        merge_root,
        root_of,
        scan_file,
        write_blocks,
    )

    # A name that can't be imported from here: there is no such module beside this one.
    _remark = "the compiled core was not built" if error.name == __name__ else str(error)
    ACTIVE = "plain"


def describe() -> str:
    """One line for ``--version`` and ``doctor``: what is in use, and why not the better thing."""
    active = f"native ({_core.simd()})" if ACTIVE == "native" else "plain, no block trees"
    return f"{active}: {_remark}" if _remark else active
