"""YAML of strangers: the values that JSON would have given, within the bounds of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fetcher.errors import Fault, ResourceError
from fetcher.model import yaml_text
from fetcher.model.document import parse_document
from fetcher.model.job import parse_job
from fetcher.model.json_text import DEPTH_MAX, FAULTS_MAX, TEXT_BYTES_MAX
from fetcher.model.resource import HF, S3, Ollama

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc -:#", max_size=4), inner, max_size=4),
    max_leaves=20,
)

JOB = """
# a comment, as people write them
version: "0.1"
type: container
global:
  variables: &shared {MODEL: "gemma3:4b", REVISION: 2024-05-01}
ops:
  - id: run
    type: container/run
    args:
      cmd: [ls, /data]
      gpu: yes
      resources:
        - type: HF
          repo: acme/tiny
          revision: 2024-05-01
          files: [a.bin, 1_0.bin, 0x1F]
          target: /data
        - {type: Ollama, model: "%%global.variables.MODEL%%"}
        - &s3
          type: S3
          url: https://host/prefix
          target: /s3
          allowWrite: true
"""


@pytest.fixture(params=["C", "Python"], autouse=True)
def _either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML's parser in C is there where it was built so; both must give the same."""
    loader = yaml.SafeLoader if request.param == "Python" else yaml.CSafeLoader
    monkeypatch.setattr(yaml_text, "_LOADER", loader)


def fault(text: str | bytes) -> str:
    """The one fault of ``text``: place, message and hint."""
    with pytest.raises(ResourceError) as caught:
        parse_document(text, "the document")
    (found,) = caught.value.faults
    return f"{found.at}: {found.message}; {found.hint}"


@pytest.mark.parametrize("form", [str, str.encode, lambda text: "\ufeff" + text], ids=["text", "bytes", "mark"])
def test_a_job_in_yaml(form: type[str]) -> None:
    resources = parse_job(form(JOB))
    assert {mount.target: mount.resource for mount in resources.mounts} == {
        "/data": HF("acme/tiny", revision="2024-05-01", files=("0x1F", "1_0.bin", "a.bin")),
        "/root/.ollama/models": Ollama.of("gemma3:4b"),
        "/s3": S3.at("https://host/prefix"),
    }


@given(_JSON)
def test_what_json_says_yaml_says(value: object) -> None:
    for text in (
        yaml.safe_dump(value, allow_unicode=True, width=1000),
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=False),
    ):
        expected = json.loads(json.dumps(value))
        assert yaml_text.parse_yaml(text, not_json=_FAULT) == expected


_FAULT = Fault("$", "not JSON")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: ", None),
        ("a: ~", None),
        ("a: Null", None),
        ("a: TRUE", True),
        ("a: false", False),
        ("a: yes", "yes"),
        ("a: Off", "Off"),
        ("a: 12", 12),
        ("a: -0.5e3", -500.0),
        ("a: 1e999", "1e999"),
        ("a: 012", "012"),
        ("a: +1", "+1"),
        ("a: .5", ".5"),
        ("a: .inf", ".inf"),
        ("a: .nan", ".nan"),
        ("a: NaN", "NaN"),
        ("a: 1_000", "1_000"),
        ("a: 0x1F", "0x1F"),
        ("a: 12:30:00", "12:30:00"),
        ("a: 2024-05-01", "2024-05-01"),
        ("a: 2024-05-01T00:00:00Z", "2024-05-01T00:00:00Z"),
        ("a: '12'", "12"),
        ("a: !!str 12", "12"),
        ("a: ! 12", "12"),
        ("a: =", "="),
        ("a: |\n  two\n  lines\n", "two\nlines\n"),
        ("a: [1, 2,]", [1, 2]),
        ("{a: b}", "b"),
        ('{"a": 1,}', 1),
        ("? a\n: b", "b"),
    ],
)
def test_plain_words(text: str, value: object) -> None:
    assert parse_document(text, "the document") == {"a": value}


