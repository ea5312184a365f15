"""Every parser that eats foreign bytes, fuzzed; and each family of cases shown to find a fault that was planted.

A bounded run with all other tests; ``FETCHER_TEST_LONG=1`` (``make torture``) does a hundred times as much.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import answers, files
from tests.fuzz.families import FAMILIES
from tests.fuzz.harness import CORPUS, Family, Found, Plant, check, fuzz
from tests.fuzz.mutating import CASE_BYTES_MAX, HOSTILE_NUMBERS, HOSTILE_TEXTS, written

LONG = os.environ.get("FETCHER_TEST_LONG") == "1"
CASES = 40_000 if LONG else 400
PLANT_CASES = 20_000
PLANTS = [(family, plant) for family in FAMILIES for plant in family.plants]


@pytest.fixture(autouse=True)
def no_loop_left() -> Iterator[None]:
    yield
    answers.close()
    files.close()


@pytest.mark.timeout(1800 if LONG else 60)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_fuzzed(family: Family, seed: int) -> None:
    ended = fuzz(family, round(CASES * family.weight), seed)
    print(f"{family.name}: {sum(ended.values())} cases, {ended['value']} accepted, {ended['error']} refused by type")
    assert sum(ended.values())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_examples_are_good(family: Family) -> None:
    """Fuzzing begins with what is accepted: else it would not get beyond the first line of a parser."""
    assert "value" in {check(family, example) for example in family.examples}


@pytest.mark.parametrize(
    ("family", "path"),
    [(family, path) for family in FAMILIES for path in family.corpus],
    ids=lambda value: value.name if isinstance(value, Family | Path) else None,
)
def test_what_failed_once(family: Family, path: Path) -> None:
    check(family, path.read_bytes())


def test_the_corpus_is_of_families_and_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= {family.name for family in FAMILIES}
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < 200_000


@pytest.mark.parametrize(("family", "plant"), PLANTS, ids=[f"{family.name}: {plant.name}" for family, plant in PLANTS])
def test_planted_faults_are_found(family: Family, plant: Plant, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.plant(monkeypatch)
    with pytest.raises(Found):
        fuzz(family, PLANT_CASES, seed)


# --- what is made from nothing, where mutations never come

_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
    | st.sampled_from(HOSTILE_TEXTS) | st.sampled_from(HOSTILE_NUMBERS)
)  # fmt: skip


def _cases(family: Family) -> st.SearchStrategy[bytes]:
    if family.grammar != "json":
        texts = st.lists(st.sampled_from([*family.words, *(t.encode("utf-8", "surrogatepass") for t in HOSTILE_TEXTS)]))
        return st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | texts.map(b"".join)
    names = sorted(_names(family)) or ["a"]
    keys = st.sampled_from(names) | st.text(max_size=5)
    values = st.recursive(
        _LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=6), max_leaves=30
    )
    return values.map(lambda value: written(value).encode("utf-8", "surrogatepass"))


def _names(family: Family) -> set[str]:
    """All names of objects in the examples of a family."""
    import json

    found: set[str] = set()
    for example in family.examples:
        json.loads(example, object_pairs_hook=lambda pairs: found.update(name for name, _ in pairs) or dict(pairs))
    return found


@pytest.mark.timeout(1800 if LONG else 60)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_anything_at_all(family: Family) -> None:
    @settings(max_examples=500 if LONG else 25)
    @given(_cases(family))
    def anything(case: bytes) -> None:
        check(family, case[:CASE_BYTES_MAX])

    anything()
