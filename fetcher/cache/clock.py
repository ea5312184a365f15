"""Time, as the cache needs it: the calendar's for what people are told and what outlives a boot, the boot's for what
must not be moved by somebody who sets the clock. On the hit path; asks the kernel, remembers nothing but the boot's id.

Rooms that only stamp rows take any callable that gives unix seconds. ``SystemClock`` has the rest; ``of`` makes one of
a plain callable, for tests that turn the calendar.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cached_property
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """What leases and retention ask."""

    def __call__(self) -> float:
        """Unix seconds."""
        ...

    def boot_s(self) -> float:
        """Seconds since the machine was started, sleep included. Nobody can set it."""
        ...

    @property
    def boot_id(self) -> str:
        """Which start of the machine this is."""
        ...


class SystemClock:
    """The machine's. ``calendar``: unix seconds from somewhere else; what it is off by counts as time that passed."""

    def __init__(self, calendar: Callable[[], float] = time.time) -> None:
        self._calendar = calendar

    def __call__(self) -> float:
        return self._calendar()

    def boot_s(self) -> float:
        own = time.clock_gettime(time.CLOCK_BOOTTIME) - _namespace_offset_s()
        return own if self._calendar is time.time else own + self._calendar() - time.time()

    @cached_property
    def boot_id(self) -> str:
        return machine_boot_id()


def of(clock: Callable[[], float] | Clock) -> Clock:
    """This clock with all that is asked of one."""
    return clock if isinstance(clock, Clock) else SystemClock(clock)


def machine_boot_id() -> str:
    """The kernel's random id of this boot, the same in every container; empty where it is not told: some containers
    have a file of their own mounted there, which tells one container from the other and not one boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            own = os.fstat(file.fileno()).st_dev == os.stat("/proc/sys").st_dev
            return file.read().strip() if own else ""
    except OSError:
        return ""


def another_boot(one: str, other: str) -> bool:
    """Whether two ids are of different boots; what is not known is no proof."""
    return bool(one and other) and one != other


_offset_s: float | None = None


def _namespace_offset_s() -> float:
    """What time_namespaces(7) adds to the boot's clock for this process: others of the cache have none of it."""
    global _offset_s
    if _offset_s is None:
        _offset_s = 0.0
        try:
            with open("/proc/self/timens_offsets") as file:
                for line in file:
                    name, seconds, nanoseconds = line.split()
                    if name == "boottime":
                        _offset_s = int(seconds) + int(nanoseconds) / 1e9
        except (OSError, ValueError):
            pass  # a kernel without such namespaces
    return _offset_s
