"""URLs as values: exact, and never shown with what is secret in them."""

from __future__ import annotations

from typing import Any

import pytest

from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.secret import Secret
from fetcher.net.request import Request, display_url, origin_of, redirected, resolve_location


class Head:
    """An answer without a body."""

    def __init__(self, status: int, headers: dict[str, str], url: str = "") -> None:
        self.status = status
        self.headers = headers
        self.url = url


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://huggingface.co/a", "https://huggingface.co:443"),
        ("https://huggingface.co", "https://huggingface.co:443"),
        ("HTTPS://HuggingFace.CO:443/a", "https://huggingface.co:443"),
        ("http://a.example:8080/?b=http://c", "http://a.example:8080"),
        ("http://a.example", "http://a.example:80"),
        ("http://[2001:DB8::1]/a", "http://[2001:db8::1]:80"),
        ("http://[::1]:9/", "http://[::1]:9"),
        ("https://a.example?x@y", "https://a.example:443"),
        ("https://a.example#@b.example/", "https://a.example:443"),
    ],
)
def test_origin(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a",
        "//a/b",
        "ftp://a",
        "https://",
        "https://@a",
        "https://u@a/",
        "https://u:p@a/",
        "https://a:x/",
        "https://[a]/",
        "https://[v1.x]/",
        "https://[127.0.0.1]/",
        "https://a:0",
    ],
)
def test_what_has_no_origin(url: str) -> None:
    with pytest.raises(ForbiddenError):
        origin_of(url)


def test_a_refused_url_keeps_its_secrets() -> None:
    for url in (
        "https://user:hunter2@a/",
        "https://a/ ?sig=hunter2",
        "ftp://a/?sig=hunter2",
        "https://a:x?sig=hunter2",
    ):
        with pytest.raises(ForbiddenError) as caught:
            origin_of(url)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a/b?sig=1", "https://a/b"),
        ("https://u:p@a/b#c", "https://a/b"),
        ("https://a?sig=1", "https://a"),
        ("https://a/b@c", "https://a/b@c"),
        ("nonsense?sig=1", "nonsense"),
    ],
)
def test_display_url(url: str, shown: str) -> None:
    assert display_url(url) == shown


BASE = "https://hub.example/acme/tiny/resolve/main/a%20b.bin?x=1"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://cdn.example/x?s=%27%28%29~%7E&e=", "https://cdn.example/x?s=%27%28%29~%7E&e="),
        ("https://cdn.example/%2e%2e/a%2Fb/../c", "https://cdn.example/%2e%2e/a%2Fb/../c"),
        ("HTTPS://CDN.example/x", "HTTPS://CDN.example/x"),
        ("https://cdn.example/x#part", "https://cdn.example/x"),
        ("//cdn.example/x?%27", "https://cdn.example/x?%27"),
        ("/api/resolve-cache/a%20b?q=%22%27~", "https://hub.example/api/resolve-cache/a%20b?q=%22%27~"),
        ("other.bin", "https://hub.example/acme/tiny/resolve/main/other.bin"),
        ("?y=%7E", "https://hub.example/acme/tiny/resolve/main/a%20b.bin?y=%7E"),
        (" https://cdn.example/x y ", "https://cdn.example/x%20y"),
        ("https://cdn.example/ä", "https://cdn.example/%C3%A4"),
        (b"https://cdn.example/\xe4".decode("utf-8", "surrogateescape"), "https://cdn.example/%E4"),
    ],
)
def test_a_location_is_taken_as_it_is(location: str, target: str) -> None:
    assert resolve_location(BASE, location) == target


def request(**more: Any) -> Request:
    return Request("GET", BASE, credential=Secret("hf_x"), credential_origin=origin_of(BASE), **more)


def test_a_redirect_within_the_origin_keeps_the_token() -> None:
    following = redirected(request(), Head(307, {"Location": "/elsewhere"}))
    assert following is not None
    assert following.carried_credential == Secret("hf_x")
    assert following.url == "https://hub.example/elsewhere"


@pytest.mark.parametrize(
    "location",
    [
        "https://cdn.example/",
        "http://hub.example/",
        "https://hub.example:8443/",
        "https://hub.example.evil.example/",
        "//evil.example/hub.example",
        "https://hub.example./",
        "https://xhub.example/",
    ],
)
def test_a_redirect_to_another_origin_drops_it(location: str) -> None:
    named = {origin_of(BASE), origin_of(resolve_location(BASE, location))}
    following = redirected(request(trusted_origins=frozenset(named)), Head(302, {"Location": location}))
    assert following is not None
    assert following.credential is None and following.carried_credential is None
    assert following.guarded, "where an operator himself sends, he may; a stranger may not send him there"


def test_what_is_no_redirect() -> None:
    for status in (200, 206, 300, 304, 305, 306, 400, 404, 500):
        assert redirected(request(), Head(status, {"Location": "/x"})) is None


def test_a_redirect_to_nowhere() -> None:
    with pytest.raises(TransportError, match="without saying where"):
        redirected(request(), Head(302, {}))
    for location in ("ftp://a/", "https://u:p@a/", "http://[::1/", "https://"):
        with pytest.raises(ForbiddenError):
            redirected(request(), Head(302, {"Location": location}))


def test_a_request_shows_no_secret() -> None:
    shown = repr(Request("GET", "https://a/b?Signature=hunter2", credential=Secret("hf_hunter2")))
    assert "hunter2" not in shown and "https://a/b" in shown
