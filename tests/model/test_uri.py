"""URIs: the grammar of docs/MACHINE.md, both ways, and a helpful answer to everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.errors import ResourceError
from fetcher.model.resource import HF, HF_KINDS, revision_fault
from fetcher.model.uri import parse_uri

_NAMES = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda name: "--" not in name and ".." not in name
)
_OWNERS = _NAMES.filter(lambda name: name not in HF_KINDS)
_REPOS = st.one_of(_OWNERS, st.tuples(_OWNERS, _NAMES).map("/".join))
_REVISIONS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    # Blanks of Unicode are legal in git and unusual enough.
    lambda text: revision_fault(text) is None
)


@given(_REPOS, st.sampled_from(HF_KINDS), st.one_of(st.none(), _REVISIONS))
def test_what_is_printed_can_be_typed(repo: str, kind: str, revision: str | None) -> None:
    resource = HF(repo, kind=kind, revision=revision)  # type: ignore[arg-type]
    parsed = parse_uri(resource.uri())
    assert parsed.key("https://hub") == resource.key("https://hub")
    assert parsed.uri() == resource.uri()


@given(st.text(max_size=40))
def test_any_text_is_a_resource_or_an_explained_error(text: str) -> None:
    for candidate in (text, f"hf://{text}", f"hf://acme/tiny@{text}"):
        try:
            parsed = parse_uri(candidate)
        except ResourceError as caught:
            error = caught
        else:
            assert parse_uri(parsed.uri()).key("https://hub") == parsed.key("https://hub")
            continue
        assert error.message
        assert error.resource is not None
        assert error.faults


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://acme/tiny", HF("acme/tiny")),
        ("HF://acme/tiny", HF("acme/tiny")),
        ("hf://gpt2", HF("gpt2")),
        ("hf://models/acme/tiny", HF("acme/tiny")),
        ("hf://datasets/acme/rows@v1", HF("acme/rows", kind="datasets", revision="v1")),
        ("hf://datasets/squad", HF("squad", kind="datasets")),
        ("hf://spaces/acme/demo", HF("acme/demo", kind="spaces")),
        ("hf://acme/tiny@refs%2Fpr%2F1", HF("acme/tiny", revision="refs/pr/1")),
        ("hf://acme/tiny@a%2fb", HF("acme/tiny", revision="a/b")),
        ("hf://acme/tiny@50%25", HF("acme/tiny", revision="50%")),
        ("hf://acme/tiny@a@b", HF("acme/tiny", revision="a@b")),
        ("hf://acme/tiny@" + "0" * 40, HF("acme/tiny", revision="0" * 40)),
    ],
)
def test_examples(text: str, expected: HF) -> None:
    assert parse_uri(text) == expected


def test_files_stand_beside_the_uri() -> None:
    assert parse_uri("hf://acme/tiny", files=["b", "a", "*.json"]).files == ("*.json", "a", "b")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("hf://acme/tiny/weights.bin", "write hf://acme/tiny --file weights.bin"),
        ("hf://acme/tiny/onnx/x@v1", "write hf://acme/tiny@v1 --file onnx/x"),
        ("hf://datasets/acme/rows/a.csv", "write hf://datasets/acme/rows --file a.csv"),
        ("hf://acme/tiny@v1/weights.bin", "--file"),
        ("hf://acme/tiny@refs/pr/1", "%2F"),
        ("hf://acme/tiny/", "slash at the end"),
        ("acme/tiny", "hf://acme/tiny"),
        ("acme/tiny@v1", "hf://acme/tiny@v1"),
        ("hf:acme/tiny", "hf://"),
        ("hf://acme/tiny@", "leave out @revision"),
        ("hf://acme/tiny@%2", "leave out @revision"),
        ("hf://acme/tiny@%ff", "leave out @revision"),
        ("hf://", "org/name"),
        ("hf://datasets/", "org/name"),
        ("ftp://host/x", "hf://"),
    ],
)
def test_a_wrong_uri_is_told_how_to_write_it(text: str, hint: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_uri(text)
    assert hint in (caught.value.hint or "")
    assert caught.value.resource


@pytest.mark.parametrize(
    "text", ["s3://bucket/prefix", "https://host/x", "http://host/x", "ollama://gemma3:4b", "docker://alpine"]
)
def test_schemes_of_later_versions_say_so(text: str) -> None:
    with pytest.raises(ResourceError, match="not yet supported") as caught:
        parse_uri(text)
    assert caught.value.exit_code == 10


def test_all_faults_of_a_uri_at_once() -> None:
    with pytest.raises(ResourceError) as caught:
        parse_uri("hf://a--b/c@x..y", files=["../up", "ok", ""])
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/x?X-Amz-Signature=hunter2",
        "s3://hunter2@bucket/x",
        "hf://hf_hunter2hunter2hunter2/x y",
        "hf://hf_hunter2hunter2hunter2--x",
        "hf_hunter2hunter2hunter2",
    ],
)
def test_no_credential_in_an_error(text: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_uri(text)
    error = caught.value
    assert "hunter2" not in f"{error} {error.hint} {error.resource} {error.at} {error.faults}"


@pytest.mark.parametrize("text", ["", "hf://a b", "hf://a\n/b", "hf://a/b\0", "hf://\ud800", "hf://" + "a" * 3000])
def test_texts_that_are_no_uri(text: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_uri(text)
    assert (caught.value.resource or "").isprintable()
    assert len(str(caught.value)) < 300
