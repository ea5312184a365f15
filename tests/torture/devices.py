"""Block devices and file systems for one run: loop devices, mkfs, mount, fsck. Root only, in a mount namespace.

Loop devices are attached with autoclear: once unmounted they are gone, also when the process that mounted them was
killed, because its namespace dies with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20

_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_AUTOCLEAR, _DIRECT_IO = 4, 16
_CONFIG = struct.Struct("<II QQQQQ IIII 64s64s32s QQ 64x")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One way of keeping files on a disk."""

    name: str
    kind: str
    """As mount(8) knows it."""
    image_bytes: int
    make: tuple[str, ...]
    options: str
    """Of mount(8), for the run. Logs are written each second, so that a short run meets that often."""
    check: tuple[str, ...]
    """Says with exit code 0 that an unmounted image is sound."""


_EXT4 = ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-m", "0")
FILE_SYSTEMS = {
    each.name: each
    for each in (
        FileSystem("ext4", "ext4", 256 * MIB, _EXT4, "commit=1", ("e2fsck", "-fn")),
        FileSystem("ext4-writeback", "ext4", 256 * MIB, _EXT4, "commit=1,data=writeback", ("e2fsck", "-fn")),
        FileSystem("xfs", "xfs", 320 * MIB, ("mkfs.xfs", "-q", "-f"), "noatime", ("xfs_repair", "-n")),
        FileSystem("btrfs", "btrfs", 320 * MIB, ("mkfs.btrfs", "-q", "-f"), "commit=1", ("btrfs", "check")),
    )
}


class DeviceError(Exception):
    """A file system could not be made, mounted, or is not sound: this harness, or the kernel, is at fault."""


def run(*command: str | Path) -> str:
    completed = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if completed.returncode:
        raise DeviceError(f"{' '.join(map(str, command))}: {completed.stdout}{completed.stderr}")
    return completed.stdout


def make(file_system: FileSystem, image: Path) -> None:
    """A new file system in a sparse file."""
    with image.open("wb") as file:
        file.truncate(file_system.image_bytes)
    run(*file_system.make, image)


def check(file_system: FileSystem, image: Path) -> None:
    """Raise DeviceError if an unmounted file system is damaged."""
    run(*file_system.check, image)


@contextmanager
def mounted(file_system: FileSystem, backing: Path, place: Path, *, direct: bool = False) -> Iterator[Path]:
    """The file system in ``backing``, at ``place``, until the block is left; its journal is replayed if need be."""
    place.mkdir(exist_ok=True)
    device, descriptor = _attach(backing, direct=direct)
    try:
        options = ["-o", file_system.options] if file_system.options else []
        run("mount", "-t", file_system.kind, *options, device, place)
    finally:
        os.close(descriptor)  # from here on the mount alone holds the device
    try:
        yield place
    finally:
        run("umount", place)


def _attach(backing: Path, *, direct: bool) -> tuple[str, int]:
    """A loop device on this file, and a descriptor of it that keeps it from vanishing."""
    target = os.open(backing, os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(100):
            device = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            flags = _AUTOCLEAR | (_DIRECT_IO if direct else 0)
            name = os.fsencode(backing)[-63:]
            info = (0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
            try:
                fcntl.ioctl(descriptor, _CONFIGURE, _CONFIG.pack(target, 512, *info))
            except OSError as error:
                os.close(descriptor)
                if error.errno not in (errno.EBUSY, errno.EAGAIN):  # somebody was faster
                    raise
                continue
            return device, descriptor
        raise DeviceError("no loop device is free")
    finally:
        os.close(control)
        os.close(target)
