"""Gone at any point: whatever step a process does not reach, nothing wrong is visible, a rerun works, gc cleans."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fetcher.cache.store import Cache
from tests.cache.actor import CRASH_CONTENTS
from tests.cache.world import (
    ROOT_OF_CHECKOUT,
    Clock,
    assert_sound,
    collect_twice,
    files_below,
    key_of,
    publish,
    settings,
    tree_on_disk,
)

LATER_S = 10 * 86_400.0
_FORKED = """
import os, sys
from pathlib import Path
from tests.cache import actor
from tests.cache.world import collect_twice, publish, settings
from fetcher.cache.store import Cache

# A fork for each point: starting an interpreter each time would take ten times as long.
command, top = sys.argv[1:]
count = 0
while True:
    place = Path(top, str(count))
    child = os.fork()
    if not child:
        sys.stderr = open(os.devnull, "w")
        with Cache.open(settings(place)) as cache:
            if command == "crash_removing":
                publish(cache, "m", actor.CRASH_CONTENTS)
                publish(cache, "n", {"small": b"small"})
            getattr(actor, command)(cache, str(count))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), (count, status)
    if status == 0:
        break
    count += 1
print(count)
"""


def crash_everywhere(command: str, top: Path) -> list[Path]:
    """One cache for each point at which a process can be gone, and one where it got through."""
    answer = subprocess.run(
        [sys.executable, "-c", _FORKED, command, str(top)],
        cwd=ROOT_OF_CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert answer.returncode == 0, answer.stderr
    return [top / str(count) for count in range(int(answer.stdout) + 1)]


@pytest.mark.timeout(120)
def test_publishing(tmp_path: Path) -> None:
    places = crash_everywhere("crash", tmp_path)
    assert len(places) > 40, "the steps were not counted"
    visible = []
    for place in places:
        clock = Clock()
        with Cache.open(settings(place), clock=clock) as cache:
            assert_sound(cache)
            found = cache.lookup(key_of("m"), None)
            visible.append(found is not None)
            again = publish(cache, "m", CRASH_CONTENTS)
            assert tree_on_disk(again.path) == CRASH_CONTENTS
            assert found is None or found.id == again.id
            assert_sound(cache)
            clock.turn(LATER_S)
            collect_twice(cache, clock)
            assert files_below(cache) == [f"owners-v1/{cache.owner.id}"], place.name
    assert visible == sorted(visible) and not visible[0] and visible[-1], "visible from one step on"


@pytest.mark.timeout(120)
def test_publishing_and_gc_without_a_rerun(tmp_path: Path) -> None:
    for place in crash_everywhere("crash", tmp_path):
        clock = Clock()
        with Cache.open(settings(place), clock=clock) as cache:
            cache.gc()
            assert_sound(cache)
            clock.turn(LATER_S)
            collect_twice(cache, clock)
            assert files_below(cache) == [], place.name


@pytest.mark.timeout(120)
def test_removing(tmp_path: Path) -> None:
    places = crash_everywhere("crash_removing", tmp_path)
    assert len(places) > 5
    for place in places:
        clock = Clock()
        with Cache.open(settings(place), clock=clock) as cache:
            assert_sound(cache)
            again = publish(cache, "m", CRASH_CONTENTS)
            assert tree_on_disk(again.path) == CRASH_CONTENTS
            clock.turn(LATER_S)
            collect_twice(cache, clock)
            assert files_below(cache) == [f"owners-v1/{cache.owner.id}"], place.name
