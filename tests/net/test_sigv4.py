"""Signatures of Amazon S3 requests: botocore is the judge, byte for byte."""

from __future__ import annotations

import datetime
import subprocess
import sys
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fetcher.model.secret import AWSKeys, Secret
from fetcher.net import sigv4
from fetcher.net.authorize import authorization
from fetcher.net.request import Request, origin_of

# Everything that may stand in an exact URL's path, encoded or not, so also what we would never write ourselves.
exact_paths = st.text(st.sampled_from("abcXYZ019-_.~!$&'()*+,;=:@/%2F%C3%BC%20"), max_size=40)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30).map(
    lambda key: quote(key, safe="/~")
)
odd_keys = st.sampled_from(
    ["//", "a//b", "../x", "./.", "a/../b", "%2e%2e/", "a b".replace(" ", "%20"), "%E2%98%83", "a+b", "a%2Bb", "~a", ""]
)
fields = st.lists(
    st.tuples(
        st.sampled_from(
            ["prefix", "list-type", "continuation-token", "marker", "versionId", "partNumber", "acl", "a", "A"]
        ),
        st.none() | st.text(max_size=12).map(lambda text: quote(text, safe="-_.~", errors="replace")),
    ),
    max_size=6,
).map(lambda pairs: "&".join(name if value is None else f"{name}={value}" for name, value in pairs))
roots = st.sampled_from(
    [
        "https://b-1.s3.eu-west-1.amazonaws.com",
        "http://127.0.0.1:9000",
        "http://[::1]:9000",
        "https://x.example:8443",
        "https://x.example:443",
        "http://x.example:80",
        "http://x.example:443",
        "https://UPPER.example",
    ]
)
tokens = st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
secrets = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
extra = st.lists(
    st.tuples(
        st.sampled_from(["x-amz-checksum-mode", "X-Amz-Request-Payer", "x-amz-meta-a"]),
        st.sampled_from(["ENABLED", "requester", " two  blanks ", "a,b"]),
    ),
    max_size=3,
    unique_by=lambda pair: pair[0],
)


def by_botocore(request: Request, aws: AWSKeys, moment: datetime.datetime) -> dict[str, str]:
    """What botocore would send, with the body unsigned and the host as HTTP clients write it."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.config import Config
    from botocore.credentials import Credentials

    token = None if aws.session_token is None else aws.session_token.reveal()
    made: Any = AWSRequest(method=request.method, url=request.url, headers=dict(request.headers))
    made.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    with patch("botocore.auth.get_current_datetime", return_value=moment):
        credentials = Credentials(aws.access_key_id, aws.secret_access_key.reveal(), token)
        S3SigV4Auth(credentials, "s3", aws.region).add_auth(made)
    own = {name.lower() for name, _ in request.headers}
    return {name: value for name, value in made.headers.items() if name.lower() not in own}


@given(
    st.sampled_from(["GET", "HEAD"]),
    roots,
    exact_paths | keys | odd_keys,
    fields,
    extra,
    secrets,
    tokens,
    st.sampled_from(["us-east-1", "eu-west-1", "auto", "cn-north-1"]),
    st.integers(0, 4_102_444_800),
    st.sampled_from([0.0, -86_400.5, 899.25, 3 * 365 * 86_400.0]),
)
@example("GET", "https://x.example:443", "a//../b", "b&a=2&a=1&a", [], "s", None, "auto", 0, 0.0)
def test_it_is_what_botocore_sends(
    method: str,
    root: str,
    path: str,
    query: str,
    headers: list[tuple[str, str]],
    secret: str,
    token: str | None,
    region: str,
    now_s: int,
    skew_s: float,
) -> None:
    url = f"{root}/{path}" + (f"?{query}" if query else "")
    aws = AWSKeys("AKIDEXAMPLE", Secret(secret), None if token is None else Secret(token), region)
    request = Request(method, url, tuple(headers), aws, origin_of(url), skew_s)
    with patch("fetcher.net.authorize.time.time", return_value=float(now_s)):
        sent = authorization(request)
    moment = datetime.datetime.fromtimestamp(int(now_s + skew_s), datetime.UTC).replace(tzinfo=None)
    assert sent == by_botocore(request, aws, moment)


@pytest.mark.parametrize("part", ["method", "path", "query", "header", "host", "token", "day", "region", "secret"])
def test_it_covers_every_part(part: str) -> None:
    """A signature that left one of these out would agree with itself, and with no server."""

    def signature(changed: str = "") -> str:
        def one(name: str, value: str, other: str) -> str:
            return other if name == changed else value

        sent = sigv4.signed_headers(
            one("method", "GET", "HEAD"),
            "https://h.example" + one("path", "/b//k", "/b/k") + one("query", "?a=1&b=2", "?a=1&b=3"),
            one("host", "h.example", "h.example:8443"),
            [("x-amz-checksum-mode", one("header", "ENABLED", "DISABLED"))],
            AWSKeys("AKID", Secret(one("secret", "s", "t")), Secret(one("token", "t", "u"))),
            one("region", "eu-west-1", "eu-west-2"),
            86_400 * 2 if changed == "day" else 86_400,
        )
        return sent["Authorization"].rpartition("=")[2]

    assert signature(part) != signature()
    assert signature() == signature()


def test_an_empty_path_is_signed_as_it_is_sent() -> None:
    aws = AWSKeys("AKID", Secret("s"), region="us-east-1")
    bare, slashed = (
        sigv4.signed_headers("GET", url, "h.example", (), aws, "us-east-1", 0.0)
        for url in ("https://h.example?list-type=2#x", "https://h.example/?list-type=2")
    )
    assert bare == slashed


def test_few_derived_keys_are_kept() -> None:
    for number in range(100):
        sigv4._signing_key(Secret(f"secret {number}"), "20260101", "us-east-1")
    kept = sigv4._signing_key.cache_info()
    assert kept.currsize == kept.maxsize == 16


def test_signing_loads_no_botocore() -> None:
    program = (
        "import sys\nfrom fetcher.model.secret import AWSKeys, Secret\n"
        "from fetcher.net.authorize import authorization\n"
        "from fetcher.net.request import Request\nurl = 'https://b.s3.amazonaws.com/k'\n"
        "request = Request('GET', url, credential=AWSKeys('AKID', Secret('s')), "
        "credential_origin='https://b.s3.amazonaws.com:443')\n"
        "print(*authorization(request))\nprint([name for name in sys.modules if name.startswith('botocore')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == ["X-Amz-Date X-Amz-Content-SHA256 Authorization", "[]"]
