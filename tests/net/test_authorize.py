"""What a request says of who sends it: bearer tokens, logins, and signatures that two other signers agree with."""

from __future__ import annotations

import base64
import datetime
import re
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from fetcher.model.secret import AWSKeys, Credential, Login, Secret
from fetcher.net.authorize import authorization
from fetcher.net.request import Request, origin_of
from fetcher.testing.s3 import signing

SECRET = "s3cr3t+/="
URL = "https://b-1.s3.eu-west-1.amazonaws.com/k"

keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)


def request(url: str = URL, credential: Credential | None = None, **more: Any) -> Request:
    return Request("GET", url, credential=credential, credential_origin=origin_of(url), **more)


def test_who_brings_nothing_says_nothing() -> None:
    assert authorization(request()) == {}
    elsewhere = Request("GET", URL, credential=Secret("x"), credential_origin="https://other.example:443")
    assert authorization(elsewhere) == {}


def test_a_token_and_a_login() -> None:
    assert authorization(request(credential=Secret("hf_x"))) == {"Authorization": "Bearer hf_x"}
    sent = authorization(request(credential=Login("jörg", Secret("p:w"))))["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == "jörg:p:w"


def signed(
    url: str, headers: tuple[tuple[str, str], ...] = (), *, token: str | None = None, **more: Any
) -> dict[str, str]:
    aws = AWSKeys("AKID", Secret(SECRET), Secret(token) if token else None, region="eu-west-1")
    return authorization(request(url, aws, headers=headers, **more))


def by_the_embedded_s3(url: str, sent: dict[str, str], headers: tuple[tuple[str, str], ...]) -> str:
    """The signature that the embedded S3 computes of what came over the wire."""
    rest = url.split("://", 1)[1]
    host, _, target = rest.partition("/")
    path, _, query = f"/{target}".partition("?")
    wire = {name.lower(): value for name, value in (*headers, *sent.items())} | {"host": host}
    names = re.findall(r"SignedHeaders=([^,]+)", sent["Authorization"])[0].split(";")
    assert {name for name in wire if name.startswith("x-amz-")} <= set(names)
    canonical = signing.canonical_request(
        "GET", path, signing.query_pairs(query), wire, names, wire["x-amz-content-sha256"]
    )
    return signing.signature(SECRET, wire["x-amz-date"], "eu-west-1", canonical)


@given(
    keys,
    st.dictionaries(st.sampled_from(["prefix", "marker", "continuation-token", "versionId"]), keys),
    st.sampled_from(["https://b-1.s3.eu-west-1.amazonaws.com", "http://127.0.0.1:9000/b-1", "http://[::1]:9000/b-1", "https://x.example:8443"]),
    st.booleans(),
    st.none() | values.filter(bool),
)  # fmt: skip
def test_every_key_is_signed_as_the_server_reads_it(
    key: str, query: dict[str, str], root: str, checksums: bool, token: str | None
) -> None:
    fields = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    url = f"{root}/{quote(key, safe='/~')}" + (f"?{fields}" if fields else "")
    headers = (("x-amz-checksum-mode", "ENABLED"),) if checksums else ()
    sent = signed(url, headers, token=token)
    assert sent["Authorization"].endswith(f"Signature={by_the_embedded_s3(url, sent, headers)}")
    assert sent.get("X-Amz-Security-Token") == token
    assert SECRET not in repr(sent)


@given(keys, st.booleans())
def test_botocore_itself_signs_the_same(key: str, checksums: bool) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.config import Config
    from botocore.credentials import Credentials

    url = f"https://b-1.s3.eu-west-1.amazonaws.com/{quote(key, safe='/~')}?partNumber=1"
    headers = (("x-amz-checksum-mode", "ENABLED"),) if checksums else ()
    sent = signed(url, headers)
    made: Any = AWSRequest(method="GET", url=url, headers=dict(headers))
    made.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    moment = datetime.datetime.strptime(sent["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
    with patch("botocore.auth.get_current_datetime", return_value=moment):
        S3SigV4Auth(Credentials("AKID", SECRET), "s3", "eu-west-1").add_auth(made)
    assert made.headers["Authorization"] == sent["Authorization"]


def test_the_clock_is_that_of_the_host() -> None:
    now = datetime.datetime.now(datetime.UTC)
    date = signed(URL, clock_skew_s=-7200.0)["X-Amz-Date"]
    moment = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    assert abs((now - moment).total_seconds() - 7200) < 60


def test_ranges_and_conditions_stay_unsigned() -> None:
    sent = signed(URL, (("Range", "bytes=0-9"), ("If-Match", '"x"'), ("x-amz-checksum-mode", "ENABLED")))
    assert re.findall(r"SignedHeaders=([^,]+)", sent["Authorization"]) == [
        "host;x-amz-checksum-mode;x-amz-content-sha256;x-amz-date"
    ]
    assert set(sent) == {"Authorization", "X-Amz-Date", "X-Amz-Content-SHA256"}
