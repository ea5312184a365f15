"""Running one command and saying what it cost: wall clock, CPU and peak memory as the kernel counts them.

Also what has to be alike before each run: free pages touched, the disk idle, the same core, the same priority.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from benchmarks.running.work import Command, Unusable, environment

PRIORITY = -10
"""What is asked for. What is granted is ``priority()``."""
TIME_MAX_S = 900.0
"""Who takes longer is ended: one that hangs must not keep the others from being measured."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How commands are run."""

    core: int | None = None
    """That the command is pinned to; None: the kernel chooses."""
    touch_bytes: int = 0
    """Free memory touched before each run, so that nobody pays for pages the host had taken back."""
    durable: bool = False
    """Outputs are synced, and the time that takes counts; what was dirty before was synced before."""
    inside: tuple[str, ...] = ()
    """Command that puts another into a network namespace."""

    def row(self) -> dict[str, object]:
        """What of them goes into a JSON line."""
        return {"durable": self.durable}


@dataclass(frozen=True, slots=True)
class Measured:
    """One process tree, as the kernel saw it."""

    wall_s: float
    """With the sync of its outputs where those have to be durable."""
    user_s: float
    system_s: float
    rss_mib: float
    """Of its largest process."""
    rss_floor_mib: float
    """What we had ourselves when it was started: the kernel counts that as its own, so less can't be seen."""
    server_cpu_s: float
    busy_s: float
    """CPU seconds of the whole machine meanwhile."""
    stdout: str

    def row(self) -> dict[str, float]:
        """Its figures, as they go into a JSON line."""
        figures = {name: round(value, 4) for name, value in asdict(self).items() if isinstance(value, float)}
        return figures | {"cpu_s": round(self.user_s + self.system_s, 4)}


class Failed(RuntimeError):
    """A command that ended otherwise than it should, with what it said."""


def run(
    command: Command,
    conditions: Conditions,
    *,
    server_cpu_s: Callable[[], float] = lambda: 0.0,
    outputs: Callable[[], Iterable[Path]] = tuple,
    while_running: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> Measured:
    """Run to the end. ``outputs``: what is to be synced, asked when it is over. Raises Failed.

    ``while_running`` may watch it, and must return when it has ended. Children that are left then are ended too: they
    would take from whoever comes next.
    """
    if conditions.touch_bytes:
        touch(conditions.touch_bytes)
    if conditions.durable:
        os.sync()
    arguments = [*conditions.inside, *pinned(conditions.core), *command.arguments]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as talk:
        server_before, busy_before = server_cpu_s(), _busy_s()
        floor = _floor_mib()
        start = time.perf_counter()
        # Waited for with wait4, which Popen does not offer: the object is told the outcome by hand.
        try:
            process = subprocess.Popen(
                arguments,
                env=environment_of(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=talk,
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"{arguments[0]} can't be run: {error.strerror}") from None
        alarm = threading.Timer(TIME_MAX_S, kill_all, [process.pid])
        try:  # from here on: we may be asked to end at any moment
            put_first(process.pid)
            alarm.start()
            if while_running is not None:
                while_running(process)
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            kill_all(process.pid)
            process.wait()
            raise
        finally:
            alarm.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if conditions.durable and process.returncode == 0:
            for path in outputs():
                _sync(path)
        wall_s = time.perf_counter() - start
        server_s, busy_s = server_cpu_s() - server_before, _busy_s() - busy_before
        kill_all(process.pid)
        if wall_s >= TIME_MAX_S:
            raise Failed(f"had not ended after {TIME_MAX_S:.0f} s")
        output.seek(0)
        talk.seek(0)
        said = output.read().decode(errors="replace")
        if process.returncode != 0:
            words = talk.read().decode(errors="replace")
            raise Failed(f"ended with {process.returncode}: {said[-1500:]}{words[-1500:]}".strip())
        peak = usage.ru_maxrss / 1024
        return Measured(wall_s, usage.ru_utime, usage.ru_stime, peak, floor, server_s, busy_s, said)


def _floor_mib() -> float:
    """What a process has from us at its start; of what we had at any time before nothing is left in that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now (proc(5))
    except OSError:  # a kernel without it: then it stays what it was
        pass
    return int(_value("/proc/self/status", "VmHWM").split()[0]) / 1024


def environment_of(command: Command) -> dict[str, str]:
    """What it gets to see."""
    return environment() | dict(command.environment)


def kill_all(group: int) -> None:
    """A process that leads a session, and its children."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:  # nobody is left
        pass


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; leaves it to be waited for."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@cache
def priority() -> int:
    """What whoever is started here runs at: tried on a child that does nothing. Root in a container may be refused."""
    command = [sys.executable, "-I", "-S", "-c", ""]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        put_first(process.pid)
        return os.getpriority(os.PRIO_PROCESS, process.pid)  # it is not waited for yet, so it is still there


def put_first(pid: int) -> None:
    """Have a session, that of its first process, go before background work, where this may be asked for.

    Where the kernel shares the CPUs between sessions, a process's own priority counts only among those of its session.
    """
    if os.geteuid() != 0:
        return
    try:
        os.setpriority(os.PRIO_PROCESS, pid, PRIORITY)
    except PermissionError:  # it takes CAP_SYS_NICE, which root in a container may lack
        return
    group = Path(f"/proc/{pid}/autogroup")
    try:
        group.write_text(str(PRIORITY))
    except OSError:  # this kernel has none, or the process has ended
        pass


def pinned(core: int | None) -> Sequence[str]:
    """What a command is put behind, so that it stays on a core."""
    return () if core is None else ("taskset", "-c", str(core))


def touch(byte_count: int) -> None:
    """Have a throw-away process write into so much memory, page by page."""
    script = f"import mmap; m = mmap.mmap(-1, {byte_count}); m[::4096] = bytes(range(1, 2)) * len(m[::4096])"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", script], start_new_session=True)
    try:
        put_first(process.pid)
        code = process.wait()
    finally:
        process.kill()
    if code != 0:
        raise Unusable(f"{byte_count} bytes of memory are not to be had")


def _busy_s() -> float:
    fields = [int(text) for text in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / 100  # without idle and waiting for disks (proc(5))


@cache
def facts() -> Mapping[str, str | int]:
    """What this machine is, for each JSON line. Read once: a line is written between two turns."""
    model = _value("/proc/cpuinfo", "model name") or platform.machine()
    memory = int(_value("/proc/meminfo", "MemTotal").split()[0])
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "memory_mib": memory // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def file_system(path: Path) -> str:
    """Of which kind it is, such as ``tmpfs``; where /tmp is one, a disk is elsewhere."""
    command = ("stat", "--file-system", "--format=%T", str(path))
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _value(path: str, name: str) -> str:
    """Of the first line that begins with ``name``; empty where there is none."""
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
