"""What engines say when a pull fails, as they really said it, and the cure that is told with it."""

from __future__ import annotations

import base64

import pytest

from fetcher.images.refusals import SAID_CHARACTERS_MAX, pull_refused, quotable
from fetcher.model.image import Image
from fetcher.model.secret import Login, Secret

IMAGE = Image("ghcr.io/org/app:v1")
LOGIN = Login("user", Secret("hunter22"))


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("manifest for 127.0.0.1:5000/a:v1 not found: manifest unknown: manifest unknown", "mistyped, or it was"),
        (
            "initializing source docker://127.0.0.1:5000/a:v1: reading manifest v1 in 127.0.0.1:5000/a: "
            "manifest unknown: manifest unknown",
            "mistyped, or it was",
        ),
        (
            "pull access denied for org/none, repository does not exist or may require 'docker login': denied: "
            "requested access to the resource is denied",
            "mistyped, or the image is private",
        ),
        ('Get "http://127.0.0.1:5056/v2/org/app/manifests/v1": no basic auth credentials', "wants a login"),
        ("unable to retrieve auth token: invalid username/password: unauthorized: no access", "wants a login"),
        ("unauthorized: incorrect username or password", "wants a login"),
        (
            "toomanyrequests: You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate",
            "counts pulls by address",
        ),
        ("toomanyrequests: retry-after: 1.5m, allowed: 44000/minute", "come back in 90 s"),
        ("received unexpected HTTP status: 429 Too Many Requests, Retry-After: 30", "come back in 30 s"),
        ("toomanyrequests: retry-after: 312.1ms, allowed", "come back in 1 s"),
        ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", "disk of the container engine is full"),
        ("no matching manifest for linux/amd64 in the manifest list entries", "platform"),
        (
            "choosing an image from manifest list docker://x: no image found in manifest list for architecture amd64, "
            'variant "", OS linux',
            "platform",
        ),
        ("failed to register layer: Error processing tar file(exit status 1): archive/tar: invalid tar header", "zstd"),
        ("unsupported media type application/vnd.docker.distribution.manifest.v1+prettyjws", "old schema 1"),
        (
            "initializing source docker://127.0.0.1:5000/org/app:v1: pinging container registry 127.0.0.1:5000: Get "
            '"https://127.0.0.1:5000/v2/": http: server gave HTTP response to HTTPS client',
            "speaks plain http",
        ),
        ('Get "https://r.io/v2/": x509: certificate signed by unknown authority', "does not trust"),
        ('Get "https://r.io/v2/": dial tcp: lookup r.io on 1.1.1.1:53: no such host', "can't reach the registry"),
        ('Get "https://r.io/v2/": net/http: TLS handshake timeout', "can't reach the registry"),
    ],
)
def test_the_cure_is_told_beside_the_engines_own_words(said: str, hint: str) -> None:
    error = pull_refused(IMAGE, "docker", said)
    assert error.message == f"Docker could not pull {IMAGE.name}: {said}"
    assert hint in (error.hint or "")
    assert (error.kind, error.exit_code, error.resource) == ("image", 70, "docker://ghcr.io/org/app:v1")


def test_a_limited_login_is_not_told_to_log_in() -> None:
    error = pull_refused(Image("org/app", LOGIN), "podman", "toomanyrequests: limit")
    assert error.message == "Podman could not pull org/app: toomanyrequests: limit"
    assert "of this account" in (error.hint or "")


def test_what_nobody_has_seen_before_is_quoted_without_a_hint() -> None:
    error = pull_refused(IMAGE, "docker", "the moon is full")
    assert error.hint is None
    assert error.message.endswith(": the moon is full")
    assert pull_refused(IMAGE, "docker", " \n").message.endswith(": no reason given")


@pytest.mark.parametrize(
    "said",
    [
        "bad password hunter22",
        "GET https://user:hunter22@r.io/v2/ failed",
        f"Authorization: Basic {base64.b64encode(b'user:hunter22').decode()}",
        f"key={base64.b64encode(b'user:hunter22').decode()} " + "x" * 500,
        "x" * 395 + " hunter22 " + "y" * 395,
    ],
)
def test_the_password_is_in_no_message(said: str) -> None:
    quoted = quotable(said, LOGIN)
    assert "hunter22" not in quoted
    assert base64.b64encode(b"user:hunter22").decode() not in quoted
    assert len(quoted) <= SAID_CHARACTERS_MAX
    assert "hunter22" not in str(pull_refused(Image("org/app", LOGIN), "docker", said))


def test_an_engines_text_can_not_move_the_cursor() -> None:
    assert quotable("a\x1b[31mred\r\nb\x00", None) == "a\\x1b[31mred b\\x00"
    long = quotable("start " + "x" * 1000 + " the cause", None)
    assert len(long) == SAID_CHARACTERS_MAX
    assert long.endswith("the cause")  # which is what helps
