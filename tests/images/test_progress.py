"""Adding up what engines tell of a pull: real streams of Docker and Podman, and what they leave out."""

from __future__ import annotations

from typing import Any

import pytest

from fetcher.images.progress import LAYERS_MAX, PullProgress, PullTracker
from fetcher.model.image import EngineKind

NAME = "org/app:v1"


def layer(
    name: str, status: str, current: int | None = None, total: int | None = None, **detail: Any
) -> dict[str, Any]:
    if current is not None:
        detail |= {"current": current, "total": total}
    return {"id": name, "status": status, "progressDetail": detail}


def fed(engine: EngineKind, *lines: dict[str, Any]) -> PullProgress:
    tracker = PullTracker(NAME, engine)
    for line in lines:
        tracker.feed(line)
    return tracker.now()


def test_layers_of_docker_are_added_up() -> None:
    lines = [
        ({"status": "Pulling from org/app", "id": "v1"}, (0, None, 0, 0)),
        (layer("a", "Already exists"), (0, None, 1, 1)),
        (layer("b", "Pulling fs layer"), (0, None, 1, 2)),
        (layer("c", "Pulling fs layer"), (0, None, 1, 3)),
        (layer("c", "Waiting"), (0, None, 1, 3)),
        (layer("b", "Downloading", 10, 100), (10, 100, 1, 3)),
        (layer("b", "Downloading", 90, 100), (90, 100, 1, 3)),
        (layer("c", "Downloading", 1, 50), (91, 150, 1, 3)),  # the total grows
        (layer("b", "Verifying Checksum"), (101, 150, 1, 3)),
        (layer("b", "Download complete"), (101, 150, 1, 3)),
        (layer("b", "Extracting", 32, 100), (101, 150, 1, 3)),
        (layer("c", "Download complete"), (150, 150, 1, 3)),
        (layer("b", "Extracting", 100, 100), (150, 150, 1, 3)),
        (layer("b", "Pull complete"), (150, 150, 2, 3)),
        (layer("c", "Extracting", 3, 0, units="s"), (150, 150, 2, 3)),  # seconds, with the containerd store
        (layer("c", "Pull complete"), (150, 150, 3, 3)),
        ({"status": "Digest: sha256:12"}, (150, 150, 3, 3)),
    ]
    tracker = PullTracker(NAME, "docker")
    for line, numbers in lines:
        assert tracker.feed(line)
        assert tracker.now() == PullProgress(NAME, *numbers)


def test_podman_is_done_with_a_layer_when_it_says_download_complete() -> None:
    lines = [layer("a", "Pulling fs layer"), layer("a", "Downloading", 10, 100), layer("a", "Download complete")]
    assert fed("podman", *lines) == PullProgress(NAME, 100, 100, 1, 1)
    assert fed("docker", *lines) == PullProgress(NAME, 100, 100, 0, 1)


def test_podmans_own_endpoint_tells_layers_and_the_id() -> None:
    tracker = PullTracker(NAME, "podman")
    tracker.feed({"stream": "Trying to pull 127.0.0.1:5000/org/app:v1...\n"})
    tracker.feed({"stream": "Copying blob sha256:aa\n"})
    tracker.feed({"stream": "Copying blob sha256:bb\n"})
    tracker.feed({"stream": "Copying blob \n"})
    tracker.feed({"stream": "Copying config sha256:cc\n"})
    before = tracker.image_id
    tracker.feed({"images": ["cc"], "id": "cc"})
    assert (before, tracker.image_id) == (None, "cc")
    assert tracker.now() == PullProgress(NAME, 0, None, 0, 2)


@pytest.mark.parametrize(
    "line",
    [
        layer("a", "Downloading", 10, 100),
        layer("a", "Pulling fs layer"),
        {"status": "Digest: sha256:12"},
        {"stream": "Copying config sha256:cc\n"},
        {},
    ],
)
def test_the_same_line_again_is_no_progress(line: dict[str, Any]) -> None:
    tracker = PullTracker(NAME, "docker")
    assert tracker.feed(line)
    assert not tracker.feed(line)
    assert not tracker.feed(dict(line))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # Complete before it was ever downloading: its size stays unknown, and nothing waits for it.
        ([layer("a", "Pulling fs layer"), layer("a", "Pull complete")], (0, None, 1, 1)),
        ([layer("a", "Downloading", 150, 100)], (100, 100, 0, 1)),
        ([layer("a", "Downloading", 50, 0)], (0, None, 0, 1)),
        ([layer("a", "Downloading", -5, 100)], (0, 100, 0, 1)),
        ([{"id": "a", "status": "Downloading", "progressDetail": None}], (0, None, 0, 1)),
        ([{"id": "a", "status": "Downloading", "progressDetail": {"current": "x", "total": True}}], (0, None, 0, 1)),
        ([{"id": 7, "status": "Downloading"}], (0, None, 0, 0)),
        ([{"id": "a", "status": None}], (0, None, 0, 0)),
        # A retry may begin anew; the engine's word counts.
        ([layer("a", "Downloading", 80, 100), layer("a", "Downloading", 5, 100)], (5, 100, 0, 1)),
        # A line that comes late does not undo what has arrived.
        ([layer("a", "Downloading", 80, 100), layer("a", "Download complete"), layer("a", "Downloading", 90, 100)],
         (100, 100, 0, 1)),
        ([layer(str(number), "Waiting") for number in range(LAYERS_MAX + 5)], (0, None, 0, LAYERS_MAX)),
    ],
)  # fmt: skip
def test_odd_lines_break_nothing(lines: list[dict[str, Any]], expected: tuple[int, int | None, int, int]) -> None:
    assert fed("docker", *lines) == PullProgress(NAME, *expected)


@pytest.mark.parametrize(
    ("engine", "lines", "is_work"),
    [
        ("docker", [], False),
        ("podman", [], False),
        ("docker", [layer("a", "Pulling fs layer")], False),
        ("docker", [layer("a", "Extracting", 1, 2), layer("b", "Downloading", 1, 2)], False),
        ("docker", [layer("a", "Extracting", 1, 2), layer("b", "Pull complete")], True),
        ("podman", [layer("a", "Downloading", 1, 2)], True),
    ],
)
def test_when_silence_may_be_work(engine: EngineKind, lines: list[dict[str, Any]], is_work: bool) -> None:
    tracker = PullTracker(NAME, engine)
    for line in lines:
        tracker.feed(line)
    assert tracker.silence_is_work is is_work


@pytest.mark.parametrize(
    ("engine", "lines", "is_queued"),
    [
        ("docker", [], True),
        ("podman", [], False),
        ("docker", [{"status": "Pulling from org/app", "id": "v1"}], True),
        ("docker", [layer("a", "Pulling fs layer")], True),
        ("docker", [layer("a", "Already exists"), layer("b", "Pulling fs layer"), layer("b", "Waiting")], True),
        ("docker", [layer("a", "Extracting", 1, 2), layer("b", "Waiting")], True),
        ("docker", [layer("a", "Downloading", 1, 2), layer("b", "Waiting")], False),
        ("docker", [layer("a", "Waiting"), layer("a", "Retrying in 5 seconds")], False),
        ("docker", [layer("a", "Pull complete"), layer("b", "Extracting", 1, 2)], False),
        ("podman", [layer("a", "Pulling fs layer")], False),
    ],
)
def test_when_all_that_is_missing_may_wait_for_its_turn(
    engine: EngineKind, lines: list[dict[str, Any]], is_queued: bool
) -> None:
    tracker = PullTracker(NAME, engine)
    for line in lines:
        tracker.feed(line)
    assert tracker.is_queued is is_queued
