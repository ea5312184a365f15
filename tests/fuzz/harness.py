"""Fuzzing with judges: hostile cases into one parser, until something happens that was not promised.

What is promised for each *family* (one parser, or one road through several): a value that its judge accepts, or one of
the errors that its documentation names; within ``CPU_S_MAX`` seconds of CPU and ``MEMORY_BYTES_MAX`` of memory.
Anything else is a finding. Knows no parser; families are in the modules beside this one.

A case is bytes, so that what failed once is kept as a file in ``corpus/<family>/``. To keep what a run finds, name a
directory in ``FETCHER_TEST_FUZZ_KEEP``.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pytest

from fetcher.errors import FetcherError
from tests.fuzz.judging import assert_fit_to_be_told
from tests.fuzz.mutating import Grammar, mutated

CORPUS = Path(__file__).with_name("corpus")
CPU_S_MAX = 2.0
MEMORY_BYTES_MAX = 256 << 20
"""More than a batch of small cases ever needs; a case has ``CASE_BYTES_MAX`` at most."""
BATCH = 100
"""Cases between two looks at the memory: each look costs as much as some cases."""
SHRINKS_MAX = 300

Outcome = Literal["value", "error"]


@dataclass(frozen=True)
class Plant:
    """A fault for the product, which fuzzing of the family has to find."""

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]


def nothing(case: bytes, found: Any) -> None:
    """The judge where no exception is all that is promised."""


@dataclass(frozen=True)
class Family:
    """One parser, and what is promised of it."""

    name: str
    grammar: Grammar
    examples: tuple[bytes, ...]
    """Valid ones, or nearly so; what is tried begins as one of them."""
    parse: Callable[[bytes], Any]
    errors: tuple[type[BaseException], ...] = ()
    """What ``parse`` may raise: the documented types."""
    judge: Callable[[bytes, Any], None] = nothing
    """Raises AssertionError for a value that should not have been accepted."""
    judge_error: Callable[[bytes, BaseException], None] = nothing
    """As ``judge``, of an error, beside what is asked of each: that it can be shown to a person."""
    plants: tuple[Plant, ...] = ()
    words: tuple[bytes, ...] = ()
    """What a case may be made of, beside its examples and what is hostile anywhere."""
    weight: float = 1.0
    """Its share of the cases, compared with others."""

    def __repr__(self) -> str:
        return f"<Family {self.name}>"

    @property
    def corpus(self) -> list[Path]:
        """What failed once."""
        return sorted((CORPUS / self.name).glob("*")) if (CORPUS / self.name).is_dir() else []


class Found(AssertionError):
    """Something that was not promised."""

    def __init__(self, family: Family, case: bytes, why: str) -> None:
        kept = ""
        if directory := os.environ.get("FETCHER_TEST_FUZZ_KEEP"):
            path = Path(directory, family.name, sha256(case).hexdigest()[:12])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(case)
            kept = f"\nkept as {path}"
        super().__init__(f"{family.name}: {why}\ncase of {len(case)} bytes: {_shown(case)}{kept}")
        self.case = case
        self.why = why


class TooLong(BaseException):
    """Raised in whatever runs when its time is over. No Exception, so that no parser can catch it."""


def check(family: Family, case: bytes, *, cpu_s_max: float = CPU_S_MAX) -> Outcome:
    """Try one case. Raises Found."""
    began = time.process_time()
    outcome: Outcome = "value"
    try:
        with _time_limit(cpu_s_max):
            try:
                value = family.parse(case)
            except family.errors as error:
                outcome = "error"
                if isinstance(error, FetcherError):
                    assert_fit_to_be_told(error)
                family.judge_error(case, error)
            else:
                family.judge(case, value)
    except TooLong:
        raise Found(family, case, f"not ended after {cpu_s_max} s of CPU") from None
    except AssertionError as error:
        raise Found(family, case, f"judged: {error}") from error
    except Exception as error:
        raise Found(family, case, f"{type(error).__name__}: {_shown(str(error).encode(errors='replace'))}") from error
    spent_s = time.process_time() - began
    if spent_s > cpu_s_max:  # in C, where no signal reaches
        raise Found(family, case, f"took {spent_s:.1f} s of CPU")
    return outcome


def fuzz(family: Family, count: int, seed: object) -> dict[Outcome, int]:
    """Try ``count`` cases. Returns how they ended; raises Found, with the case made as small as a moment allows."""
    dice = random.Random(f"{seed}:{family.name}")
    examples = (*family.examples, *(path.read_bytes() for path in family.corpus))
    ended: dict[Outcome, int] = {"value": 0, "error": 0}
    for start in range(0, count, BATCH):
        cases = [mutated(dice, examples, family.grammar, family.words) for _ in range(min(BATCH, count - start))]
        with _memory() as used:
            for case in cases:
                try:
                    ended[check(family, case)] += 1
                except Found as found:
                    raise _smaller(family, found) from found.__cause__
        if used() > MEMORY_BYTES_MAX:
            raise _hungry(family, cases)
    return ended


def _hungry(family: Family, cases: Sequence[bytes]) -> Found:
    for case in cases:
        with _memory() as used:
            check(family, case)
        if used() > MEMORY_BYTES_MAX // 2:
            return Found(family, case, f"took {used() >> 20} MiB of memory")
    return Found(family, cases[0], f"{len(cases)} cases together took more than {MEMORY_BYTES_MAX >> 20} MiB")


def _smaller(family: Family, found: Found) -> Found:
    """The same finding with less of the case, as far as a few hundred tries lead."""
    kind = _kind(found.why)
    if kind in ("not ended", "took"):
        return found
    best, tries = found, 0
    size = len(found.case) // 2
    while size and tries < SHRINKS_MAX:
        position = 0
        while position < len(best.case) and tries < SHRINKS_MAX:
            tries += 1
            case = best.case[:position] + best.case[position + size :]
            try:
                check(family, case)
                position += size
            except Found as smaller:
                if _kind(smaller.why) == kind:
                    best = smaller
                else:
                    position += size
        size //= 2
    return best


def _kind(why: str) -> str:
    return next((kind for kind in ("not ended", "took") if why.startswith(kind)), why[:40])


def _shown(text: bytes) -> str:
    return repr(text) if len(text) <= 2000 else f"{text[:1500]!r} … {text[-300:]!r}"


# --- limits


@contextmanager
def _time_limit(cpu_s: float) -> Iterator[None]:
    def over(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)  # time of this process alone: a busy machine makes nobody slow
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _memory() -> Iterator[Callable[[], int]]:
    """How much more memory than at the start was in use at once, inside the block."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    except OSError:
        yield lambda: 0  # some containers forbid it; then others look
        return
    before = _status("VmRSS")
    peak = 0

    def used() -> int:
        return max(0, peak - before)

    yield used
    peak = _status("VmHWM")


def _status(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) << 10 if match else 0
