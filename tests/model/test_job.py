"""Job Definitions: real ones are read, wrong ones are told every fault with its place, no secret is ever told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.errors import ResourceError
from fetcher.model.job import parse_job, parse_resource
from fetcher.model.json_text import FAULTS_MAX
from fetcher.model.resource import FILES_MAX, HF
from fetcher.model.secret import Secret

AT = "$.ops[0].args.resources"

TINY_LLAMA = {
    "version": "0.1",
    "meta": {"trigger": "cli"},
    "type": "container",
    "ops": [
        {
            "id": "huggingface",
            "args": {
                "cmd": ["ls", "/data-models"],
                "gpu": True,
                "image": "ubuntu",
                "resources": [{"type": "HF", "repo": "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "target": "/data-models/"}],
            },
            "type": "container/run",
        }
    ],
}
"""The example of the public documentation."""


def job(*resources: object, **op: object) -> dict[str, Any]:
    """A Job Definition of one op."""
    return {"ops": [{"id": "run", "type": "container/run", "args": {"image": "x", "resources": list(resources)}, **op}]}


def hf(**fields: object) -> dict[str, object]:
    """A right HF resource, with some fields changed; None takes one out."""
    item = {"type": "HF", "repo": "acme/tiny", "target": "/data", **fields}
    return {name: value for name, value in item.items() if value is not None}


def faults(document: object) -> dict[str, str]:
    """JSON path → message of each fault; the error must agree with itself."""
    with pytest.raises(ResourceError) as caught:
        parse_job(document)  # type: ignore[arg-type]
    error = caught.value
    assert error.exit_code == 10
    assert error.at == error.faults[0].at
    assert all(fault.message in str(error) for fault in error.faults)
    places = [fault.at for fault in error.faults]
    assert len(set(places)) == len(places), places
    return {fault.at: fault.message for fault in error.faults}


# --- what is right


@pytest.mark.parametrize(
    "form", [lambda value: value, json.dumps, lambda value: json.dumps(value).encode()], ids=["object", "text", "bytes"]
)
def test_the_public_example(form: Any) -> None:
    (mount,) = parse_job(form(TINY_LLAMA)).mounts
    assert (mount.op, mount.at, mount.target, mount.read_only) == ("huggingface", f"{AT}[0]", "/data-models", True)
    assert mount.resource == HF("TinyLlama/TinyLlama-1.1B-Chat-v1.0")


def test_every_field() -> None:
    (mount,) = parse_job(job(hf(revision="refs/pr/1", files=["b", "a", "b"], accessToken=" hf_x "))).mounts
    expected = HF("acme/tiny", revision="refs/pr/1", files=("a", "b"), token=Secret("hf_x"))
    assert mount.resource == expected


@pytest.mark.parametrize("absent", [{"files": []}, {"revision": ""}, {"accessToken": ""}])
def test_empty_is_absent(absent: dict[str, object]) -> None:
    (mount,) = parse_job(job({**hf(), **absent})).mounts
    assert mount.resource == HF("acme/tiny")


@pytest.mark.parametrize("name", ["files", "revision", "accessToken"])
def test_null_is_absent(name: str) -> None:
    (mount,) = parse_job(job({**hf(), name: None})).mounts
    assert mount.resource == HF("acme/tiny")


def test_nothing_to_mount() -> None:
    documents: list[dict[str, Any]] = [
        {"ops": []},
        {"ops": [{"id": "a"}]},
        {"ops": [{"id": "a", "args": {}}]},
        {"ops": [{"id": "volume", "type": "container/create-volume", "args": {"name": "v"}}]},
        job(),
        job("__remove-if-empty__"),
        {"ops": [{"id": "a", "args": {"resources": None}}]},
    ]
    for document in documents:
        assert parse_job(document) == parse_job({"ops": []})


def test_unknown_fields_outside_of_resources_are_nobodys_business() -> None:
    document = job(hf(), execution={"group": "a"}, whatever=1)
    document |= {"global": {"image": "x"}, "version": "9"}
    document["ops"][0]["args"]["resouces"] = "a typing error that we can't know"
    assert len(parse_job(document).mounts) == 1


def test_nested_targets_are_mounted_outermost_first() -> None:
    document = job(hf(target="/a/b/c"), hf(target="/a"), hf(target="/a/b/"))
    assert [mount.target for mount in parse_job(document).mounts] == ["/a", "/a/b", "/a/b/c"]


def test_ops_keep_their_order_and_may_share_targets() -> None:
    document = {"ops": [job(hf(target="/x/y"))["ops"][0], {**job(hf(target="/x"))["ops"][0], "id": "second"}]}
    assert [(mount.op, mount.target) for mount in parse_job(document).mounts] == [("run", "/x/y"), ("second", "/x")]


# --- what can't be known yet


@pytest.mark.parametrize(
    ("item", "word"),
    [
        (hf(repo="%%ops.story.results.repo%%"), "op story"),
        (hf(target="/x/%%ops.story.results.slug%%"), "op story"),
        (hf(revision="%%global.variables.REVISION%%"), "%%global.variables.REVISION%%"),
        (hf(files=["a", "%%ops.story.results.files%%"]), "op story"),
        (hf(accessToken="%%global.variables.TOKEN%%"), "accessToken"),
        (hf(type="%%global.variables.TYPE%%"), "filled in"),
        ({"__spread__": "%%ops.story.results.list%%"}, "op story"),
        ({"__spread__": "%%ops.story.results.list%%", "chunked": True}, "op story"),
        ("%%ops.story.results.one%%", "op story"),
    ],
)
def test_literals_defer_a_resource(item: object, word: str) -> None:
    resources = parse_job(job(hf(target="/first"), item))
    assert len(resources.mounts) == 1
    (deferred,) = resources.deferred
    assert (deferred.op, deferred.at) == ("run", f"{AT}[1]")
    assert word in deferred.reason


def test_a_deferred_resource_is_judged_as_far_as_it_is_known() -> None:
    found = faults(job(hf(repo="%%ops.a.results.b%%", target="relative", oops=1)))
    assert set(found) == {f"{AT}[0].target", f"{AT}[0].oops"}


@pytest.mark.parametrize("spread", ["not a literal", 3, None, [hf()]])
def test_a_spread_of_anything_else_is_a_fault(spread: object) -> None:
    assert set(faults(job({"__spread__": spread}))) == {f"{AT}[0].__spread__"}


# --- what is wrong


def test_all_faults_at_once_each_at_its_place() -> None:
    document = {
        "ops": [
            {
                "id": "run",
                "args": {
                    "resources": [
                        hf(repo="", target="data", allowWrite=True),
                        {"type": "S3", "url": "https://host/x", "target": "/s3"},
                        {"type": "Ollama", "model": "gemma3:4b"},
                        {"type": "Torrent", "target": "/t"},
                        {"repo": "acme/tiny", "target": "/u"},
                        hf(repo=None, target=None, revision="a b", files=["../up", "ok", 3], accessToken="a b"),
                        7,
                    ]
                },
            },
            "not an op",
            {"id": "run", "args": []},
        ]
    }
    assert set(faults(document)) == {
        f"{AT}[0].repo",
        f"{AT}[0].target",
        f"{AT}[0].allowWrite",
        f"{AT}[1].type",
        f"{AT}[2].type",
        f"{AT}[3].type",
        f"{AT}[4].type",
        f"{AT}[5].repo",
        f"{AT}[5].target",
        f"{AT}[5].revision",
        f"{AT}[5].files[0]",
        f"{AT}[5].files[2]",
        f"{AT}[5].accessToken",
        f"{AT}[6]",
        "$.ops[1]",
        "$.ops[2].args",
        "$.ops[2].id",
    }


def test_a_flood_of_faults_is_bounded() -> None:
    with pytest.raises(ResourceError) as caught:
        parse_job(job(*[hf(repo="", target="/proc", revision=" ") for _ in range(FAULTS_MAX - 10)]))
    assert len(caught.value.faults) == FAULTS_MAX


def _hint(document: object) -> str:
    with pytest.raises(ResourceError) as caught:
        parse_job(document)  # type: ignore[arg-type]
    (fault,) = caught.value.faults
    return f"{fault.message}; {fault.hint}"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (hf(revison="x"), "did you mean revision?"),
        (hf(AccessToken="x"), "did you mean accessToken?"),
        (hf(url="acme/tiny"), "did you mean repo?"),
        (hf(allowWrite=True), "the fields are type, repo, target"),
        ({"type": "S3"}, "S3 resources are not yet supported"),
        ({"type": "Ollama"}, "Ollama resources are not yet supported"),
        ({"type": "hf"}, "unknown type hf; the types are HF, S3 and Ollama"),
        ({"type": ["HF"]}, "unknown type a list; the types are HF, S3 and Ollama"),
        (hf(target="/proc/1"), "kernel"),
        (hf(target="/"), "container's root"),
        (hf(target="/a/../b"), "'..'"),
        (hf(repo="datasets/acme/rows"), "models only"),
        (hf(repo=5), "must be a text, not a number"),
        (hf(repo={}), "must be a text, not an object"),
        (hf(repo="a\ud800/b"), "surrogate"),
        (hf(files=["\ud800"]), "surrogate"),
        (hf(files="*.json"), "files must be a list, not a text"),
        (hf(files=["x"] * (FILES_MAX + 1)), "glob"),
        (hf(accessToken=True), "must be a text, not a boolean"),
        (True, "must be an object, not a boolean"),
        ("a text", "must be an object, not a text"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_fault_says_what_would_be_right(item: object, words: str) -> None:
    assert words in _hint(job(item))


def test_two_resources_on_one_target() -> None:
    found = faults(job(hf(target="/data/x"), hf(repo="acme/other", target="//data/./x/")))
    assert found == {f"{AT}[1].target": f"target /data/x is also the target of {AT}[0]"}


def test_a_shared_target_is_seen_among_other_faults() -> None:
    assert set(faults(job(hf(repo=""), hf()))) == {f"{AT}[0].repo", f"{AT}[1].target"}


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "$"),
        ("3", "$"),
        ("null", "$"),
        ({}, "$.ops"),
        ({"ops": None}, "$.ops"),
        ({"ops": {}}, "$.ops"),
        ({"ops": "x"}, "$.ops"),
        ({"ops": [None]}, "$.ops[0]"),
        ({"ops": [{"id": "a", "args": 3}]}, "$.ops[0].args"),
        ({"ops": [{"id": "a", "args": {"resources": {}}}]}, AT),
        ({"ops": [{"id": "a", "args": {"resources": "%%ops.b.results.c%%"}}]}, AT),
        ({"ops": [{"args": {"resources": [hf()]}}]}, "$.ops[0].id"),
        ({"ops": [{"id": "", "args": {"resources": [hf()]}}]}, "$.ops[0].id"),
        ({"ops": [{"id": 3}]}, "$.ops[0].id"),
        ({"ops": [{"id": "a"}, {"id": "a"}]}, "$.ops[1].id"),
        (job(hf(), type="container/create-volume"), AT),
        ("{", "$"),
        ('{"ops": [], "ops": []}', "$.ops"),
    ],
)
def test_shapes(document: object, place: str) -> None:
    assert set(faults(document)) == {place}


# --- what must never be told


@pytest.mark.parametrize(
    "where", ["accessToken", "access_token", "repo", "revision", "target", "files", "type", "op", "literal"]
)
def test_no_token_in_any_message(where: str) -> None:
    token = "hf_ThisMustNeverBeSeenAnywhere"
    item: dict[str, object] = hf(oops=1)
    if where == "files":
        item["files"] = [f"../{token}"]
    elif where == "literal":
        item["accessToken"] = f"%%{token}%%"
    elif where != "op":
        item[where] = token + (" x\n" if where == "accessToken" else "/../a")
    document = job(item)
    if where == "op":
        document["ops"] = [document["ops"][0] | {"id": token}] * 2
    with pytest.raises(ResourceError) as caught:
        parse_job(document)
    error = caught.value
    assert "NeverBeSeen" not in f"{error} {error.hint} {error.at} {error.resource} {error.faults!r}"


def test_a_literal_in_a_token_is_not_quoted() -> None:
    resources = parse_job(job(hf(accessToken="hunter2%%global.variables.X%%hunter2")))
    assert "hunter2" not in repr(resources)


def test_parsed_tokens_are_hidden() -> None:
    assert "hunter2" not in repr(parse_job(job(hf(accessToken="hunter2"))))


# --- whatever comes

_ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["HF", "S3", "/data", "acme/tiny", "%%ops.a.results.b%%"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "repo",
                    "target",
                    "files",
                    "revision",
                    "accessToken",
                    "id",
                    "args",
                    "resources",
                    "__spread__",
                    "x",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.one_of(_ANY, _ANY.map(lambda item: job(item)), _ANY.map(lambda ops: {"ops": ops})))
def test_any_document_is_read_or_explained(document: object) -> None:
    for form in (document, json.dumps(document)):
        try:
            parse_job(form)  # type: ignore[arg-type]
        except ResourceError as caught:
            error = caught
        else:
            continue
        assert error.faults
        assert all(fault.at.startswith("$") and fault.message for fault in error.faults)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_explained(document: bytes) -> None:
    with pytest.raises(ResourceError):
        parse_job(document)


# --- a single resource


def test_a_single_resource() -> None:
    assert parse_resource({"type": "HF", "repo": "acme/tiny"}) == HF("acme/tiny")
    assert parse_resource(hf(files=["a"])) == HF("acme/tiny", files=("a",))


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"type": "HF"}, "$.repo"),
        ({}, "$.type"),
        (hf(repo="%%ops.a.results.b%%"), "$.repo"),
        (hf(target="x"), "$.target"),
    ],
)
def test_a_wrong_single_resource(document: Mapping[str, object], place: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_resource(document)
    assert caught.value.at == place


def test_a_document_with_a_thousand_and_one_resources_is_refused() -> None:
    resources = [{"type": "HF", "repo": "acme/tiny", "target": f"/d/{number}"} for number in range(1001)]
    ops = [{"id": "a", "args": {"resources": resources[:600]}}, {"id": "b", "args": {"resources": resources[600:]}}]
    with pytest.raises(ResourceError, match="more than 1000 resources"):
        parse_job({"ops": ops})
    assert len(parse_job({"ops": [{"id": "a", "args": {"resources": resources[:1000]}}]}).mounts) == 1000
