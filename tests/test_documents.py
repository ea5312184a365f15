"""The documents say what is so: numbers and codes as in the code, files that exist, examples that run."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from dataclasses import fields
from inspect import CO_COROUTINE
from pathlib import Path
from typing import Any

import pytest

import fetcher
from fetcher.cache.steps import STEPS
from fetcher.config import Settings
from fetcher.errors import ERROR_CLASSES

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(CHECKOUT.glob("*.md")) + sorted(CHECKOUT.glob("docs/*.md")) + [CHECKOUT / "benchmarks/README.md"]


def _rows(document: str, columns: str) -> list[list[str]]:
    """Cells of the table of ``document`` whose head is ``columns``."""
    text = (CHECKOUT / document).read_text()
    body = text.split(f"\n{columns}\n", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in body.splitlines()[1:]]


def test_defaults_are_those_of_the_settings() -> None:
    defaults = {field.name: field.default for field in fields(Settings)}
    stated = {
        setting: float(default) for _, setting, default in _rows("docs/SEMANTICS.md", "| what | setting | default |")
    }
    assert stated == {setting: defaults.get(setting) for setting in stated}


def test_exit_codes_are_those_of_the_errors() -> None:
    stated = [(int(code), kind) for code, kind, _ in _rows("docs/SEMANTICS.md", "| exit | kind | what happened |")]
    assert stated == [(error.exit_code, error.kind) for error in ERROR_CLASSES]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert not [target for target in targets if not (document.parent / target).exists()]


@pytest.mark.parametrize("document", ["docs/ARCHITECTURE.md", "docs/SECURITY.md"])
def test_files_that_a_document_names_exist(document: str) -> None:
    named = re.findall(r"`([\w/]+(?:\.py|/))`", (CHECKOUT / document).read_text())
    assert len(named) > 30
    assert not [name for name in named if not (CHECKOUT / name).exists() and not (CHECKOUT / "fetcher" / name).exists()]


def test_every_room_is_in_the_architecture() -> None:
    text = (CHECKOUT / "docs/ARCHITECTURE.md").read_text()
    rooms = [f"{path.name}/" if path.is_dir() else path.name for path in (CHECKOUT / "fetcher").iterdir()]
    rooms = [
        room
        for room in rooms
        if room.endswith((".py", "/")) and room not in ("__pycache__/", "__main__.py", "schemas/")
    ]
    assert not [room for room in rooms if f"`{room}`" not in text]


def test_examples_of_the_semantics_run(hub: Any) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (CHECKOUT / "docs/SEMANTICS.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= 4
    names: dict[str, Any] = {"fetcher": fetcher, "hub": hub}
    for block in blocks:
        code = compile(block, "docs/SEMANTICS.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(code, names)
        if code.co_flags & CO_COROUTINE:
            asyncio.run(outcome)


def test_the_example_for_tests_of_users_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (CHECKOUT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "fetcher.testing" in block]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    # All that the text around it promises.
    assert {"hub", "s3", "registry", "market"} <= names.keys()


def test_documents_shown_to_programs_are_read() -> None:
    resources, market = re.findall(r"^```jsonc\n(.*?)^```", (CHECKOUT / "docs/MACHINE.md").read_text(), re.M | re.S)
    job = fetcher.parse_job({"ops": [{"id": "run", "args": {"resources": json.loads(resources)}}]})
    assert len(job.mounts) == 5 and not job.deferred
    found = fetcher.parse_market(market)
    assert [item.kind for item in found.resources] == ["HF", "S3", "Ollama"]
    assert not [item for item in (*found.resources, *found.images) if item.fault]


def test_every_step_is_in_the_format() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "FORMAT.md").read_text()
    assert [step for step in STEPS if f"`{step}`" not in text] == []
