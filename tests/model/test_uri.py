"""URIs: the grammar of docs/MACHINE.md, both ways, and a helpful answer to everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.errors import ResourceError
from fetcher.model.hf import HF, HF_KINDS, revision_fault
from fetcher.model.ollama import model_fault
from fetcher.model.resource import S3, Ollama, Resource
from fetcher.model.s3 import S3Location
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
    for candidate in (
        *(text, f"hf://{text}", f"hf://acme/tiny@{text}", f"s3://{text}", f"https://{text}", f"https://host/{text}"),
        *(f"ollama://{text}", f"docker://{text}", f"https://huggingface.co/{text}", f"https://host/x?{text}"),
        f"https://host/x,https://{text}",
    ):
        try:
            parsed = parse_uri(candidate)
        except ResourceError as caught:
            error = caught
        else:
            printed = parse_uri(parsed.uri())
            secret = isinstance(parsed, S3) and any(location.selection for location in parsed.locations)
            assert secret or printed.key("https://hub") == parsed.key("https://hub")
            assert printed.uri() == parsed.uri()
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
    assert parse_uri("hf://acme/tiny", files=["b", "a", "*.json"]) == HF("acme/tiny", files=("*.json", "a", "b"))


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
        ("https://huggingface.co/acme/tiny", "write hf://acme/tiny"),
        ("https://huggingface.co/acme/tiny/", "write hf://acme/tiny"),
        ("https://huggingface.co/gpt2", "write hf://gpt2"),
        ("https://hf.co/acme/tiny/tree/main", "write hf://acme/tiny@main"),
        ("https://huggingface.co/acme/tiny/tree/v1/onnx", "write hf://acme/tiny@v1 --file 'onnx/*'"),
        (
            "https://huggingface.co/acme/tiny/resolve/main/a/b.bin?download=true",
            "write hf://acme/tiny@main --file a/b.bin",
        ),
        ("https://huggingface.co/acme/tiny/blob/refs%2Fpr%2F1/x y", "write %20"),
        (
            "https://huggingface.co/acme/tiny/blob/refs%2Fpr%2F1/x%20y",
            "write hf://acme/tiny@refs%2Fpr%2F1 --file 'x y'",
        ),
        ("https://huggingface.co/datasets/acme/rows/raw/main/a.csv", "write hf://datasets/acme/rows@main --file a.csv"),
        ("https://huggingface.co/gpt2/resolve/main/x", "write hf://gpt2@main --file x"),
        ("https://huggingface.co/acme/tiny/discussions/1", "write hf://org/name"),
        ("https://ollama.com/library/gemma3:4b", "write ollama://gemma3:4b"),
        ("https://ollama.com/acme/own", "write ollama://acme/own"),
        ("https://ollama.com/search?q=x/y", "ollama://search"),
        ("r2://bucket/x", "write https://<account id>.r2.cloudflarestorage.com/bucket/x"),
        ("gs://bucket/x", "write https://storage.googleapis.com/bucket/x"),
        ("s3a://bucket/x", "write s3://bucket/x"),
        ("s3://no_ bucket/x", "%20"),
        ("s3://b/x", "s3://bucket/prefix"),
        ("https://host/a#b", "%23"),
        ("https://host/a,s3://", "s3://bucket/prefix"),
        ("s3://bucket/a#bucket=", "#bucket=name"),
        ("https://host/a,https://host/b#bucket=weights", "one by one"),
        ("ollama://", "ollama://[host/]"),
        ("ollama://a,b c", "%20"),
        ("ollama://a,,b", "ollama://[host/]"),
        ("docker://alpine:3", "fetcher prefetch"),
        ("docker://UPPER", "docker pull"),
    ],
)
def test_a_wrong_uri_is_told_how_to_write_it(text: str, hint: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_uri(text)
    assert hint in (caught.value.hint or "")
    assert caught.value.resource
    assert caught.value.at is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/prefix", S3.at("s3://bucket/prefix")),
        ("S3://bucket", S3.at("s3://bucket")),
        ("s3://bucket/key?versionId=abc.1", S3.at("s3://bucket/key?versionId=abc.1")),
        ("s3://nos-ai-models-qllsn32u/flux", S3.at("https://models.nosana.io/flux")),
        ("https://host/x", S3.at("https://host/x")),
        ("https://HOST:443/x", S3.at("https://host/x")),
        ("http://host:8080/x/", S3.at("http://host:8080/x/")),
        ("https://host/a+b,c", S3.at("https://host/a+b,c")),
        ("https://host/x#bucket=weights", S3.at("https://host/x", bucket="weights")),
        ("https://host/x?X-Amz-Signature=1", S3.at("https://host/x?X-Amz-Signature=1")),
        ("https://host/a,s3://bucket/b", S3((S3Location.parse("https://host/a"), S3Location.parse("s3://bucket/b")))),
        ("ollama://gemma3:4b", Ollama.of("gemma3:4b")),
        ("ollama://b,acme/a:1,hf.co/x/y", Ollama.of("b", "acme/a:1", "hf.co/x/y")),
    ],
)
def test_other_schemes(text: str, expected: Resource) -> None:
    assert parse_uri(text) == expected


_PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\\?#"), max_size=12).filter(
    lambda text: text.isprintable()
)
_HOSTS = st.sampled_from(["https://host", "http://host:81", "https://HOST:443", "s3://bucket", "https://[::1]:8443"])
_LOCATIONS = st.builds(lambda host, path: f"{host}/{path}", _HOSTS, _PATHS)


@given(
    st.lists(_LOCATIONS, min_size=1, max_size=4),
    st.sampled_from(["", "?versionId=a-1"]),
    st.sampled_from([None, "weights"]),
)
def test_locations_that_are_printed_can_be_typed(urls: list[str], query: str, bucket: str | None) -> None:
    locations = tuple(S3Location.parse(url + query) for url in urls)
    resource = S3(locations, bucket if len(locations) == 1 else None)
    parsed = parse_uri(resource.uri())
    assert parsed.key("https://s3") == resource.key("https://s3")
    assert parsed.uri() == resource.uri()


_MODEL_NAMES = st.from_regex(
    r"([a-z0-9.]{1,8}(:[0-9]{1,4})?/)?[A-Za-z0-9_-]{1,8}/[A-Za-z0-9_.-]{1,8}(:[A-Za-z0-9_.-]{1,8})?", fullmatch=True
)


@given(
    st.lists(
        st.one_of(_MODEL_NAMES, st.sampled_from(["a", "b:latest"])).filter(lambda name: model_fault(name) is None),
        min_size=1,
        max_size=4,
    )
)
def test_models_that_are_printed_can_be_typed(names: list[str]) -> None:
    resource = Ollama.of(*names)
    assert parse_uri(resource.uri()) == resource


def test_files_beside_other_uris() -> None:
    assert parse_uri("s3://bucket/x", ["b", "a,*"]) == S3.at("s3://bucket/x", "a,*", "b")
    for text, files in [
        ("ollama://a", ["x"]),
        ("s3://bucket/a,s3://bucket/b", ["x"]),
        ("https://host/x?X-Amz-Signature=1", ["x"]),
        ("s3://bucket/x", ["../x"]),
        ("s3://bucket/x", ["x"] * 10_001),
    ]:
        with pytest.raises(ResourceError) as caught:
            parse_uri(text, files)
        assert caught.value.hint


def test_all_faults_of_a_uri_at_once() -> None:
    with pytest.raises(ResourceError) as caught:
        parse_uri("hf://a--b/c@x..y", files=["../up", "ok", ""])
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/x?X-Amz-Signature=hunter2",
        "s3://hunter2@bucket/x",
        "https://host/a b?token=hunter2",
        "https://user:hunter2@host/x",
        "https://host/x?a=hunter2#b",
        "https://host:99999/x?a=hunter2",
        "https://host/x?a=hunter2,https://user:hunter2@host/y",
        "https://huggingface.co/acme/tiny?token=hunter2",
        "s3://bucket/x?X-Amz-Signature=hunter2",
        "gs://hunter2:hunter2@bucket/x?sig=hunter2",
        "docker://user:hunter2@host/x",
        "ollama://user:hunter2@host/a/b",
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


@pytest.mark.parametrize(
    "text", ["", "hf://a b", "hf://a\n/b", "hf://a/b\0", "hf://\ud800", "hf://" + "a" * 3000, "s3://" + "a" * 600_000]
)
def test_texts_that_are_no_uri(text: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_uri(text)
    assert (caught.value.resource or "").isprintable()
    assert len(str(caught.value)) < 300
