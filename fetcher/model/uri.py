"""URIs as people type them: text in, Resource out. Knows no network and no file.

``hf://[models/|datasets/|spaces/]org/name[@revision]``, or a legacy ``hf://name``. A slash in a revision is ``%2F``.
A file is never part of the path (``hf://org/name/weights.bin`` could as well be a folder, a glob or a typing error):
files are named beside the URI. Schemes of later versions are recognised, so that nobody looks for a slip of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from fetcher.errors import Fault, ResourceError
from fetcher.model.resource import FILES_MAX, HF, HF_KINDS, HFKind, file_selector_fault, repo_fault, revision_fault
from fetcher.model.text import shown, unencodable, without_tokens

URI_CHARACTERS_MAX: Final = 2048
GRAMMAR: Final = "hf://[models/|datasets/|spaces/]org/name[@revision]"

_LATER_SCHEMES: Final = {
    "s3": "S3 buckets",
    "https": "S3 or plain HTTPS prefixes",
    "http": "HTTP prefixes",
    "ollama": "Ollama models",
    "docker": "container images",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ESCAPE = re.compile(r"%(..)?", re.DOTALL)


def parse_uri(text: str, *, files: Iterable[str] = ()) -> HF:
    """The Resource that ``text`` names; with ``files`` (exact names or globs) only those of its files.

    Raises ResourceError with every fault and how to write it right.
    """
    if not text or len(text) > URI_CHARACTERS_MAX or unencodable(text) or re.search(r"[\x00-\x20\x7f]", text):
        raise _fault(text, "not a URI: empty, longer than 2048 characters, or with blanks or control characters in it")
    match = _SCHEME.fullmatch(text)
    if not match:
        guess = f"hf://{shown(text)}" if repo_fault(text.partition("@")[0]) is None else GRAMMAR
        raise _fault(text, f"not a URI: {shown(text)} has no scheme", f"for a Hugging Face repo write {guess}")
    scheme, rest = match[1].lower(), match[2]
    if scheme in _LATER_SCHEMES:
        raise _fault(
            text, f"{scheme}:// is not yet supported ({_LATER_SCHEMES[scheme]})", f"this version fetches {GRAMMAR}"
        )
    if scheme != "hf":
        raise _fault(text, f"unknown scheme {shown(scheme)}", f"this version fetches {GRAMMAR}")
    return _parse_hf(text, rest, tuple(files))


def _parse_hf(text: str, rest: str, files: tuple[str, ...]) -> HF:
    path, at_sign, written_revision = rest.partition("@")
    kind, repo = _split_kind(path)
    if repo.count("/") > 1:
        kept = "/".join(repo.split("/")[:2])
        extra = repo[len(kept) + 1 :]
        raise _fault(
            text,
            f"a file or folder is never part of the URI: {shown(extra)}",
            f"write {_uri_text(kind, kept)}{at_sign}{written_revision} --file {shown(extra)}"
            if extra
            else "leave out the slash at the end",
        )
    faults = [(fault, GRAMMAR) for fault in [repo_fault(repo)] if fault]
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
        raise ResourceError.of(
            [Fault(shown(text), without_tokens(message), hint) for message, hint in faults], document=shown(text)
        ).about(resource=shown(text))
    return HF(repo=repo, kind=kind, revision=revision, files=files)


def files_faults(files: tuple[str, ...]) -> list[str]:
    """What is wrong with a list of names or globs."""
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


def _fault(text: str, message: str, hint: str | None = None) -> ResourceError:
    place = shown(text)
    return ResourceError(message, faults=[Fault(place, message, hint)], hint=hint, resource=place)
