"""Amazon's own library as the judge of signatures: clients, and headers for requests sent byte for byte."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import botocore.session
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from fetcher.testing.s3 import S3
from tests.hub.raw import Answer, fetch

KEY_ID = "AKIDEMBEDDED"
SECRET = "secret+/of the=test"
REGION = "us-east-1"


class Clock:
    """Unix seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@functools.cache
def _session() -> Any:
    return botocore.session.Session()


@contextmanager
def client(endpoint: str, **more: Any) -> Iterator[Any]:
    """botocore's S3 client; ``secret``, ``token``, ``region`` and ``style`` differ from the right ones where given."""
    made = _session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=more.get("region", REGION),
        aws_access_key_id=more.get("key_id", KEY_ID),
        aws_secret_access_key=more.get("secret", SECRET),
        aws_session_token=more.get("token"),
        config=Config(
            # Left alone, it presigns in a way that Amazon gave up.
            signature_version="s3v4",
            s3={"addressing_style": more.get("style", "path")},
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=10,
        ),
    )
    try:
        yield made
    finally:
        made.close()


def signed(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    hashed: bool = True,
    key_id: str = KEY_ID,
    secret: str = SECRET,
    token: str | None = None,
    region: str = REGION,
) -> dict[str, str]:
    """``headers`` and those that sign them for exactly this URL; Host is that of the URL unless given."""
    request = AWSRequest(method=method, url=url, headers=dict(headers or {}), data=body)
    request.context["client_config"] = Config(s3={"payload_signing_enabled": hashed})
    S3SigV4Auth(Credentials(key_id, secret, token), "s3", region).add_auth(request)
    return dict(request.headers.items())


def presigned(url: str, *, method: str = "GET", expires_s: int = 60, region: str = REGION, **more: str) -> str:
    """``url`` with a query that signs it."""
    request = AWSRequest(method=method, url=url)
    credentials = Credentials(more.get("key_id", KEY_ID), more.get("secret", SECRET), more.get("token"))
    S3SigV4QueryAuth(credentials, "s3", region, expires=expires_s).add_auth(request)
    result: str = request.url
    return result


def ask(s3: S3, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, **key: str) -> Answer:
    """Send a signed request for ``target``, which is quoted already."""
    url = s3.endpoint + target
    return fetch(url, method=method, headers=signed(url, method=method, headers=headers, **key))


def code(answer: Answer) -> str:
    """``Code`` of an error document."""
    assert answer.headers["content-type"] == "application/xml"
    root = ElementTree.fromstring(answer.body)
    assert root.tag == "Error"
    assert root.findtext("RequestId") == answer.headers["x-amz-request-id"]
    return root.findtext("Code") or ""


def element(answer: Answer, name: str) -> str | None:
    """Text of the first element of that name, whatever its name space."""
    for each in ElementTree.fromstring(answer.body).iter():
        if each.tag.rpartition("}")[2] == name:
            return each.text or ""
    return None


def elements(answer: Answer, name: str) -> list[str]:
    """Texts of all elements of that name, as they stand in the XML: what an encoding did to them is still there."""
    found = ElementTree.fromstring(answer.body).iter()
    return [each.text or "" for each in found if each.tag.rpartition("}")[2] == name]


def keys(answer: Answer) -> list[str]:
    """The keys of a listing, as written."""
    rows = re.findall(r"<Contents><Key>([^<]*)</Key>", answer.body.decode())
    assert len(rows) == answer.body.count(b"<Contents>")
    return rows


def query(**fields: str) -> str:
    """A query in the order given, quoted as signers want it; ``_`` stands for ``-``."""
    pairs = ((name.replace("_", "-"), quote(value, safe="-_.~")) for name, value in fields.items())
    return "?" + "&".join(f"{name}={value}" for name, value in pairs)
