"""Eight hostile jobs: ours holds, docs/SECURITY.md says just what was seen, and what is planted into ours is noticed.

After a change that alters the words: ``python -m tests.trust.side_by_side --write``, and read what it wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fetcher.model.resource_object as resource_object
from fetcher import HF, S3
from fetcher.cache.blobs import Blobs
from fetcher.cache.snapshots import Snapshots
from fetcher.client import mounts
from fetcher.net.guard import Guard
from tests.trust import side_by_side
from tests.trust.present_node import (
    TTL_S,
    Helper,
    MissingResource,
    PresentNode,
    every_helper,
    name_of,
)
from tests.trust.side_by_side import JOBS, Line, stated, under_every_helper
from tests.trust.tenants import any_blob

PATIENT = Helper(content_with_what_is_there=True, removes_what_is_not_listed=False)
STRICT = Helper(content_with_what_is_there=False, removes_what_is_not_listed=True)
MODEL: dict[str, Any] = {"type": "HF", "repo": "acme/open"}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_ours_holds_and_the_document_says_what_was_seen(job: Callable[[Path], Line], tmp_path: Path) -> None:
    line = job(tmp_path)
    assert line.safe, line
    row = stated().splitlines()[1 + line.number]
    assert row == str(line), "python -m tests.trust.side_by_side --write"


def test_the_document_has_these_rows_and_no_others() -> None:
    rows = stated().splitlines()
    assert rows[:2] == [side_by_side.HEAD, side_by_side.RULE]
    assert len(rows) == 2 + len(JOBS) == 10


# --- planted faults of ours ------------------------------------------------------------------------------------------


def _lookup_for_anybody(self: Snapshots, key: str, *principals: str | None) -> Any:
    return next((snapshot for snapshot in self.all() if snapshot.key == key), None)


def _find_for_anybody(self: Blobs, wanted: Any, principal: str | None) -> dict[tuple[str, int], str]:
    return any_blob(self, wanted)


def _dashed(self: Any, endpoint: str) -> str:
    """A key as the present node has it."""
    if isinstance(self, S3):
        return "-".join(location.url for location in self.locations)
    return "-".join((self.repo, self.revision or "", *self.files))


def _shared(cache: Any, job: Any, asks: Any, lease: Any, outcomes: Any) -> list[Path]:
    mounts.discard(cache, (path for outcome in outcomes for path in outcome.copies))
    for outcome in outcomes:
        for file in outcome.snapshot.path.iterdir():
            file.chmod(0o666)
    return [outcome.snapshot.path for outcome in outcomes]


@pytest.mark.parametrize(
    ("number", "place", "name", "fault"),
    [
        (1, Snapshots, "lookup", _lookup_for_anybody),
        (2, Snapshots, "lookup", _lookup_for_anybody),
        (3, S3, "key", _dashed),
        (4, HF, "key", _dashed),
        (5, mounts, "places_of", _shared),
        (6, Guard, "judge_endpoint", lambda *_: None),
        (7, Blobs, "_linkable", _find_for_anybody),
        (8, resource_object, "target_fault", lambda _: None),
    ],
)
def test_a_fault_of_ours_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, place: Any, name: str, fault: Any
) -> None:
    # Nothing but the listener that counts: without the guard the others would really be asked.
    monkeypatch.setattr(side_by_side, "INSIDE", ())
    monkeypatch.setattr(place, name, fault)
    line = JOBS[number - 1](tmp_path)
    assert not line.safe, line


# --- the model -------------------------------------------------------------------------------------------------------


def test_what_the_model_calls_certain_is_so_under_every_helper() -> None:
    assert len(list(every_helper())) == 4
    assert under_every_helper(lambda node: ("so", "")) == "so"
    words = under_every_helper(lambda node: ("", "a" if node.helper.removes_what_is_not_listed else "b"))
    assert words == "depends on the helper image: a, or b"
    with pytest.raises(AssertionError, match="said to be certain"):
        under_every_helper(lambda node: ("a" if node.helper.content_with_what_is_there else "b", ""))


def test_names_of_resources_collide_as_documented() -> None:
    assert name_of({"type": "HF", "repo": "o/n", "revision": "a-b", "files": ["c"]}) == "o/n-a-b-c"
    assert name_of({"type": "HF", "repo": "o/n", "revision": "a", "files": ["b-c"], "accessToken": "t"}) == "o/n-a-b-c"
    assert name_of({"type": "S3", "url": "u", "files": ["x"], "bucket": "b", "IAM": {}}) == "u"
    assert name_of({"type": "S3", "buckets": [{"url": "u"}, {"url": "v", "files": ["x"]}]}) == "u-v"
    assert name_of({"type": "Ollama", "model": "m"}) == "m"


def test_a_helper_that_fails_costs_the_volume() -> None:
    node = PresentNode(STRICT)
    volume = node.mount(MODEL, {"f": b"1"}).volume
    with pytest.raises(MissingResource):
        node.mount(MODEL, None)
    assert volume.deleted and not volume.files and not node.records
    with pytest.raises(MissingResource):
        PresentNode(PATIENT).mount(MODEL, None)  # nothing there that it could be content with


def test_a_hit_is_the_same_volume_filled_in_place() -> None:
    node = PresentNode(STRICT)
    first = node.mount(MODEL, {"f": b"1"})
    second = node.mount(MODEL, {"g": b"2"})
    assert first.volume is second.volume and first.volume.files == {"g": b"2"}
    with pytest.raises(PermissionError):
        second.write("g", b"3")
    s3: dict[str, Any] = {"type": "S3", "url": "u"}
    node.mount({**s3, "allowWrite": True}, {"f": b"1"}).write("f", b"2")
    assert node.mount(s3, {"f": b"1"}).volume.files == {"f": b"2"}


def test_times_and_the_list_of_a_market() -> None:
    now = [0.0]
    node = PresentNode(PATIENT, lambda: now[0])
    node.mount(MODEL, {"f": b"1"})
    other = node.mount({**MODEL, "revision": "v1"}, {"f": b"1"}).volume
    assert node.missing_of_market({"acme/open", "acme/missing"}) == {"acme/missing"}
    node.records["acme/open"].volume.files.clear()
    assert node.missing_of_market({"acme/open"}) == set(), "recorded, so not looked at"
    now[0] = TTL_S + 1
    assert not other.deleted, "nobody looks while a job runs"
    node.private_images.add("registry.example/private:1")
    node.look_between_jobs({"acme/open"})
    assert other.deleted and set(node.records) == {"acme/open"} and not node.private_images
    foreign = node._new_volume()
    node.prune()
    assert foreign.deleted and not node.records["acme/open"].volume.deleted
