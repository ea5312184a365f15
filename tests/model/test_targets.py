"""Mount points in a container."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.model.mount import MountRequest
from fetcher.model.resource import HF
from fetcher.model.targets import normalise_target, outermost_first, target_fault


@pytest.mark.parametrize(
    ("target", "normal"),
    [
        ("/data", "/data"),
        ("/data/", "/data"),
        ("//data//models/", "/data/models"),
        ("/./data/.", "/data"),
        ("/a b/ä,=", "/a b/ä,="),
        ("/a,readonly=false", "/a,readonly=false"),
        ("/a'b\"c`d$(e)", "/a'b\"c`d$(e)"),
        ("/a:ro", "/a:ro"),
        ("/C:\\x", "/C:\\x"),
        ("/Data", "/Data"),
        ("/cafe\u0301", "/cafe\u0301"),
        ("/\U0001f600", "/\U0001f600"),
        ("/" + "é" * 127, "/" + "é" * 127),
        ("/process", "/process"),
        ("/data/proc", "/data/proc"),
        ("/.../x..y", "/.../x..y"),
    ],
)
def test_targets_are_normalised(target: str, normal: str) -> None:
    assert target_fault(target) is None
    assert normalise_target(target) == normal


@pytest.mark.parametrize(
    "target",
    [
        "",
        "data",
        "./data",
        "~/data",
        "/",
        "//",
        "/.",
        "/./",
        "/proc",
        "/proc/",
        "//proc/self",
        "/./sys/x",
        "/dev",
        "/dev/shm",
        "/a/../b",
        "/..",
        "/a\nb",
        "/a\0",
        "/a\x1b[2J",
        "/a\x9b2J",
        "/\u202egpj.exe",
        "/a\u200bb",
        "/a\u2028b",
        "/a\xa0b",
        " /data",
        "\\\\host\\share",
        "C:\\data",
        "file:///data",
        "/data/..",
        "/proc/x/../../data",
        "/" + "é" * 128,
        "/\ud800",
        "/" + "x" * 256,
        "/x" * 100,
        "/" + "ab/" * 700,
    ],
    ids=ascii,
)
def test_targets_that_can_not_be(target: str) -> None:
    fault = target_fault(target)
    assert fault
    assert fault.isprintable()


@given(st.text(st.sampled_from("/.ap"), max_size=12))
def test_what_passes_is_absolute_and_normal(text: str) -> None:
    target = f"/{text}"
    if target_fault(target) is None:
        normal = normalise_target(target)
        assert normal == "/" + posixpath.normpath(target).lstrip("/")
        assert normalise_target(normal) == normal
        assert target_fault(normal) is None


def test_outer_mounts_come_first_and_else_the_order_stays() -> None:
    targets = ["/a/b/c", "/z", "/a/b", "/a", "/y"]
    mounts = [MountRequest("op", f"$[{index}]", HF("gpt2"), target) for index, target in enumerate(targets)]
    assert [mount.target for mount in outermost_first(mounts)] == ["/z", "/a", "/y", "/a/b", "/a/b/c"]