@pytest.mark.parametrize("name", ["1", "true", "null", "2024-05-01", "1.5"])
def test_names_are_texts(name: str) -> None:
    assert parse_document(f"{name}: x", "the document") == {name: "x"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ops: [", "neither JSON nor YAML: "),
        ("a: b: c", "at line 1, column 5"),
        ("a:\n\t- b", "at line 2, column 1"),
        ("a: %%ops.b.results.c%%", "at line 1, column 4; put a literal in quotes"),
        ("a: 'b", "at line "),
        ('{"ops": [', "not JSON: Expecting value at line 1, column 10"),
        ("[1, 2", "not JSON: Expecting ',' delimiter at line 1, column 6"),
        ("a: \x00", "neither JSON nor YAML"),
        ('a: "\ud800"', "not JSON"),
        ("# nothing\n", "empty, where a document should be"),
        ("a: 1\n---\nb: 2", "a second document begins at line 2, column 1"),
        ("a: *x", "alias *x was never defined, at line 1, column 4"),
        ("a: &x [*x]", "alias *x stands for what it is in, at line 1, column 8"),
        ("a: !!python/object:os.system x", "$.a: tag tag:yaml.org,2002:python/object:os.system at line 1, column 4"),
        ("a: !mine [b]", "$.a: tag !mine at line 1"),
        ("a: !!set {b}", "only what JSON can say"),
        ("[a]: b", "a name must be a text, at line 1, column 1"),
        ("x: &x {a: 1}\ny: {<<: *x}", "merge keys are not read; write the members out"),
        ("[" * (DEPTH_MAX + 1) + "x" + "]" * (DEPTH_MAX + 1), f"more than {DEPTH_MAX} objects and lists"),
        ("a: " + "[" * 900, f"more than {DEPTH_MAX} objects and lists"),
        (" " * (TEXT_BYTES_MAX + 1), "larger than 16 MiB"),
        (b"a: \xff", "not UTF-8 at byte 3"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_faults_of_the_form(text: str | bytes, words: str) -> None:
    assert words in fault(text)


def test_doubled_names_are_faults_with_their_places() -> None:
    with pytest.raises(ResourceError) as caught:
        parse_document("a: 1\nb: [{x: 1, x: 2, x: 3}]\na: 2\n", "the document")
    assert [each.at for each in caught.value.faults] == ["$.b[0].x", "$.a"]
    with pytest.raises(ResourceError) as caught:
        parse_document("\n".join("- {a: 1, a: 2}" for _ in range(FAULTS_MAX + 5)), "the document")
    assert len(caught.value.faults) == FAULTS_MAX


def test_aliases_are_followed() -> None:
    text = "base: &b {type: HF}\nlist: [*b, &n 3, *n]\n&k name: *k\n"
    assert parse_document(text, "the document") == {
        "base": {"type": "HF"},
        "list": [{"type": "HF"}, 3, 3],
        "name": "name",
    }


@pytest.mark.parametrize(
    "form", ["[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", "{{a: {0}, b: {0}, c: {0}, d: {0}}}"]
)
def test_a_bomb_of_aliases_does_not_go_off(form: str) -> None:
    lines = ["a0: &a0 [lol]", *(f"a{n}: &a{n} {form.format(f'*a{n - 1}')}" for n in range(1, 40))]
    assert "values, those of aliases counted each time" in fault("\n".join(lines))


def test_a_long_text_repeated_often_does_not_grow() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]"
    assert "aliases repeat more than 4 MiB of text" in fault(text)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("{}[]:,-#&*!|>'\"%@` \n\t?"), max_size=40))
def test_any_text_is_read_or_explained(text: str) -> None:
    with suppress(ResourceError):
        assert parse_job(text).deferred is not None


def test_yaml_is_loaded_only_where_it_is_needed() -> None:
    program = (
        "import sys, fetcher\nfrom fetcher.model.job import parse_job\n"
        "parse_job('{\"ops\": []}')\nassert 'yaml' not in sys.modules\n"
        "parse_job('ops: []')\nassert 'yaml' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
