"""What a request says of who sends it, made at the last moment: credentials are values until they are on the wire.

A bearer token (the Hub, registries), a login (HTTP Basic), or a signature (S3, ``net.sigv4``). Knows no sockets; a
request whose credential belongs to another origin gets nothing.
"""

from __future__ import annotations

import base64
import time

from fetcher.model.secret import AWSKeys, Login, Secret
from fetcher.net.request import Request, address_of
from fetcher.net.sigv4 import signed_headers

DEFAULT_PORTS = {"http": 80, "https": 443}
"""Not named in ``Host``, by no client."""
REGION_DEFAULT = "us-east-1"
"""Where a bucket is asked for until the answer names another region; custom endpoints take it for their own."""


def authorization(request: Request) -> dict[str, str]:
    """The headers that ``request`` needs beside its own; none if it is anonymous where it goes."""
    credential = request.carried_credential
    if credential is None:
        return {}
    if isinstance(credential, Secret):
        return {"Authorization": f"Bearer {credential.reveal()}"}
    if isinstance(credential, Login):
        text = f"{credential.username}:{credential.password.reveal()}"
        return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}
    return sigv4(request, credential)


def sigv4(request: Request, keys: AWSKeys) -> dict[str, str]:
    """Headers of AWS Signature Version 4 for S3, over the method, the exact URL and every ``x-amz-`` header.

    ``Range`` and ``If-Match`` stay unsigned, so do those that front ends rewrite: with ``Accept-Encoding`` signed,
    Google's breaks the signature.
    """
    address = address_of(request.url)
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.port != DEFAULT_PORTS[address.scheme]:
        host = f"{host}:{address.port}"
    return signed_headers(
        request.method,
        request.url,
        host,
        [pair for pair in request.headers if pair[0].lower().startswith("x-amz-")],
        keys,
        keys.region or REGION_DEFAULT,
        time.time() + request.clock_skew_s,
    )
