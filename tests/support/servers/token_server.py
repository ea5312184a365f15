"""A token service as registries send their clients to: answers a password with a signed token for the scopes asked.

Docker Registry v2 authentication (distribution, "Token Authentication Specification"): a JSON web token, here ES256,
with the issuer's certificate in its header. Runs in a thread of this process.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.servers.certificates import Identity

SERVICE = "fetcher-registry"


@contextmanager
def token_server(
    identity: Identity, user: str, password: str, *, life_s: int, public: tuple[str, ...] = ()
) -> Iterator[str]:
    """The realm's URL. With the right password everything is granted, without one ``pull`` of ``public``; a wrong one
    gets 401. A negative ``life_s`` gives tokens that are over already (the registry allows a minute of leeway)."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization")
            if given is not None and not secrets.compare_digest(given, expected):
                self._answer(401, {"details": "incorrect username or password"})
                return
            scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
            access = [_granted(scope, given is not None, public) for words in scopes for scope in words.split()]
            token = _token(identity, user if given else "", [grant for grant in access if grant["actions"]], life_s)
            self._answer(200, {"token": token, "expires_in": max(life_s, 60)})

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass  # not into the output of the tests

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="token server")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/token"
        finally:
            server.shutdown()
            thread.join()


def _granted(scope: str, known: bool, public: tuple[str, ...]) -> dict[str, Any]:
    # "repository:path:pull,push"; a path may hold colons only where it starts with a host's port.
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    asked = actions.split(",")
    if not known:
        asked = [action for action in asked if action == "pull" and name in public]
    return {"type": kind, "name": name, "actions": asked}


def _token(identity: Identity, subject: str, access: list[dict[str, Any]], life_s: int) -> str:
    now = int(time.time())
    certificate = ssl.PEM_cert_to_DER_cert(identity.certificate.read_text())
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(certificate).decode()]}
    claims = {
        **{"iss": SERVICE, "sub": subject, "aud": SERVICE, "jti": secrets.token_hex(8), "access": access},
        **{"iat": now - 1, "nbf": min(now, now + life_s) - 10, "exp": now + life_s},
    }
    signed = f"{_packed(header)}.{_packed(claims)}"
    key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{signed}.{_base64url(signature)}"


def _packed(document: dict[str, Any]) -> str:
    return _base64url(json.dumps(document).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
