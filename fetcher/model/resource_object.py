"""One resource object of a Job Definition or a market list → a Resource and where it goes. Knows no document around it.

Unknown fields are faults here, with a guess at what was meant: a typing error would quietly fetch the wrong thing. What
today's validators of the network forbid although it means one thing is read (``files`` beside ``bucket``, an ``IAM``
without a region); what could mean two things is a fault that names both.

``accessToken`` and ``IAM`` become Secrets the moment they are read; no message quotes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fetcher.model.faults import Faults
from fetcher.model.fields import Fields, Item, Wait, kind_of
from fetcher.model.hf import HF, HF_KINDS, file_selector_fault, repo_fault, revision_fault
from fetcher.model.key import FILES_MAX
from fetcher.model.literals import Literals, unfolded
from fetcher.model.ollama import TARGET_DEFAULT, Ollama, model_fault
from fetcher.model.resource import Resource
from fetcher.model.s3 import (
    KEYS_AND_QUERY,
    LOCATIONS_MAX,
    ONE_OBJECT,
    S3,
    S3Location,
    bucket_fault,
    key_file_fault,
    location_fault,
)
from fetcher.model.secret import AWSKeys, Secret
from fetcher.model.targets import normalise_target, target_fault
from fetcher.model.text import shown

TYPES: Final = ("HF", "S3", "Ollama")
KNOWN_TYPES: Final = "the types are HF, S3 and Ollama"

_HF_FIELDS: Final = ("type", "repo", "target", "revision", "files", "accessToken")
_S3_FIELDS: Final = ("type", "url", "target", "files", "bucket", "buckets", "allowWrite", "IAM")
_OLLAMA_FIELDS: Final = ("type", "model", "target")
_BUCKETS_FIELDS: Final = ("url", "files")
_IAM_FIELDS: Final = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "SESSION_TOKEN", "AWS_SESSION_TOKEN")
_ABSENT_REGIONS: Final = ("", "undefined", "null")
"""How a region that nobody gave arrives: it has been through a template of JavaScript."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_KEY_ID = re.compile(r"[\x21-\x2b\x2d\x2e\x30-\x7e]{1,256}")
"""No comma and no slash: they separate the fields that the id stands in, in a signed header."""
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class Read:
    """What came out of one resource object."""

    kind: str
    """``HF``, ``S3`` or ``Ollama``; else the text that was given as type, or nothing."""
    resource: Resource | None = None
    """None where there were faults, or where it has to be waited for."""
    target: str | None = None
    """Normalised, and known whatever else is wrong; None where there is none or a wrong one."""
    read_only: bool = True
    wait: Wait | None = None


def read_resource(
    item: Item, faults: Faults, literals: Literals, *, target_required: bool = True, market: bool = False
) -> Read:
    """Read one object; its faults go to ``faults``. ``market``: with the names that a market list uses."""
    value = unfolded(item.value) if item.filled else item.value
    if not isinstance(value, Mapping):
        faults.add(item.at, f"a resource must be an object, not {kind_of(value)}")
        return Read("")
    fields = Fields(value, item.at, faults, literals)
    if fields.absent("type"):
        faults.add(fields.place("type"), "type is missing", KNOWN_TYPES)
        return Read("")
    kind = value["type"]
    if not isinstance(kind, str):
        faults.add(fields.place("type"), f"unknown type {kind_of(kind)}", KNOWN_TYPES)
        return Read("")
    kind = fields.text("type")
    if kind not in TYPES:
        if kind is not None:
            faults.add(fields.place("type"), f"unknown type {shown(kind)}", KNOWN_TYPES)
        return Read(kind or "", wait=fields.waits[0] if fields.waits else None)
    before = faults.count
    read_only = True
    resource: Resource | None
    if kind == "HF":
        resource = _hf(fields, market=market)
    elif kind == "Ollama":
        resource = _ollama(fields)
    else:
        resource = _s3(fields)
        read_only = not fields.flag("allowWrite")
    target = _target(fields, kind, required=target_required)
    if faults.count > before:
        return Read(kind, None, target)
    if fields.waits:
        return Read(kind, None, target, read_only, fields.waits[0])
    if faults.names_secret(f"{resource.uri() if resource else ''}\0{resource!r}\0{target}"):
        faults.add(
            item.at, "a name in it is a credential of the document", "paste the credential into its own field only"
        )
        return Read(kind)
    return Read(kind, resource, target, read_only)


