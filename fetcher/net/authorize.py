"""What a request says of who sends it, made at the last moment: credentials are values until they are on the wire.

A bearer token (the Hub, registries), a login (HTTP Basic), or a signature (S3). Knows no sockets; a request whose
credential belongs to another origin gets nothing.
"""

from __future__ import annotations

import base64
import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fetcher.model.secret import AWSKeys, Login, Secret

if TYPE_CHECKING:
    from fetcher.net.request import Request

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
    from botocore.awsrequest import AWSRequest  # 175 ms, so only where something is signed
    from botocore.credentials import ReadOnlyCredentials

    token = None if keys.session_token is None else keys.session_token.reveal()
    names = [(name, value) for name, value in request.headers if name.lower().startswith("x-amz-")]
    parts = urlsplit(request.url)
    # Given exactly as it will be sent: botocore would leave out a port that aiohttp does not, or the other way round.
    port = f":{parts.port}" if parts.port and parts.port != {"http": 80, "https": 443}[parts.scheme] else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    made = AWSRequest(method=request.method, url=request.url, headers={**dict(names), "Host": f"{host}{port}"})
    signer = _signer_class()(
        ReadOnlyCredentials(keys.access_key_id, keys.secret_access_key.reveal(), token),
        "s3",
        keys.region or REGION_DEFAULT,
    )
    signer.skew = datetime.timedelta(seconds=request.clock_skew_s)
    signer.add_auth(made)
    sent = {name.lower() for name, _ in names}
    return {name: value for name, value in made.headers.items() if name.lower() not in sent and name != "Host"}


_SIGNER: Any = None


def _signer_class() -> Any:
    """botocore's signer for S3, on the clock of the host that judges the signature."""
    global _SIGNER
    if _SIGNER is None:
        from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth

        class Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
            skew = datetime.timedelta()

            def add_auth(self, request: Any) -> None:
                now = datetime.datetime.now(datetime.UTC) + self.skew
                request.context["timestamp"] = now.strftime(SIGV4_TIMESTAMP)
                self._modify_request_before_signing(request)
                signature = self.signature(self.string_to_sign(request, self.canonical_request(request)), request)
                self._inject_signature_to_request(request, signature)

            def _should_sha256_sign_payload(self, request: Any) -> bool:
                return False  # what we send has no body; UNSIGNED-PAYLOAD is taken by all, over plain http too

        _SIGNER = Signer
    return _SIGNER
