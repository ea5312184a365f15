"""The Plan: what is shared is counted once, and its JSON is the one that programs read."""

from __future__ import annotations

import json

import pytest

from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.plan.fetch_plan import Action, Eviction, FetchPlan, PlannedFile, PlannedResource, may_link


def manifest(*files: FileEntry, repository: str = "models/acme/tiny") -> Manifest:
    return Manifest(
        origin="hf",
        endpoint="https://hub.example:443",
        repository=repository,
        revision="c0ffee",
        private=False,
        files=files,
    )


WEIGHTS = FileEntry("model.safetensors", 1000, Digest("sha256", "a" * 64))
COPY = FileEntry("copy/model.safetensors", 1000, Digest("sha256", "a" * 64))
CONFIG = FileEntry("config.json", 20, Digest("git-sha1", "b" * 40))
MARKER = FileEntry("empty", 0, None)

FIRST = PlannedResource(
    "hf://acme/tiny@main",
    manifest(CONFIG, COPY, MARKER, WEIGHTS),
    (
        PlannedFile(CONFIG, "link", "config", root="d" * 64),
        PlannedFile(COPY, "fetch", "weights"),
        PlannedFile(MARKER, "empty", ""),
        PlannedFile(WEIGHTS, "fetch", "weights"),
    ),
    bytes_total=2020,
)
SECOND = PlannedResource(
    "hf://acme/twin@main",
    manifest(CONFIG, WEIGHTS, repository="models/acme/twin"),
    (PlannedFile(CONFIG, "fetch", "other config"), PlannedFile(WEIGHTS, "fetch", "weights")),
    bytes_total=1020,
)
HIT = PlannedResource("hf://acme/known@main", None, (), snapshot_id="snap", bytes_total=500)


def test_two_paths_with_the_same_bytes_are_one_transfer() -> None:
    assert list(FIRST.transfers()) == ["weights"]
    assert FIRST.bytes_to_fetch == 1000


def test_what_resources_share_is_fetched_once() -> None:
    plan = FetchPlan((FIRST, SECOND, HIT), bytes_free=10_000)
    assert sorted(plan.transfers) == ["other config", "weights"]
    assert plan.bytes_to_fetch == 1020
    assert FIRST.bytes_to_fetch + SECOND.bytes_to_fetch == 2020, "each of them alone would need it"
    assert plan.bytes_total == 2020 + 1020 + 500


def test_links_and_empty_files_are_no_transfers() -> None:
    assert {planned.action for planned in FIRST.transfers().values()} == {"fetch"}


@pytest.mark.parametrize(
    ("action", "present", "expected"),
    [("fetch", 0, 1000), ("fetch", 400, 600), ("fetch", 1000, 0), ("fetch", 2000, 0), ("link", 0, 0), ("empty", 0, 0)],
)
def test_what_a_partial_holds_is_not_fetched_again(action: Action, present: int, expected: int) -> None:
    planned = PlannedFile(WEIGHTS, action, "weights", bytes_present=present)
    assert planned.bytes_to_fetch == expected
    resource = PlannedResource("hf://acme/tiny@main", manifest(WEIGHTS), (planned,), bytes_total=1000)
    assert resource.bytes_to_fetch == expected
    plan = FetchPlan((resource,), bytes_free=0)
    assert (plan.bytes_to_fetch, plan.bytes_total) == (expected, 1000)
    assert plan.as_json()["resources"][0]["bytes_to_fetch"] == expected


def test_the_blobs_that_a_plan_relies_on_are_named_once() -> None:
    linked = PlannedResource("hf://acme/x@main", manifest(CONFIG), (PlannedFile(CONFIG, "link", "c", root="d" * 64),))
    other = PlannedResource("hf://acme/y@main", manifest(CONFIG), (PlannedFile(CONFIG, "link", "c", root="e" * 64),))
    assert FetchPlan((FIRST, linked, other, HIT), bytes_free=0).linked_roots == ("d" * 64, "e" * 64)


def test_only_a_resource_with_a_snapshot_is_a_hit() -> None:
    assert HIT.hit and HIT.bytes_to_fetch == 0
    assert not FIRST.hit


def test_json() -> None:
    plan = FetchPlan(
        (FIRST, SECOND, HIT),
        bytes_free=10_000,
        evictions=(Eviction("old-snap", "hf://acme/old@main", 77),),
    )
    assert plan.as_json() == {
        "event": "plan",
        "resources": [
            {
                "resource": "hf://acme/tiny@main",
                "revision": "c0ffee",
                "hit": False,
                "files": 4,
                "files_to_fetch": 1,
                "bytes": 2020,
                "bytes_to_fetch": 1000,
                "bytes_to_copy": 0,
            },
            {
                "resource": "hf://acme/twin@main",
                "revision": "c0ffee",
                "hit": False,
                "files": 2,
                "files_to_fetch": 2,
                "bytes": 1020,
                "bytes_to_fetch": 1020,
                "bytes_to_copy": 0,
            },
            {
                "resource": "hf://acme/known@main",
                "revision": None,
                "hit": True,
                "files": 0,
                "files_to_fetch": 0,
                "bytes": 500,
                "bytes_to_fetch": 0,
                "bytes_to_copy": 0,
            },
        ],
        "bytes_to_fetch": 1020,
        "bytes_to_copy": 0,
        "bytes_to_reserve": plan.bytes_to_reserve,
        "bytes_free": 10_000,
        "bytes_quota": None,
        "fits": True,
        "evictions": [{"resource": "hf://acme/old@main", "snapshot": "old-snap", "bytes": 77}],
        "images": [],
    }


def test_json_is_json_with_the_event_first() -> None:
    for plan in (FetchPlan((), bytes_free=0), FetchPlan((FIRST,), bytes_free=5, fits=False)):
        decoded = json.loads(json.dumps(plan.as_json()))
        assert decoded == plan.as_json()
        assert next(iter(decoded)) == "event"
        assert decoded["fits"] is plan.fits


@pytest.mark.parametrize(
    ("digest", "linkable"),
    [
        (None, False),
        (Digest("sha256", "a" * 64), True),
        (Digest("git-sha1", "a" * 40), False),
        (Digest("md5", "a" * 32), False),
        (Digest("blake3", "a" * 64), False),
    ],
    ids=str,
)
def test_a_claimed_digest_is_not_possession(digest: Digest | None, linkable: bool) -> None:
    assert may_link(digest) is linkable
