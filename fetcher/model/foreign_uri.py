"""What people paste instead of a URI, and how to write it: pages of the Hub and of Ollama, other schemes, images.

Hints only; nothing is fetched by guessing. What is quoted of a path has been judged to be a name; the query and all
else that may hold a secret is left out.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from fetcher.model.hf import HF_KINDS, HFKind, file_selector_fault, repo_fault, revision_fault
from fetcher.model.image import image_fault
from fetcher.model.ollama import NAMESPACE_DEFAULT, model_fault
from fetcher.model.text import shown

_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_OLLAMA_HOSTS = ("ollama.com", "www.ollama.com", "registry.ollama.ai")
_HUB_PAGES = ("tree", "blob", "resolve", "raw")
_PLAIN_WORD = re.compile(r"[\w./@%+=:~-]+")


def page_hint(url: str) -> str | None:
    """How to name what a page of the Hub or of Ollama shows; None for any other URL."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    path = unquote(parts.path).strip("/")
    if host in _HUB_HOSTS:
        return _hub_hint(path)
    if host in _OLLAMA_HOSTS:
        name = path.removeprefix("v2/").removeprefix(f"{NAMESPACE_DEFAULT}/")
        return f"write ollama://{name}" if model_fault(name) is None else "write ollama://model[:tag]"
    return None


def _hub_hint(path: str) -> str:
    form = "write hf://org/name[@revision], with --file for a file"
    kind: HFKind = "models"
    for known in HF_KINDS:
        if path.startswith(f"{known}/"):
            kind, path = known, path[len(known) + 1 :]
            break
    segments = path.split("/")
    # A page of a repo without an owner has its word in second place.
    count = 1 if len(segments) == 1 or segments[1] in _HUB_PAGES else 2
    repo, page, rest = "/".join(segments[:count]), segments[count : count + 1], segments[count + 1 :]
    if repo_fault(repo) is not None or (page and page[0] not in _HUB_PAGES):
        return form
    uri = f"hf://{repo}" if kind == "models" else f"hf://{kind}/{repo}"
    if not rest:
        return f"write {uri}"
    # refs/pr/1 and refs/convert/parquet are the Hub's own; any other branch with a slash can't be told from a folder.
    names = 3 if rest[0] == "refs" and len(rest) >= 3 else 1
    revision, file = "/".join(rest[:names]), "/".join(rest[names:])
    if revision_fault(revision) is not None or (file and file_selector_fault(file) is not None):
        return form
    uri += f"@{revision.replace('%', '%25').replace('/', '%2F')}"
    if not file:
        return f"write {uri}"
    if page[0] == "tree":
        file += "/*"
    quoted = file if _PLAIN_WORD.fullmatch(file) else f"'{shown(file)}'"
    return f"write {uri} --file {quoted}"


def other_scheme_hint(scheme: str, rest: str) -> str | None:
    """How to write what ``scheme`` names elsewhere."""
    bucket, _, prefix = rest.partition("?")[0].partition("/")
    place = shown(f"{bucket}/{prefix}") if bucket and "@" not in rest else "bucket/prefix"
    return {
        "r2": f"write https://<account id>.r2.cloudflarestorage.com/{place}",
        "gs": f"write https://storage.googleapis.com/{place}",
        "gcs": f"write https://storage.googleapis.com/{place}",
        "b2": f"write https://s3.<region>.backblazeb2.com/{place}",
        "s3a": f"write s3://{place}",
        "s3n": f"write s3://{place}",
        "oci": f"write docker://{place}",
    }.get(scheme)


def image_message(rest: str) -> tuple[str, str]:
    """What to say of ``docker://rest``."""
    fault = image_fault(rest)
    if fault:
        return fault, "an image is named as for docker pull: docker://name[:tag|@digest]"
    return (
        f"docker://{shown(rest)} is a container image, and get fetches files",
        "fetcher prefetch fetches the images of a market's list",
    )