def _target(fields: Fields, kind: str, *, required: bool) -> str | None:
    if fields.absent("target"):
        if kind == "Ollama":
            return TARGET_DEFAULT
        if required:
            fields.faults.add(
                fields.place("target"), "target is missing", "say where the container sees it, such as /data/models"
            )
        return None
    target = fields.text("target")
    hint = "a target is an absolute path, such as /data/models"
    if target is None or not fields.faults.judge(fields.place("target"), target, target_fault, hint):
        return None
    return normalise_target(target)


# --- Hugging Face


def _hf(fields: Fields, *, market: bool) -> HF | None:
    names = (*_HF_FIELDS, "url") if market else _HF_FIELDS
    fields.unknown(names, {"url": "repo"})
    before = fields.faults.count
    repo = _repo(fields, "url" if market and fields.absent("repo") and not fields.absent("url") else "repo")
    if market and not fields.absent("repo") and not fields.absent("url") and fields.text("url") != repo:
        fields.faults.add(fields.place("url"), "url and repo name two repos", "keep one of them")
    revision = fields.text("revision") or None
    if revision is not None:
        hint = "name a branch, a tag or a commit, or leave it out"
        fields.faults.judge(fields.place("revision"), revision, revision_fault, hint)
    files = []
    for item in _files(fields):
        name = fields.item_text(item, "file name")
        hint = "files are names or globs inside the repo"
        if name is not None and fields.faults.judge(item.at, name, file_selector_fault, hint):
            files.append(name)
    token = _secret(fields, "accessToken", _TOKEN, "paste the token alone, on one line")
    if fields.faults.count > before or repo is None:
        return None
    return HF(repo, revision=revision, files=tuple(files), token=token)


def _repo(fields: Fields, name: str) -> str | None:
    if fields.absent(name):
        fields.faults.add(fields.place(name), f"{name} is missing", "name the repo: owner/name")
        return None
    repo = fields.text(name)
    if repo is not None:
        fields.faults.judge(fields.place(name), repo, _repo_fault, "a repo is named owner/name")
    return repo


def _repo_fault(repo: str) -> str | None:
    if repo.partition("/")[0] in HF_KINDS and "/" in repo:
        return f"a Job Definition names models only, by owner and name: {shown(repo)}"
    return repo_fault(repo)


def _files(fields: Fields) -> list[Item]:
    items = fields.known_items("files")
    if len(items) <= FILES_MAX:
        return items
    hint = "leave files out to have all of them"
    fields.faults.add(fields.place("files"), f"more than {FILES_MAX} names", hint)
    return []


def _secret(fields: Fields, name: str, rule: re.Pattern[str], hint: str) -> Secret | None:
    """A credential; nothing of its text may reach a message, not even as a literal. Empty counts as absent."""
    text = (fields.text(name, secret=True) or "").strip()
    if not text:
        return None
    if not rule.fullmatch(text):
        fields.faults.add(fields.place(name), f"{name} is too long, or has characters that can't be in it", hint)
        return None
    return Secret(text)


# --- Ollama


def _ollama(fields: Fields) -> Ollama | None:
    fields.unknown(_OLLAMA_FIELDS, {"url": "model", "repo": "model", "name": "model"})
    hint = "a model is named as for ollama pull, such as gemma3:4b"
    if fields.absent("model"):
        fields.faults.add(fields.place("model"), "model is missing", hint)
        return None
    model = fields.text("model")
    if model is None or not fields.faults.judge(fields.place("model"), model, model_fault, hint):
        return None
    return Ollama.of(model)


# --- S3


def _s3(fields: Fields) -> S3 | None:
    fields.unknown(_S3_FIELDS, {"repo": "url", "revision": "url", "accessToken": "IAM", "iam": "IAM"})
    before = fields.faults.count
    bucket = fields.text("bucket") or None
    if bucket is not None:
        fields.faults.judge(fields.place("bucket"), bucket, bucket_fault, "name the bucket alone, without a host")
    several = fields.items("buckets")
    if several:
        locations = _several(fields, several)
    else:
        location = _location(fields, needed="url is missing", hint=_url_hint(bucket))
        locations = [] if location is None else [location]
    keys = None if fields.absent("IAM") else _keys(fields)
    if keys is not None and any(location.holds_secret for location in locations):
        fields.faults.add(fields.place("IAM"), KEYS_AND_QUERY, "leave IAM out, or the query")
    if fields.faults.count > before or not locations or fields.waits:
        return None
    return S3(tuple(locations), bucket, keys)


def _url_hint(bucket: str | None) -> str:
    if bucket is not None and bucket_fault(bucket) is None:
        return f"for all of a bucket at Amazon write s3://{bucket}"
    return "name it: s3://bucket/prefix or https://host/path; several go into buckets"


