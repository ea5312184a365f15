"""The machine interface as it is written down: schemas, docs/MACHINE.md and the program agree."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator, ValidationError

from fetcher import config, schemas
from fetcher.cli.app import CLOSED_STDOUT_EXIT_CODE, COMMANDS
from fetcher.cli.prefetch import item_json
from fetcher.config import Settings
from fetcher.engine.prefetch import PrefetchItem
from fetcher.errors import ERROR_CLASSES
from fetcher.model.quantities import parse_duration_s, parse_size
from fetcher.model.resource import HF
from fetcher.plan.fetch_plan import Eviction, FetchPlan, PlannedImage, PlannedResource
from tests.cli.support import check

MACHINE = (Path(__file__).resolve().parents[2] / "docs" / "MACHINE.md").read_text()


@pytest.mark.parametrize("event", schemas.EVENTS)
def test_each_schema_is_one_and_explains_itself(event: str) -> None:
    schema = schemas.load(event)
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["event"] == {"const": event}
    assert next(iter(schema["properties"])) == "event"
    assert set(schema["required"]) == set(schema["properties"])  # absent is null, never missing
    assert schema["title"]


def test_every_schema_file_is_listed() -> None:
    folder = Path(schemas.__file__).parent
    assert {path.stem for path in folder.glob("*.json")} == set(schemas.EVENTS)
    with pytest.raises(KeyError):
        schemas.load("../errors")


def test_error_kinds_are_the_tree() -> None:
    assert schemas.load("error")["properties"]["kind"]["enum"] == [cls.kind for cls in ERROR_CLASSES]


def test_the_examples_of_the_document_are_right() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", MACHINE, re.DOTALL)
    examples = [json.loads(line) for line in block.splitlines()]
    for example in examples:
        check(example)
    for event in schemas.EVENTS:
        assert f"`{event}`" in MACHINE
    assert len({example["event"] for example in examples}) >= 10


def test_a_wrong_object_is_refused() -> None:
    with pytest.raises(ValidationError):
        check({"event": "released", "id": "x"})
    with pytest.raises(ValidationError):
        check({"event": "released", "id": "x", "dry_run": False, "extra": 1})


def test_the_exit_codes_of_the_document_are_the_tree() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", MACHINE, re.MULTILINE)
    assert {kind: int(code) for code, kind in rows} == {cls.kind: cls.exit_code for cls in ERROR_CLASSES}
    assert f"\n| {CLOSED_STDOUT_EXIT_CODE} | |" in MACHINE


def test_the_commands_of_the_document_are_there() -> None:
    listed = re.findall(r"^fetcher ([a-z]+)", MACHINE, re.MULTILINE)
    assert listed == [
        *("get", "job", "prefetch", "ls", "inspect", "df", "verify", "pin", "unpin", "rm", "prune"),
        *("release", "renew", "doctor", "cache", "completion"),
    ]
    assert set(listed) == set(COMMANDS)


def test_every_setting_is_documented_with_its_default() -> None:
    known = {field.name: field.default for field in fields(Settings)}
    documented: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[A-Z0-9_`, ]+`) \| ([^|]*) \|", MACHINE, re.MULTILINE):
        found = re.findall(r"`([A-Z0-9_]+)`", names)
        values = re.findall(r"`([^`]+)`", defaults)
        for index, name in enumerate(found):
            documented[name] = values[min(index, len(values) - 1)] if values else defaults
    assert {config.variable(name) for name in known} <= set(documented)
    for name, default in known.items():
        text = documented[config.variable(name)]
        if default is None:
            assert text.startswith(("none", "the cache"))
        elif name.endswith("_s") and not name.endswith("_per_s"):
            assert parse_duration_s(text) == default
        elif "_bytes" in name:
            assert parse_size(text) == default
        elif isinstance(default, int) and not isinstance(default, bool):
            assert int(text) == default
        elif isinstance(default, str):
            assert text == default


@pytest.mark.parametrize(
    ("status", "size", "reason"),
    [("done", 5, None), ("hit", 5, None), ("failed", None, "gone"), ("skipped", None, "x")],
)
def test_a_summary_fits_its_schema(status: Any, size: int | None, reason: str | None) -> None:
    item = item_json(PrefetchItem("hf://acme/tiny@main", "HF", status, size, reason, "$[0]"))
    check({"event": "summary", "items": [item]})
    check({"event": "summary", "items": []})
    with pytest.raises(ValidationError):
        check({"event": "summary", "items": [item | {"status": "fetched"}]})


def test_a_plan_fits_its_schema() -> None:
    uri = HF("acme/tiny").uri()
    hit = PlannedResource(uri, None, (), snapshot_id="ab", bytes_total=5)
    images = (
        PlannedImage("docker.io/acme/app:1", "present", 42),
        PlannedImage("docker.io/acme/app:2", "pull"),
        PlannedImage("docker.io/acme/app:3", "skip", reason="no container engine answers"),
    )
    check(FetchPlan((hit,), 10, (Eviction("cd", uri, 5),), fits=False, images=images).as_json())
    with pytest.raises(ValidationError):
        check(FetchPlan((hit,), 10, images=(PlannedImage("x", cast(Any, "fetch")),)).as_json())
