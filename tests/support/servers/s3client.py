"""A running S3 server as a value, and a client that fills it and looks into it.

Signs with SigV4 itself (AWS, "Signature Version 4 signing process"), so that it can send what an SDK would tidy up:
keys with ``..`` or ``//``, a wrong secret, a clock that is off. Path-style only.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from tests.support.servers.process import Server

UPLOAD_THREADS = 4
PUT_TRIES = 5

_EMPTY_HASH = hashlib.sha256(b"").hexdigest()


class S3Refused(RuntimeError):
    """The server answered with a status that a test did not expect."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def etag(self) -> str:
        """Without its quotes."""
        return self.headers["etag"].strip('"')

    @property
    def error_code(self) -> str | None:
        """``Code`` of an S3 error document; None where the body is none."""
        try:
            return ElementTree.fromstring(self.body).findtext("Code")
        except ElementTree.ParseError:
            return None


@dataclass(frozen=True, slots=True)
class S3Client:
    """Requests to one server, signed where ``access_key`` is given."""

    endpoint: str
    """``http://127.0.0.1:port`` or https."""
    access_key: str | None = None
    secret_key: str = field(default="", repr=False)
    region: str = "us-east-1"
    authority_file: str | None = None
    """Certificate to trust, for https."""
    clock_offset_s: float = 0.0
    """Added to the time that is signed."""

    def make_bucket(self, bucket: str) -> str:
        """Make it, and give its name back. Take a new one per test: servers remember odd things."""
        self._expect(self.request("PUT", f"/{bucket}"), 200)
        return bucket

    def put(self, bucket: str, key: str, body: bytes, headers: Mapping[str, str] | None = None) -> str:
        """Store one object; returns its ETag, without quotes."""
        return self._expect(self.request("PUT", _path(bucket, key), body=body, headers=headers), 200).etag

    def put_all(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Store many, a few at once."""
        with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
            share = [list(objects.items())[start::UPLOAD_THREADS] for start in range(UPLOAD_THREADS)]
            for done in [pool.submit(self._put_share, bucket, items) for items in share]:
                done.result()

    def put_multipart(self, bucket: str, key: str, parts: Iterable[bytes]) -> str:
        """Store one object in parts (all but the last ≥ 5 MiB); returns the ETag ``<md5 of md5s>-<count>``."""
        path = _path(bucket, key)
        begun = self._expect(self.request("POST", path, query={"uploads": ""}), 200)
        upload = {"uploadId": _text(begun.body, "UploadId")}
        lines = []
        for number, part in enumerate(parts, start=1):
            query = {"partNumber": str(number), **upload}
            etag = self._expect(self.request("PUT", path, query=query, body=part), 200).etag
            lines.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        document = f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode()
        done = self._expect(self.request("POST", path, query=upload, body=document), 200)
        return _text(done.body, "ETag").strip('"')

    def get(self, bucket: str, key: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET an object, whatever the answer."""
        return self.request("GET", _path(bucket, key), headers=headers)

    def head(self, bucket: str, key: str, headers: Mapping[str, str] | None = None) -> Answer:
        """HEAD an object, whatever the answer."""
        return self.request("HEAD", _path(bucket, key), headers=headers)

    def delete(self, bucket: str, key: str) -> None:
        """Remove one object."""
        self._expect(self.request("DELETE", _path(bucket, key)), 204)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        connection: http.client.HTTPConnection | None = None,
    ) -> Answer:
        """One request. ``path`` is sent as it stands, percent-encoded by the caller."""
        fields = sorted((_quoted(name), _quoted(value)) for name, value in (query or {}).items())
        encoded = "&".join(f"{name}={value}" for name, value in fields)
        sent = {"Host": urlsplit(self.endpoint).netloc, **(headers or {})}
        if self.access_key is not None:
            sent.update(self._signature(method, path, encoded, sent, body))
        used = connection or self._connection()
        try:
            used.request(method, f"{path}?{encoded}" if encoded else path, body=body or None, headers=sent)
            with used.getresponse() as response:
                names = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, names, response.read())
        finally:
            if connection is None:
                used.close()

    def _put_share(self, bucket: str, items: list[tuple[str, bytes]]) -> None:
        connection = self._connection()
        try:
            for key, body in items:
                self._expect(self._put_patiently(_path(bucket, key), body, connection), 200)
        finally:
            connection.close()

    def _put_patiently(self, path: str, body: bytes, connection: http.client.HTTPConnection) -> Answer:
        """As every S3 client does: rclone answers 500 where the first two objects of one folder come at once."""
        answer = self.request("PUT", path, body=body, connection=connection)
        for tries in range(1, PUT_TRIES):
            if answer.status < 500:
                break
            time.sleep(0.1 * tries)
            answer = self.request("PUT", path, body=body, connection=connection)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.endpoint)
        assert parts.hostname is not None
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self.authority_file)
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=context)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)

    def _signature(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + self.clock_offset_s))
        digest = hashlib.sha256(body).hexdigest() if body else _EMPTY_HASH
        signed = {name.lower(): value.strip() for name, value in headers.items()}
        signed |= {"x-amz-date": now, "x-amz-content-sha256": digest}
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        canonical = "\n".join([method, path, query, lines, names, digest])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret_key}".encode()
        for word in scope.split("/"):
            key = hmac.digest(key, word.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        credential = f"Credential={self.access_key}/{scope}"
        return {
            "x-amz-date": now,
            "x-amz-content-sha256": digest,
            "Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}",
        }

    def _expect(self, answer: Answer, status: int) -> Answer:
        if answer.status != status:
            raise S3Refused(f"{self.endpoint} answered {answer.status}: {answer.body[:500]!r}")
        return answer


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server."""

    endpoint: str
    access_key: str | None
    """None: anonymous."""
    secret_key: str = field(repr=False)
    region: str
    server: Server
    authority_file: str | None = None
    """Certificate to trust, for https."""

    @property
    def client(self) -> S3Client:
        """A client with the right keys."""
        return S3Client(
            self.endpoint, self.access_key, self.secret_key, region=self.region, authority_file=self.authority_file
        )

    @property
    def environment(self) -> dict[str, str]:
        """What an official client (s5cmd, rclone, aws) reads keys and region from."""
        if self.access_key is None:
            return {"AWS_REGION": self.region}
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
        }


def _path(bucket: str, key: str) -> str:
    return f"/{bucket}/{quote(key, safe='/-_.~')}"


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


def _text(document: bytes, name: str) -> str:
    for element in ElementTree.fromstring(document).iter():
        if element.tag.rpartition("}")[2] == name and element.text:
            return element.text
    raise S3Refused(f"no {name} in {document[:500]!r}")
