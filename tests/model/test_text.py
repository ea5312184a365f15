"""What may be secret is hidden from messages; what is not stays readable."""

from __future__ import annotations

import pytest

from fetcher.errors import ForbiddenError
from fetcher.model.paths import check_tree
from fetcher.model.resource import HF
from fetcher.model.text import shown


@pytest.mark.parametrize(
    "text",
    [
        "user:s3cret@mirror.example",
        "https://user:s3cret@mirror.example/x",
        "https://user:pass/s3cret@mirror.example",
        "https://user:pass@s3cret@mirror.example",
        "hf://user:s3cret@org/name",
        "https://s3cret@mirror.example",
        "see https://h.example/x?X-Amz-Signature=s3cret for more",
        "https://h.example/x#s3cret",
        "hf_s3cret0123456789abcd",
        "gs://bucket/a b?sig=s3cret and=s3cret",
        "1https://h.example/x?s3cret",
        "(https://user:s3cret@h.example)",
        "https://user:s3cret" + "/" * 1000 + "@h.example",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    assert "s3cret" not in shown(text)
    assert "[hidden]" in shown(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf://org/name@main",
        "http://127.0.0.1:8000/acme/x@main",
        "https://huggingface.co/org/name",
        "$.ops[0].args: wrong",
        "a@b",
    ],
)
def test_the_rest_is_shown(text: str) -> None:
    assert shown(text) == text


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["x:", "a", "a1", "https://", "a?", ":@", "%"])
def test_texts_of_many_mebibytes_are_cut_before_they_are_searched(piece: str) -> None:
    assert len(shown(piece * (8 << 20))) <= 120


def test_a_token_is_no_revision() -> None:
    with pytest.raises(ValueError, match="token"):
        HF("org/name", revision="hf_abcdefghijklmnopqrst")


def test_folders_are_counted() -> None:
    deep = [f"{number}/" + "/".join("abcdefgh") + "/file" for number in range(20)]
    check_tree(deep)
    with pytest.raises(ForbiddenError, match="folders"):
        check_tree(deep, folders_max=100)
