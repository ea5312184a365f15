"""URIs as people type them: text in, Resource out. Knows no network and no file.

- ``hf://[models/|datasets/|spaces/]org/name[@revision]``, or a legacy ``hf://name``; a slash in a revision is ``%2F``;
- ``s3://bucket/prefix[?versionId=…]`` and ``https://host/path``, an object or a prefix; several are joined by commas
  (a comma inside is ``%2C``), and ``#bucket=name`` names the bucket where the URL does not;
- ``ollama://[host/][namespace/]model[:tag]``; several models are joined by commas.

What ``uri()`` of a Resource prints is read here to the same key, but for what a query keeps secret. A file is never
part of the path (``hf://org/name/weights.bin`` could as well be a folder, a glob or a typing error): files are named
beside the URI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NoReturn

from fetcher.errors import Fault, ResourceError
from fetcher.model.hf import HF, HF_KINDS, HFKind, file_selector_fault, repo_fault, revision_fault
from fetcher.model.key import FILES_MAX
from fetcher.model.ollama import MODELS_MAX, Ollama, model_fault
from fetcher.model.resource import Resource
from fetcher.model.s3 import (
    FRAGMENT_OF_BUCKET,
    LOCATIONS_MAX,
    ONE_OBJECT,
    S3,
    S3Location,
    bucket_fault,
    key_file_fault,
    location_fault,
)
from fetcher.model.text import shown, unencodable, without_tokens

URI_CHARACTERS_MAX: Final = 512 << 10
"""Room for as many locations as a resource may have."""
HF_GRAMMAR: Final = "hf://[models/|datasets/|spaces/]org/name[@revision]"
S3_GRAMMAR: Final = "s3://bucket/prefix or https://host/path"
OLLAMA_GRAMMAR: Final = "ollama://[host/][namespace/]model[:tag]"
GRAMMAR: Final = f"{HF_GRAMMAR}, s3://bucket/prefix, https://host/path or ollama://model[:tag]"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ESCAPE = re.compile(r"%(..)?", re.DOTALL)
_BETWEEN_URLS = re.compile(r",(?=(?:s3|https?)://)", re.IGNORECASE)


def parse_uri(text: str, files: Iterable[str] = ()) -> Resource:
    """The Resource that ``text`` names; with ``files`` (exact names, for the Hub also globs) only those of its files.

    Raises ResourceError with every fault and how to write it right.
    """
    if not text or len(text) > URI_CHARACTERS_MAX or unencodable(text):
        raise _fault(text, f"not a URI: empty, or longer than {URI_CHARACTERS_MAX} characters")
    if re.search(r"[\x00-\x20\x7f]", text):
        raise _fault(text, "not a URI: with blanks or control characters in it", "write %20 for a blank in a path")
    match = _SCHEME.fullmatch(text)
    if not match:
        guess = f"hf://{shown(text)}" if repo_fault(text.partition("@")[0]) is None else HF_GRAMMAR
        raise _fault(text, f"not a URI: {shown(text)} has no scheme", f"for a Hugging Face repo write {guess}")
    scheme, rest = match[1].lower(), match[2]
    if scheme == "hf":
        return _parse_hf(text, rest, tuple(files))
    if scheme in ("s3", "https", "http"):
        return _parse_s3(text, tuple(files))
    if scheme == "ollama":
        return _parse_ollama(text, rest, tuple(files))
    from fetcher.model.foreign_uri import image_message, other_scheme_hint  # what is right needs no hint

    if scheme == "docker":
        raise _fault(text, *image_message(rest))
    hint = other_scheme_hint(scheme, rest)
    raise _fault(text, f"unknown scheme {shown(scheme)}", hint or f"write {GRAMMAR}")


# --- Hugging Face


def _parse_hf(text: str, rest: str, files: tuple[str, ...]) -> HF:
    path, at_sign, written_revision = rest.partition("@")
    kind, repo = _split_kind(path)
    if repo.count("/") > 1:
        kept = "/".join(repo.split("/")[:2])
        extra = repo[len(kept) + 1 :]
        raise _fault(
            text,
            f"a file or folder is never part of the URI: {shown(extra)}",
            f"write {shown(f'{_uri_text(kind, kept)}{at_sign}{written_revision}')} --file {shown(extra)}"
            if extra
            else "leave out the slash at the end",
        )
    faults = [(fault, HF_GRAMMAR) for fault in [repo_fault(repo)] if fault]
    revision = None
    if at_sign:
        if "/" in written_revision:
            faults.append(
                (
                    "a slash in the revision",
                    "write %2F for a slash in a revision; a file is named with --file, after the URI",
                )
            )
        else:
            revision = _decoded(written_revision)
            fault = "bad %-escape in the revision" if revision is None else revision_fault(revision)
            if fault:
                faults.append((fault, "leave out @revision for the default branch, or name a branch, tag or commit"))
    faults += [(fault, "--file takes names or globs inside the repo") for fault in files_faults(files)]
    if faults:
        _raise(text, faults)
    return HF(repo=repo, kind=kind, revision=revision, files=files)


def files_faults(files: tuple[str, ...]) -> list[str]:
    """What is wrong with a list of names or globs in a Hub repo."""
    if len(files) > FILES_MAX:
        return [f"more than {FILES_MAX} file names"]
    found = ["file name is not text" if unencodable(name) else file_selector_fault(name) for name in files]
    return [fault for fault in found if fault]


def _split_kind(path: str) -> tuple[HFKind, str]:
    """A first segment that names a kind is the kind if anything follows: no owner on the Hub has such a name."""
    for kind in HF_KINDS:
        if path.startswith(f"{kind}/"):
            return kind, path[len(kind) + 1 :]
    return "models", path


def _uri_text(kind: HFKind, repo: str) -> str:
    return f"hf://{repo}" if kind == "models" else f"hf://{kind}/{repo}"


def _decoded(text: str) -> str | None:
    """``%XX`` resolved (RFC 3986, 2.1); None where an escape is broken or what comes out is not UTF-8."""
    raw = bytearray()
    position = 0
    for match in _ESCAPE.finditer(text):
        digits = match[1]
        if digits is None or not re.fullmatch(r"[0-9A-Fa-f]{2}", digits):
            return None
        raw += text[position : match.start()].encode() + bytes.fromhex(digits)
        position = match.end()
    raw += text[position:].encode()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


# --- S3 and plain HTTPS


def _parse_s3(text: str, files: tuple[str, ...]) -> S3:
    urls, hash_sign, bucket = text.partition(FRAGMENT_OF_BUCKET)
    parts = _BETWEEN_URLS.split(urls)
    faults: list[tuple[str, str]] = []
    if len(parts) > LOCATIONS_MAX:
        raise _fault(text, f"more than {LOCATIONS_MAX} URLs in one", "ask for them one by one")
    from fetcher.model.foreign_uri import page_hint

    for part in parts:
        if hint := page_hint(part):
            faults.append((f"a page for people, not for files: {shown(part)}", hint))
        elif fault := location_fault(part):
            faults.append((fault, f"write {S3_GRAMMAR}, with %23 for # and %2C for a comma"))
    if hash_sign and (fault := bucket_fault(bucket)):
        faults.append((fault, f"{FRAGMENT_OF_BUCKET}name at the end names the bucket of the URL"))
    elif hash_sign and len(parts) > 1:
        faults.append(("a bucket beside several URLs", "ask for them one by one"))
    faults += _key_faults(files, one_url=len(parts) == 1)
    if not faults and files and S3Location.parse(parts[0]).is_one_object:
        faults.append((ONE_OBJECT, "leave out --file, or the query"))
    if faults:
        _raise(text, faults)
    return S3(tuple(S3Location.parse(part, files) for part in parts), bucket if hash_sign else None)


def _key_faults(files: tuple[str, ...], *, one_url: bool) -> list[tuple[str, str]]:
    if files and not one_url:
        return [("--file beside several URLs: below which?", "ask for them one by one")]
    if len(files) > FILES_MAX:
        return [(f"more than {FILES_MAX} file names", "leave out --file to have all of them")]
    hint = "--file takes exact names below the URL"
    return [(fault, hint) for fault in map(key_file_fault, files) if fault]


# --- Ollama


def _parse_ollama(text: str, rest: str, files: tuple[str, ...]) -> Ollama:
    names = rest.split(",")
    faults = [(fault, f"write {OLLAMA_GRAMMAR}") for fault in map(model_fault, names[:MODELS_MAX]) if fault]
    if len(names) > MODELS_MAX:
        faults.append((f"more than {MODELS_MAX} models in one store", "ask for them one by one"))
    if files:
        faults.append(("a model is fetched as a whole", "leave out --file"))
    if faults:
        _raise(text, faults)
    return Ollama.of(*names)


# --- telling


def _raise(text: str, faults: Iterable[tuple[str, str]]) -> NoReturn:
    place = shown(text)
    found = [Fault(place, without_tokens(message), hint) for message, hint in faults]
    error = ResourceError.of(found, document=place)
    error.at = None  # a URI has no places inside
    error.resource = place
    raise error


def _fault(text: str, message: str, hint: str | None = None) -> ResourceError:
    place = shown(text)
    return ResourceError(message, faults=[Fault(place, message, hint)], hint=hint, resource=place)
