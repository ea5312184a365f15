"""Market lists: every shape that was seen, items that fail alone, and a record of them without secrets."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.errors import ResourceError
from fetcher.model.image import Image
from fetcher.model.market import ITEMS_MAX, MarketItem, MarketList, market_fault, parse_market
from fetcher.model.resource import HF, S3, Ollama, Resource
from fetcher.model.s3 import S3Location
from fetcher.model.secret import AWSKeys, Login, Secret

ENDPOINT = "https://origin:443"
SEEN: dict[str, list[object]] = {
    "required_images": [
        "registry.hub.docker.com/nosana/stats:v1.0.4",
        {"name": "ghcr.io/org/model:v2", "server": "ghcr.io", "username": "u", "password": "pAssw0rd"},
    ],
    "required_remote_resources": [
        {"type": "S3", "url": "https://models.nosana.io/stable-diffusion/dreamshaper/8"},
        {
            "type": "S3",
            "url": "https://host/private",
            "files": ["a"],
            "IAM": {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "wJalrXUtn"},
        },
        {"type": "S3", "buckets": [{"url": "https://host/x", "files": ["a"]}, {"url": "s3://bucket/y"}]},
        {"type": "HF", "url": "InternScience/Agents-A1-4B"},
        {"type": "Ollama", "model": "gemma4:26b"},
    ],
}
"""The shapes of facts/nosana.md, 3.2, in one list."""


def items(*resources: object) -> tuple[MarketItem, ...]:
    return parse_market({"required_remote_resources": list(resources)}).resources


def item(resource: object) -> MarketItem:
    (found,) = items(resource)
    return found


def keys(found: MarketList) -> list[str]:
    return [each.resource.key(ENDPOINT) for each in found.resources if each.resource]


@pytest.mark.parametrize(
    "form", [lambda value: value, json.dumps, lambda value: json.dumps(value).encode()], ids=["object", "text", "bytes"]
)
def test_every_shape_that_was_seen(form: Any) -> None:
    found = parse_market(form(SEEN))
    assert [each.image for each in found.images] == [
        Image("registry.hub.docker.com/nosana/stats:v1.0.4"),
        Image("ghcr.io/org/model:v2", Login("u", Secret("pAssw0rd")), "ghcr.io"),
    ]
    aws = AWSKeys("AKIAEXAMPLE", Secret("wJalrXUtn"))
    assert [each.resource for each in found.resources] == [
        S3.at("https://models.nosana.io/stable-diffusion/dreamshaper/8"),
        S3.at("https://host/private", "a", keys=aws),
        S3((S3Location.parse("https://host/x", ("a",)), S3Location.parse("s3://bucket/y"))),
        HF("InternScience/Agents-A1-4B"),
        Ollama.of("gemma4:26b"),
    ]
    assert [each.had_credential for each in found.resources] == [False, True, False, False, False]
    assert [each.had_credential for each in found.images] == [False, True]
    assert [each.kind for each in found.resources] == ["S3", "S3", "S3", "HF", "Ollama"]
    assert found.resources[3].label == "hf://InternScience/Agents-A1-4B@main"
    assert found.resources[3].at == "$.required_remote_resources[3]"
    assert not [each.fault for each in found.resources if each.fault]
    assert not [each.fault for each in found.images if each.fault]


@pytest.mark.parametrize(
    ("written", "resource"),
    [
        ({"type": "HF", "repo": "a/b", "revision": "v1", "files": ["x"]}, HF("a/b", revision="v1", files=("x",))),
        ({"type": "HF", "repo": "a/b", "url": "a/b"}, HF("a/b")),
        ({"type": "HF", "url": "a/b", "accessToken": "t"}, HF("a/b", token=Secret("t"))),
        ({"type": "S3", "url": "https://h/x", "IAM": {"region": "undefined"}}, S3.at("https://h/x")),
        (
            {"type": "S3", "url": "https://h/x", "bucket": "weights", "files": []},
            S3.at("https://h/x", bucket="weights"),
        ),
        ({"type": "S3", "url": "https://h/x", "target": "/ignored", "allowWrite": True}, S3.at("https://h/x")),
        ({"type": "S3", "url": "s3://nos-ai-models-qllsn32u/x"}, S3.at("https://models.nosana.io/x")),
        ({"type": "Ollama", "model": "a", "target": None}, Ollama.of("a")),
    ],
)
def test_other_shapes_of_items(written: object, resource: Resource) -> None:
    assert item(written).resource == resource


@pytest.mark.parametrize(
    ("document", "counts"),
    [
        ({"required_images": []}, (0, 0)),
        ({"required_remote_resources": [], "required_images": None}, (0, 0)),
        ({"required_images": ["a"]}, (0, 1)),
        ({"required_remote_resources": [{"type": "Ollama", "model": "a"}]}, (1, 0)),
        ({"required_images": ["a"], "address": "x", "required_vram": 8, "jobs": {}}, (0, 1)),
    ],
)
def test_what_a_list_may_lack_and_what_else_it_may_hold(document: dict[str, object], counts: tuple[int, int]) -> None:
    found = parse_market(document)
    assert (len(found.resources), len(found.images)) == counts
    assert found.speaks_of_resources is ("required_remote_resources" in document)


def test_a_document_that_says_nothing_of_either_is_no_list() -> None:
    for document in ({}, {"required_remote_resources": None, "required_images": None}):
        with pytest.raises(ResourceError, match="no market list"):
            parse_market(document)


def test_doubles_are_dropped_and_the_first_stays() -> None:
    found = parse_market(
        {
            "required_remote_resources": [
                {"type": "HF", "url": "a/b"},
                {"type": "Ollama", "model": "x"},
                {"type": "HF", "repo": "a/b"},
                {"type": "Ollama", "model": "library/x:latest"},
                {"type": "HF", "repo": "a/b", "accessToken": "another asker"},
            ],
            "required_images": ["a", {"name": "a"}, "a:1", {"name": "a", "server": "docker.io"}],
        }
    )
    assert [each.at[-3:] for each in found.resources] == ["[0]", "[1]", "[4]"]
    assert [each.at[-3:] for each in found.images] == ["[0]", "[2]"]


# --- items that fail alone


@pytest.mark.parametrize(
    ("written", "kind", "label", "words"),
    [
        ({"type": "HF"}, "HF", "$.required_remote_resources[0]", "repo is missing"),
        ({"type": "HF", "url": "not a repo"}, "HF", "not a repo", "not a Hub repo name"),
        ({"type": "HF", "url": "a/b", "repo": "a/c"}, "HF", "a/c", "url and repo name two repos"),
        ({"type": "HF", "urll": "a/b", "repo": "a/b"}, "HF", "a/b", "unknown field"),
        ({"type": "S3", "url": "https://u:hunter2@h/x"}, "S3", "https://[hidden]@h/x", "user name"),
        ({"type": "S3", "url": "https://h/x?a=hunter2#b"}, "S3", "https://h/x?[hidden]", "'#'"),
        ({"type": "S3", "url": "https://h/x", "IAM": {"access_key_id": "hunter2"}}, "S3", "https://h/x", "is missing"),
        ({"type": "Ollama", "model": "%%global.variables.M%%"}, "Ollama", "%%global.variables.M%%", "nobody fills in"),
        ({"type": "Ollama", "model": "hunter2 ", "secret": "hunter2 "}, "Ollama", "$.required", "not quoted"),
        ({"type": "Torrent", "url": "x"}, "unknown", "x", "the types are HF, S3 and Ollama"),
        ({"url": "https://h/x"}, "unknown", "https://h/x", "type is missing"),
        ("https://h/x", "unknown", "$.required_remote_resources[0]", "must be an object, not a text"),
        (None, "unknown", "$.required_remote_resources[0]", "must be an object, not null"),
    ],
)
def test_a_broken_resource_harms_no_other(written: object, kind: str, label: str, words: str) -> None:
    broken, good = items(written, {"type": "HF", "url": "a/b"})
    assert good.resource == HF("a/b")
    assert (broken.kind, broken.resource) == (kind, None)
    assert broken.label.startswith(label)
    assert broken.fault is not None
    text = f"{broken.fault} {broken.fault.hint} {broken.fault.faults}"
    assert words in text
    assert "hunter2" not in f"{text} {broken!r}"
    assert (broken.fault.at or "").startswith("$.required_remote_resources[0]")


@pytest.mark.parametrize(
    ("written", "label", "words"),
    [
        ("", "$.required_images[0]", "image name is empty"),
        ("UPPER", "UPPER", "upper-case"),
        (3, "$.required_images[0]", "must be a text or an object, not a number"),
        ({}, "$.required_images[0]", "name is missing"),
        ({"name": 3}, "$.required_images[0]", "name must be a text"),
        ({"name": "a", "username": "u"}, "a", "password is missing"),
        ({"name": "a", "password": "hunter2"}, "a", "username is missing"),
        ({"name": "a", "username": "u:v", "password": "hunter2"}, "a", "username is too long, or has"),
        ({"name": "a", "username": "u", "password": "hunter2\n"}, "a", "password is too long, or has"),
        ({"name": "a", "username": "u", "password": "hunter2", "server": "ghcr.io"}, "a", "the login is for ghcr.io"),
        ({"name": "a", "pasword": "hunter2"}, "a", "did you mean password?"),
        ({"name": "hunter2 x", "password": "hunter2 "}, "$.required_images[0]", "not quoted"),
    ],
)
def test_a_broken_image_harms_no_other(written: object, label: str, words: str) -> None:
    broken, good = parse_market({"required_images": [written, "good"]}).images
    assert good.image == Image("good")
    assert (broken.label, broken.image) == (label, None)
    assert broken.fault is not None
    text = f"{broken.fault} {broken.fault.hint} {broken.fault.faults}"
    assert words in text
    assert "hunter2" not in f"{text} {broken!r}"


@pytest.mark.parametrize(
    "written",
    [{"name": "a", "server": "ghcr.io"}, {"name": "a", "username": "", "password": ""}, {"name": "a", "email": "x"}],
)
def test_an_image_without_a_login_is_anonymous(written: object) -> None:
    (found,) = parse_market({"required_images": [written]}).images
    assert found.image == Image("a")
    assert not found.had_credential


# --- what is no list


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("<html>", "$"),
        ("", "$"),
        ("null", "$"),
        ("[]", "$"),
        ("{}", "$"),
        ('{"name": "Error", "message": "x"}', "$"),
        ('{"required_images": "a"}', "$.required_images"),
        ('{"required_images": {}, "required_remote_resources": []}', "$.required_images"),
        ('{"required_images": [], "required_images": []}', "$.required_images"),
        ("required_images: [a]", "$"),
        (b"\xff", "$"),
        (json.dumps({"required_images": ["a"] * (ITEMS_MAX + 1)}), "$.required_images"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_document_that_is_no_list(document: str | bytes, place: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_market(document)
    assert caught.value.at == place


# --- our own record


def test_the_record_has_no_secrets_and_the_same_keys() -> None:
    private: list[dict[str, object]] = [
        {"type": "HF", "url": "a/c", "accessToken": "hunter2-token", "revision": "v1", "files": ["x"]},
        {"type": "S3", "url": "https://h/x?X-Amz-Signature=hunter2-signature"},
        {"type": "S3", "url": "https://h/x?file=hunter2-a", "bucket": "weights"},
        {"type": "S3", "buckets": [{"url": "https://h/dl?hunter2=a"}, {"url": "https://h/dl?hunter2=b"}]},
        {"type": "S3", "url": "https://h/v?versionId=3"},
    ]
    found = parse_market({**SEEN, "required_remote_resources": [*SEEN["required_remote_resources"], *private, {}]})
    record = json.dumps(found.without_secrets())
    for secret in ("hunter2", "pAssw0rd", "wJalrXUtn", "AKIAEXAMPLE"):
        assert secret not in record
    again = parse_market(record, saved=True)
    assert keys(again) == keys(found)
    assert [each.had_credential for each in again.resources] == [each.had_credential for each in found.resources][:-1]
    assert [each.had_credential for each in again.resources][-5:] == [True, True, True, True, False]
    assert [each.label for each in again.resources] == [each.label for each in found.resources][:-1]
    assert [each.image.name for each in again.images if each.image] == [
        each.image.name for each in found.images if each.image
    ]
    assert [each.had_credential for each in again.images] == [False, True]
    assert json.dumps(again.without_secrets()) == record


def test_members_of_the_record_are_unknown_in_a_list_from_outside() -> None:
    assert item({"type": "HF", "repo": "a/b", "had_credential": True}).fault
    (found,) = parse_market({"required_images": [{"name": "a", "had_credential": True}]}).images
    assert found.fault


@pytest.mark.parametrize("selections", [None, [], ["x"], [3], ["0" * 64, ""]])
def test_a_record_that_was_changed(selections: object) -> None:
    record = {"required_remote_resources": [{"type": "S3", "url": "https://h/x", "selections": selections}]}
    (found,) = parse_market(record, saved=True).resources
    assert found.fault


# --- addresses


@pytest.mark.parametrize(
    "text",
    [
        "nvidia-3090",
        "a",
        "97G9NnvBDQ2WpKu6fasoMsAKmfj63C9rhysJnkeWodAf",
        "11111111111111111111111111111111",
        "So11111111111111111111111111111111111111112",
    ],
)
def test_markets(text: str) -> None:
    assert market_fault(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-a",
            "a-",
            "a--b",
            "Nvidia-3090",
            "a b",
            "../etc",
            "a/b",
            "https://host",
            "a\n",
            "ü",
            "{market}",
            "a" * 65,
        ),
        "0OIl" * 9,
        "z" * 43 + "Z",
        "97G9NnvBDQ2WpKu6fasoMsAKmfj63C9rhysJnkeWo",
    ],
)
def test_texts_that_are_no_markets(text: str) -> None:
    assert market_fault(text)


def test_a_text_of_the_right_length_may_be_no_address() -> None:
    assert "is 32 bytes" in (market_fault("Z" * 44) or "")


# --- whatever comes

_LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["HF", "S3", "a/b"])
)
_NAMES = st.sampled_from(["type", "repo", "url", "model", "buckets", "IAM", "name", "server", "username", "password"])


def _nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return inner | st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4)


_ANY = _nested(_nested(_nested(_LEAF)))


@settings(max_examples=200)
@given(_ANY, _ANY, st.booleans())
def test_any_list_is_read_or_explained(resources: object, images: object, saved: bool) -> None:
    for document in (resources, {"required_remote_resources": resources, "required_images": [images]}):
        try:
            found = parse_market(document, saved=saved)  # type: ignore[arg-type]
        except ResourceError:
            continue
        for each in found.resources:
            assert (each.resource is None) is (each.fault is not None)
            assert each.label
        for image in found.images:
            assert (image.image is None) is (image.fault is not None)
        again = parse_market(json.dumps(found.without_secrets()), saved=True)
        assert keys(again) == keys(found)


def test_a_list_of_very_many_secrets_costs_no_search_of_each_in_each() -> None:
    """A list of 4 MiB has room for 200 000 of them, and 1000 broken items."""
    secrets = [f"s{number:06}" for number in range(150_000)]
    broken = [{"type": "HF", "repo": f"not/a/repo{number}"} for number in range(1000)]
    began = time.process_time()
    found = parse_market({"required_remote_resources": broken, "token": secrets})
    assert time.process_time() - began < 3.0
    assert [item.label for item in found.resources[:2]] == [item.at for item in found.resources[:2]], "not quoted"