def _several(fields: Fields, items: list[Item]) -> list[S3Location]:
    """The locations of ``buckets``. Beside it nothing else says what or where: it would be anybody's guess of which."""
    hint = "put all of them into buckets, each with its url and its files"
    for name in ("url", "files", "bucket"):
        value = fields.item.get(name)
        if value is not None and value != "" and value != [] and value != ():
            fields.faults.add(fields.place(name), f"{name} and buckets are both given", hint)
    if len(items) > LOCATIONS_MAX:
        fields.faults.add(fields.place("buckets"), f"more than {LOCATIONS_MAX} buckets", "make two resources of it")
        return []
    found: list[S3Location] = []
    for item in items:
        value = unfolded(item.value) if item.filled else item.value
        if item.wait:
            fields.waits.append(item.wait)
        elif not isinstance(value, Mapping):
            fields.faults.add(item.at, f"one of buckets must be an object, not {kind_of(value)}")
        else:
            inner = Fields(value, item.at, fields.faults, fields.literals)
            inner.unknown(_BUCKETS_FIELDS, {"bucket": "url"})
            location = _location(inner, needed="url is missing", hint=_url_hint(None))
            fields.waits += inner.waits
            if location is not None:
                found.append(location)
    return found


def _location(fields: Fields, *, needed: str, hint: str) -> S3Location | None:
    """``url`` and ``files`` of an object."""
    before = fields.faults.count
    url = fields.text("url")
    if url is not None:
        how = "write it as s3://bucket/prefix or https://host/path, with %23 for #"
        fields.faults.judge(fields.place("url"), url, location_fault, how)
    elif fields.absent("url"):
        fields.faults.add(fields.place("url"), needed, hint)
    files = []
    for item in _files(fields):
        name = fields.item_text(item, "file name")
        how = "files are exact names below the url, no patterns"
        if name is not None and fields.faults.judge(item.at, name, key_file_fault, how):
            files.append(name)
    if url is None or fields.faults.count > before or fields.waits:
        return None
    location = S3Location.parse(url)
    if files and location.is_one_object:
        fields.faults.add(fields.place("files"), ONE_OBJECT, "leave files out, or name the prefix without a query")
        return None
    return S3Location.parse(url, tuple(files))


def _keys(fields: Fields) -> AWSKeys | None:
    """``IAM``. Its names count in upper and in lower case: Job Definitions have the one, market lists the other."""
    written = fields.mapping("IAM")
    if written is None:
        return None
    at = fields.place("IAM")
    places: dict[str, str] = {}
    values: dict[str, object] = {}
    for name, value in written.items():
        text = str(name)
        known = text.upper() if text.upper() in _IAM_FIELDS and text in (text.upper(), text.lower()) else text
        other = places.setdefault(known, text)
        if other != text:
            fields.faults.add(at, f"IAM has both {other} and {text}", "keep one of them")
        values[known] = value
    iam = Fields(values, at, fields.faults, fields.literals, written=places)
    iam.unknown(_IAM_FIELDS)
    before = fields.faults.count
    key_id = _secret(iam, "ACCESS_KEY_ID", _KEY_ID, "paste the key id alone")
    secret = _secret(iam, "SECRET_ACCESS_KEY", _TOKEN, "paste the key alone, on one line")
    tokens = [_secret(iam, name, _TOKEN, "paste the token alone, on one line") for name in _IAM_FIELDS[3:]]
    given = list(dict.fromkeys(token for token in tokens if token is not None))
    if len(given) > 1:
        fields.faults.add(at, "SESSION_TOKEN and AWS_SESSION_TOKEN differ", "keep one of them")
    region = (iam.text("REGION") or "").strip()
    if region.lower() in _ABSENT_REGIONS:
        region = ""
    else:
        fields.faults.judge(iam.place("REGION"), region, _region_fault, "such as eu-west-1, or leave it out")
    fields.waits += iam.waits
    if fields.faults.count > before or iam.waits:
        return None
    if key_id is None and secret is None and not given:
        return None  # all there and all empty, as validators want it: nobody's keys
    for name, value in (("ACCESS_KEY_ID", key_id), ("SECRET_ACCESS_KEY", secret)):
        if value is None:
            fields.faults.add(iam.place(name), f"{name} is missing", "keys come in pairs: an id and a secret")
    if key_id is None or secret is None:
        return None
    return AWSKeys(key_id.reveal(), secret, given[0] if given else None, region or None)


def _region_fault(region: str) -> str | None:
    return None if _REGION.fullmatch(region) else f"not a region: {shown(region)}"
