"""The switch for calls on many files: compiled where the core was built, else their readable twin. Apart from the
switch of the hashes because only what publishes loads it. Below all floors."""

import os

__all__ = ["ACTIVE", "link_files", "look_for_files", "make_directories", "unlink_files", "write_files"]

try:
    if os.environ.get("FETCHER_NATIVE") == "plain":
        raise ImportError("FETCHER_NATIVE=plain")
    from fetcher._native.files import link_files, look_for_files, make_directories, unlink_files, write_files

    ACTIVE = "native"
except ImportError:
    from fetcher._native.pure_files import link_files, look_for_files, make_directories, unlink_files, write_files

    ACTIVE = "plain"
