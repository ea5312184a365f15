"""The answers of the registry's read side: manifests, lists of tags, blobs, redirects.

Values in, a reply out; whether the asker may have it, and whether it exists, was decided before.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal
from urllib.parse import parse_qs

from fetcher.testing import bodies
from fetcher.testing.contents import BytesContent, Content
from fetcher.testing.messages import Reply, Request
from fetcher.testing.registry import images, media
from fetcher.testing.registry.access import Refused, refusal
from fetcher.testing.registry.routes import Route
from fetcher.testing.registry.store import Manifest, Repository, is_digest

Dialect = Literal["distribution", "ollama"]
"""Whose manners: of the distribution project's registry (Debian's docker-registry), or of registry.ollama.ai, which has
no ``/v2/`` and no list of tags, looks at no Accept header, and tells a manifest's digest to HEAD only, and bare."""

_PUSHED_UNIX_S = 1_704_164_645


def tags(repository: Repository | None, request: Request, route: Route) -> Reply:
    if repository is None:
        return refusal(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": route.repository})
    query = parse_qs(request.query)
    last, limit = query.get("last", [""])[0], query.get("n", [""])[0]
    names = [tag for tag in sorted(repository.tags) if tag > last]
    reply = Reply(200)
    if limit.isdecimal() and 0 < int(limit) < len(names):
        names = names[: int(limit)]
        following = f"/v2/{repository.name}/tags/list?last={names[-1]}&n={limit}"
        reply.headers["Link"] = f'<{following}>; rel="next"'
    reply.rows = {"name": repository.name, "tags": names}
    return reply


def manifest(
    dialect: Dialect,
    request: Request,
    repository: Repository,
    found: Manifest,
    reference: str,
    announced: dict[str, str],
) -> Reply:
    """Answer with the manifest ``found`` for ``reference``; the headers ``announced`` go with it."""
    if dialect == "ollama":
        return _ollama_manifest(request, found, announced)
    chosen = _negotiate(repository, found, reference, media.accepted(request.headers.get("accept")))
    headers = {"Content-Type": chosen.media_type, "Docker-Content-Digest": chosen.digest, **announced}
    # Manifests are always sent whole.
    asked = {name: value for name, value in request.headers.items() if name != "range"}
    reply = bodies.answer(replace(request, headers=asked), BytesContent(chosen.body), chosen.digest, headers)
    reply.headers.pop("Accept-Ranges", None)
    return reply


def blob(request: Request, digest: str, content: Content) -> Reply:
    headers = {
        "Content-Type": "application/octet-stream",
        "Cache-Control": "max-age=31536000",
        "Docker-Content-Digest": digest,
    }
    return bodies.answer(request, content, digest, headers)


def redirect(location: str, digest: str) -> Reply:
    """Answer with the signed URL of a blob."""
    headers = {"Location": location, "Content-Type": "text/html; charset=utf-8", "Docker-Content-Digest": digest}
    text = f'<a href="{location.replace("&", "&amp;")}">Temporary Redirect</a>.\n\n'
    return Reply(307, headers, BytesContent(text.encode()))


def _ollama_manifest(request: Request, manifest: Manifest, announced: dict[str, str]) -> Reply:
    # Its type is not said: JSON that nobody declared is taken for plain text by Go's server.
    headers = {"Content-Type": "text/plain; charset=utf-8", **announced}
    if request.method == "HEAD":
        headers |= {
            "Ollama-Content-Digest": manifest.digest.removeprefix("sha256:"),
            "Ollama-Push-Time": str(_PUSHED_UNIX_S),
        }
    return Reply(200, headers, BytesContent(manifest.body))


def _negotiate(repository: Repository, manifest: Manifest, reference: str, accept: frozenset[str]) -> Manifest:
    """Return the manifest to send to a client that takes the types ``accept``; raise ``Refused`` when there is none.

    The rules are those of distribution 2.8, which Debian ships. A client that knows no lists gets the image for amd64;
    one that knows Docker's second schema neither gets the image in the first one, where that can be made of it. By
    digest, Docker's types are sent regardless: nothing else could match the digest.
    """
    if manifest.media_type in accept:
        return manifest
    if manifest.media_type == media.OCI_MANIFEST:
        message = "OCI manifest found, but accept header does not support OCI manifests"
        raise Refused(refusal(404, "MANIFEST_UNKNOWN", message))
    if manifest.media_type == media.OCI_INDEX:
        message = "OCI index found, but accept header does not support OCI indexes"
        raise Refused(refusal(404, "MANIFEST_UNKNOWN", message))
    if is_digest(reference) or manifest.media_type not in (media.DOCKER_MANIFEST, media.DOCKER_LIST):
        return manifest
    image = repository.child(manifest) if manifest.media_type == media.DOCKER_LIST else manifest
    if image is None:
        raise Refused(refusal(404, "MANIFEST_UNKNOWN", "manifest unknown"))
    if image.media_type in accept:
        return image
    config = repository.blobs.get(image.document["config"]["digest"])
    if config is None or "history" not in json.loads(config.read()):
        raise Refused(refusal(400, "MANIFEST_INVALID", "manifest invalid", {}))
    return Manifest.make(images.schema_1(image.document, repository.name, reference), media.DOCKER_SCHEMA_1)
