"""Job Definitions: real ones are read, wrong ones are told every fault with its place, no secret is ever told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.errors import ResourceError
from fetcher.model.job import parse_job, parse_resource
from fetcher.model.json_text import FAULTS_MAX
from fetcher.model.key import FILES_MAX
from fetcher.model.ollama import TARGET_DEFAULT
from fetcher.model.resource import HF, S3, Ollama
from fetcher.model.s3 import S3Location
from fetcher.model.secret import AWSKeys, Secret

AT = "$.ops[0].args.resources"
IAM = {"ACCESS_KEY_ID": "AKIAEXAMPLE", "SECRET_ACCESS_KEY": "wJalrXUtnFEMI"}

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


def s3(**fields: object) -> dict[str, object]:
    """A right S3 resource, with some fields changed; None takes one out."""
    item = {"type": "S3", "url": "https://host/prefix", "target": "/s3", **fields}
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
        (hf(revision="%%global.job%%"), "%%global.job%%"),
        (hf(files=["a", "%%ops.story.results.files%%"]), "op story"),
        (hf(accessToken="%%ops.story.results.token%%"), "accessToken"),
        (hf(type="%%globals.project%%"), "filled in"),
        (
            s3(buckets=[{"url": "https://host/x"}, {"url": "s3://bucket/%%ops.story.results.slug%%"}], url=None),
            "op story",
        ),
        (s3(IAM="%%ops.story.results.keys%%"), "IAM"),
        (s3(IAM={"ACCESS_KEY_ID": "AK", "SECRET_ACCESS_KEY": "%%ops.story.results.key%%"}), "SECRET_ACCESS_KEY"),
        ({"type": "Ollama", "model": "%%ops.story.results.model%%"}, "op story"),
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
                        {"type": "S3", "url": "ftp://host/x", "target": "/s3", "IAM": {"REGION": "a b"}},
                        {"type": "Ollama", "model": "gemma3 4b"},
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
        f"{AT}[1].url",
        f"{AT}[1].IAM.REGION",
        f"{AT}[2].model",
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
        (s3(url=None), "url is missing; name it: s3://bucket/prefix or https://host/path"),
        (s3(url=None, bucket="weights"), "for all of a bucket at Amazon write s3://weights"),
        (s3(url=""), "url is empty"),
        (s3(url="https://host/a#b"), "%23 for #"),
        (s3(url="https://user:pass@host/a"), "must not hold a user name"),
        (s3(url=["https://host/a"]), "must be a text, not a list"),
        (s3(repo="a/b"), "did you mean url?"),
        (s3(accessToken="x"), "did you mean IAM?"),
        (s3(allowwrite=True), "did you mean allowWrite?"),
        (s3(allowWrite="yes"), "must be true or false, not a text"),
        (s3(files=["../up"]), "exact names below the url"),
        (s3(files=["/a"]), "absolute path"),
        (s3(files=["a//b"]), "not a file name below the URL"),
        (s3(bucket="no bucket"), "not a bucket name"),
        (s3(buckets=[{"url": "https://host/x"}]), "url and buckets are both given"),
        (s3(url=None, bucket="b-1", buckets=[{"url": "https://host/x"}]), "bucket and buckets are both given"),
        (s3(url=None, files=["a"], buckets=[{"url": "https://host/x"}]), "files and buckets are both given"),
        (s3(url=None, buckets=[{"files": ["a"]}]), "url is missing"),
        (s3(url=None, buckets=["https://host/x"]), "must be an object, not a text"),
        (s3(buckets={}), "buckets must be a list, not an object"),
        (s3(url=None, buckets=[{"url": "https://host/x"}] * 101), "more than 100 buckets"),
        (s3(IAM="AK"), "IAM must be an object, not a text"),
        (s3(IAM={"ACCESS_KEY_ID": "AK"}), "SECRET_ACCESS_KEY is missing"),
        (s3(IAM={"secret_access_key": "AK"}), "ACCESS_KEY_ID is missing"),
        (s3(IAM={"SECRET_ACCES_KEY": ""}), "did you mean SECRET_ACCESS_KEY?"),
        (s3(IAM={"REGION": "", "region": ""}), "IAM has both REGION and region"),
        (s3(IAM=IAM | {"SESSION_TOKEN": "a", "AWS_SESSION_TOKEN": "b"}), "SESSION_TOKEN and AWS_SESSION_TOKEN differ"),
        (s3(IAM=IAM, url="https://host/x?X-Amz-Signature=1"), "keys beside a URL with a query"),
        (s3(IAM=IAM, url="https://host/x?file=a"), "leave IAM out, or the query"),
        (s3(IAM=IAM | {"ACCESS_KEY_ID": "a/b"}), "ACCESS_KEY_ID is too long, or has"),
        (s3(files=["a"], url="https://host/x?X-Amz-Signature=1"), "for one object"),
        (s3(files=["a"], url="s3://bucket/x?versionId=1"), "for one object"),
        (s3(url="s3://bucket/x?list-type=2"), "no query but versionId"),
        ({"type": "Ollama"}, "model is missing; a model is named as for ollama pull"),
        ({"type": "Ollama", "model": ""}, "model is empty"),
        ({"type": "Ollama", "model": 3}, "must be a text, not a number; put it in quotes"),
        ({"type": "Ollama", "model": "a", "allowWrite": True}, "the fields are type, model, target"),
        ({"type": "Ollama", "model": "a", "name": "a"}, "did you mean model?"),
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
        (hf(files=["x"] * (FILES_MAX + 1)), "leave files out"),
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
        ({"ops": [{"id": "a", "args": {"resources": "not a list"}}]}, AT),
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
    resources = parse_job(job(hf(accessToken="hunter2%%ops.a.results.b%%hunter2")))
    assert resources.deferred
    assert "hunter2" not in repr(resources)
    for literal in ("%%global.variables.X%%", "%%hunter2%%", "%%globals.variables.X%%"):
        assert "hunter2" not in repr(faults(job(hf(accessToken=f"hunter2{literal}hunter2"))))


def test_parsed_tokens_are_hidden() -> None:
    assert "hunter2" not in repr(parse_job(job(hf(accessToken="hunter2"), s3(IAM=dict.fromkeys(IAM, "xxxhunter2")))))


@pytest.mark.parametrize(
    "where", [*IAM, "SESSION_TOKEN", "REGION", "url", "files", "bucket", "buckets", "target", "variable"]
)
def test_no_key_in_any_message(where: str) -> None:
    key = "NeverBeSeen/hunter2"
    item = s3(IAM={**IAM, "SECRET_ACCESS_KEY": key}, oops=1)
    variables = {"MY_SECRET": key}
    if where in ("url", "bucket", "target"):
        item[where] = f"{key}\n /../ {key}"
    elif where == "files":
        item[where] = [f"../{key}", "x" * 300 + key]
    elif where == "buckets":
        item[where] = [{"url": key}, key, {key: 1}]
    elif where == "variable":
        item |= {"url": "%%global.variables.MY_SECRET%% /x", "IAM": "%%global.variables.MY_SECRET%%"}
    else:
        item["IAM"] = IAM | {where: f"{key} {key}"}
    document = job(item) | {"global": {"variables": variables}}
    with pytest.raises(ResourceError) as caught:
        parse_job(document)
    error = caught.value
    assert len(error.faults) > 1
    assert "NeverBeSeen" not in f"{error} {error.hint} {error.at} {error.resource} {error.faults!r}"


# --- S3 and Ollama


def resource(document: object) -> Any:
    (mount,) = parse_job(document).mounts  # type: ignore[arg-type]
    return mount.resource


def test_every_field_of_s3() -> None:
    iam = {**IAM, "REGION": "eu-west-1", "SESSION_TOKEN": "token"}
    (mount,) = parse_job(job(s3(files=["b", "a", "b"], bucket="weights", IAM=iam, allowWrite=True))).mounts
    keys = AWSKeys(IAM["ACCESS_KEY_ID"], Secret(IAM["SECRET_ACCESS_KEY"]), Secret("token"), "eu-west-1")
    assert mount.resource == S3.at("https://host/prefix", "a", "b", bucket="weights", keys=keys)
    assert not mount.read_only
    assert parse_job(job(s3(allowWrite=False))).mounts[0].read_only


@pytest.mark.parametrize(
    "fields",
    [
        {"files": []},
        {"bucket": ""},
        {"buckets": []},
        {"allowWrite": None},
        {"IAM": None},
        {"IAM": {}},
        {"IAM": {"REGION": "eu-west-1", "ACCESS_KEY_ID": "", "SECRET_ACCESS_KEY": ""}},
        {"files": ["__remove-if-empty__"]},
    ],
)
def test_empty_is_absent_in_s3(fields: dict[str, object]) -> None:
    assert resource(job({**s3(), **fields})) == S3.at("https://host/prefix")


@pytest.mark.parametrize("region", [None, "", " ", "undefined", "null", "Undefined"])
def test_a_region_that_nobody_gave(region: str | None) -> None:
    iam = {**IAM, "REGION": region}
    assert resource(job(s3(IAM=iam))).keys.region is None


@pytest.mark.parametrize("token", ["SESSION_TOKEN", "AWS_SESSION_TOKEN"])
def test_iam_in_either_case_and_with_either_name_of_the_token(token: str) -> None:
    upper = {**IAM, "REGION": "auto", token: "t"}
    lower = {name.lower(): value for name, value in upper.items()}
    assert resource(job(s3(IAM=upper))) == resource(job(s3(IAM=lower)))
    assert resource(job(s3(IAM=upper))).keys.session_token == Secret("t")


def test_a_fault_in_lower_case_is_told_where_it_stands() -> None:
    assert set(faults(job(s3(IAM={"access_key_id": "a,b", "secret_access_key": "x"})))) == {
        f"{AT}[0].IAM.access_key_id"
    }


def test_keys_beside_a_version_are_one_thing() -> None:
    assert resource(job(s3(url="s3://bucket/x?versionId=1", IAM=IAM))).keys.access_key_id == IAM["ACCESS_KEY_ID"]


def test_buckets_are_one_resource() -> None:
    buckets = [{"url": "https://host/a", "files": ["y", "x"]}, {"url": "s3://b-1/c", "files": []}]
    one = resource(job(s3(url=None, buckets=buckets)))
    assert one == S3((S3Location.parse("https://host/a", ("x", "y")), S3Location.parse("s3://b-1/c")))
    assert one.key("e") == resource(job(s3(url=None, buckets=buckets[::-1]))).key("e")


def test_the_order_of_files_and_equal_spellings_do_not_matter() -> None:
    key = resource(job(s3(url="https://host/a b/c", files=["x", "y"]))).key("e")
    assert key == resource(job(s3(url="https://HOST:443/a%20b/c/", files=["y", "x", "y"]))).key("e")
    assert key != resource(job(s3(url="https://host/a b/c", files=["x"]))).key("e")
    assert key != resource(job(s3(url="https://host/a+b/c", files=["x", "y"]))).key("e")


def test_a_name_with_a_comma_is_one_name() -> None:
    assert resource(job(s3(files=["a,b", "c"]))).locations[0].files == ("a,b", "c")
    assert resource(job(hf(files=["a,b", "c"]))).files == ("a,b", "c")


def test_models_with_one_target_are_one_store() -> None:
    document = job(
        {"type": "Ollama", "model": "b"},
        {"type": "Ollama", "model": "c", "target": "/elsewhere"},
        {"type": "Ollama", "model": "a:1", "target": "/root/.ollama//models/"},
        {"type": "Ollama", "model": "b:latest", "target": None},
    )
    mounts = {mount.at: mount for mount in parse_job(document).mounts}
    assert set(mounts) == {f"{AT}[0]", f"{AT}[1]"}
    assert mounts[f"{AT}[0]"].resource == Ollama.of("a:1", "b")
    assert mounts[f"{AT}[0]"].target == TARGET_DEFAULT
    assert mounts[f"{AT}[1]"].resource == Ollama.of("c")


def test_a_store_does_not_grow_beyond_bounds() -> None:
    models = [{"type": "Ollama", "model": f"m{number}"} for number in range(101)]
    assert faults(job(*models)) == {f"{AT}[100]": "more than 100 models with one target"}


@pytest.mark.parametrize("other", [hf(target=TARGET_DEFAULT), s3(target=TARGET_DEFAULT)])
def test_models_share_their_target_with_nothing_else(other: dict[str, object]) -> None:
    model = {"type": "Ollama", "model": "a"}
    words = f"target {TARGET_DEFAULT} is also the target of {AT}[0]"
    assert faults(job(model, other)) == faults(job(other, model)) == {f"{AT}[1].target": words}


@pytest.mark.parametrize("target", ["/", "/proc", "/sys/fs", "/dev/shm/x", "relative", "", "/a/../b"])
@pytest.mark.parametrize("item", [hf(), s3(), {"type": "Ollama", "model": "a"}], ids=["HF", "S3", "Ollama"])
def test_targets_nobody_may_have(item: dict[str, object], target: str) -> None:
    assert set(faults(job({**item, "target": target}))) == {f"{AT}[0].target"}


# --- whatever comes

_ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["HF", "S3", "Ollama", "/data", "acme/tiny", "s3://bucket/x", "https://host/x?a=b", "gemma3:4b"])
    | st.sampled_from(
        ["%%ops.a.results.b%%", "%%global.variables.A%%", "x%%global.variables.B%%", "__remove-if-empty__"]
    ),
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
                    "url",
                    "bucket",
                    "buckets",
                    "IAM",
                    "ACCESS_KEY_ID",
                    "secret_access_key",
                    "REGION",
                    "allowWrite",
                    "model",
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


_DOCUMENTS = st.one_of(
    _ANY,
    _ANY.map(lambda ops: {"ops": ops}),
    st.tuples(_ANY, _ANY, _ANY).map(
        lambda three: job(three[0]) | {"global": {"variables": {"A": three[1], "B": three[2]}}}
    ),
    st.tuples(
        st.sampled_from(["HF", "S3", "Ollama"]),
        st.dictionaries(st.sampled_from(["url", "repo", "model", "files", "target", "IAM", "buckets"]), _ANY),
    ).map(lambda pair: job({"type": pair[0], **pair[1]})),
)


@settings(max_examples=300)
@given(_DOCUMENTS)
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


def test_an_object_that_holds_itself_is_explained() -> None:
    endless: dict[str, Any] = {"type": "HF", "target": "/x"}
    endless["repo"] = endless["files"] = endless
    assert set(faults(job(endless))) == {f"{AT}[0].repo", f"{AT}[0].files"}
    variables: dict[str, Any] = {"A": [1]}
    variables["A"] += [variables["A"], variables["A"]]
    assert set(faults(job(hf(files="%%global.variables.A%%")) | {"global": {"variables": variables}})) == {
        f"{AT}[0].files"
    }


# --- a single resource


def test_a_single_resource() -> None:
    assert parse_resource({"type": "HF", "repo": "acme/tiny"}) == HF("acme/tiny")
    assert parse_resource(hf(files=["a"])) == HF("acme/tiny", files=("a",))
    assert parse_resource(s3(allowWrite=True)) == S3.at("https://host/prefix")
    assert parse_resource({"type": "Ollama", "model": "a"}) == Ollama.of("a")


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"type": "HF"}, "$.repo"),
        ({}, "$.type"),
        (hf(repo="%%ops.a.results.b%%"), "$.repo"),
        (hf(target="x"), "$.target"),
        (hf(repo=None, url="acme/tiny"), "$.url"),
        (s3(url=None), "$.url"),
        (s3(IAM="%%global.variables.IAM%%"), "$.IAM"),
        ({"type": "Ollama"}, "$.model"),
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


@pytest.mark.parametrize(
    "item",
    [
        {
            "type": "HF",
            "repo": "acme/hf_aTokenOfSomebody0123",
            "accessToken": "hf_aTokenOfSomebody0123",
            "target": "/m",
        },
        {"type": "HF", "repo": "acme/x", "revision": "aTokenOfSomebody0123", "accessToken": "aTokenOfSomebody0123"},
        {"type": "HF", "repo": "acme/x", "files": ["aTokenOfSomebody0123"], "accessToken": "aTokenOfSomebody0123"},
        {
            "type": "S3",
            "url": "https://models.example.org/aSecretOfSomebody0123/",
            "IAM": {"REGION": "auto", "ACCESS_KEY_ID": "AKIAX", "SECRET_ACCESS_KEY": "aSecretOfSomebody0123"},
        },
    ],
)
def test_a_credential_is_no_name(item: dict[str, Any]) -> None:
    """It would be shown, kept beside the files, and asked for in an address."""
    arguments = {"image": "x", "resources": [{"target": "/m", **item}]}
    document = {"version": "0.1", "type": "container", "ops": [{"type": "container/run", "id": "a", "args": arguments}]}
    with pytest.raises(ResourceError, match="is a credential of the document") as caught:
        parse_job(document)
    assert "OfSomebody" not in str(caught.value) + repr(caught.value.faults)
    with pytest.raises(ResourceError, match="is a credential of the document"):
        parse_resource({"target": "/m", **item})
    arguments["resources"][0].pop("accessToken" if item["type"] == "HF" else "IAM")
    parse_job(document)


def test_what_opens_nothing_may_be_a_name() -> None:
    """A key's id that is called as its bucket; a variable that names a model."""
    keys = {"REGION": "auto", "ACCESS_KEY_ID": "models-of-somebody", "SECRET_ACCESS_KEY": "aSecretOfSomebody0123"}
    resources = [
        {"type": "S3", "url": "https://store.example.org/models-of-somebody/", "target": "/a", "IAM": keys},
        {"type": "HF", "repo": "acme/bert-large-of-somebody", "target": "/b"},
    ]
    arguments = {"image": "x", "env": {"TOKEN_CLASSIFIER": "acme/bert-large-of-somebody"}, "resources": resources}
    document = {"version": "0.1", "type": "container", "ops": [{"type": "container/run", "id": "a", "args": arguments}]}
    assert len(parse_job(document).mounts) == 2
    assert parse_resource({**resources[0], "target": "/m"})
