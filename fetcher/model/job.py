"""Job Definition → what must be mounted where. Text in, values out; knows no network, no disk, no credentials of ours.

Only ``ops[].args.resources`` matters here. A document is judged whole: every fault is reported at once, each with its
JSON path. Unknown fields are faults inside a resource (a typing error there would quietly fetch the wrong thing) and
nobody's business elsewhere. Literals (``%%…%%``) are filled in later, op by op, by whoever runs the job: a resource
that holds one is *deferred*, not wrong.

A resource's ``accessToken`` becomes a Secret the moment it is read; no message quotes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fetcher.errors import Fault, ResourceError
from fetcher.model.json_text import FAULTS_MAX, JSONFaults, member, parse_json
from fetcher.model.mount import Deferred, JobResources, MountRequest
from fetcher.model.resource import FILES_MAX, HF, HF_KINDS, file_selector_fault, repo_fault, revision_fault
from fetcher.model.secret import Secret
from fetcher.model.targets import normalise_target, outermost_first, target_fault
from fetcher.model.text import nearest, shown, unencodable, without_tokens

DOCUMENT: Final = "the Job Definition"
RESOURCES_MAX: Final = 1000
"""Each costs requests to its origin before anything is fetched; real jobs have a handful."""
REMOVE_IF_EMPTY: Final = "__remove-if-empty__"
"""Sentinel in a list: whoever expands the literals drops the list if nothing else is left in it."""
SPREAD: Final = "__spread__"

_LITERAL = re.compile(r"%%[^%\s]+%%")
_OP_LITERAL = re.compile(r"%%ops\.([^.%\s]+)\.")
_HF_FIELDS = ("type", "repo", "target", "revision", "files", "accessToken")
_LATER_TYPES = ("S3", "Ollama")
_TOKEN = re.compile(r"[\x21-\x7e]+")


def parse_job(document: Mapping[str, object] | str | bytes) -> JobResources:
    """What a Job Definition (an object, or its JSON text) asks for: mounts, outermost target first within an op, and
    what can't be known yet.

    Raises ResourceError with all faults of the document.
    """
    reader = _Reader()
    if isinstance(document, str | bytes):
        try:
            value = parse_json(document)
        except JSONFaults as error:
            raise ResourceError.of(error.faults, document=DOCUMENT) from None
    else:
        value = document
    resources = reader.job(value)
    if reader.faults:
        raise ResourceError.of(reader.faults, document=DOCUMENT)
    return resources


def parse_resource(document: Mapping[str, object], *, at: str = "$") -> HF:
    """One resource object, as the library takes it in place of a URI; a ``target`` in it is judged and left out.

    Raises ResourceError with all faults, also for a literal: nobody is there to fill it in.
    """
    reader = _Reader()
    parsed = reader.resource(document, at, target_required=False)
    if isinstance(parsed, _Waits):
        reader.fault(parsed.at, f"a literal that nobody fills in here: {parsed.reason}")
    if reader.faults or not isinstance(parsed, _Parsed):
        raise ResourceError.of(reader.faults, document="the resource")
    return parsed.resource


@dataclass(frozen=True, slots=True)
class _Parsed:
    resource: HF
    target: str | None


@dataclass(frozen=True, slots=True)
class _Waits:
    at: str
    reason: str


@dataclass(slots=True)
class _Reader:
    """Walks one document and collects its faults; a method returns None for what it had to give up."""

    faults: list[Fault] = field(default_factory=list)
    """The first of them, as many as anybody may want to read."""
    faults_count: int = 0

    def fault(self, at: str, message: str, hint: str | None = None) -> None:
        self.faults_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(at, without_tokens(message), hint))

    # --- the document

    def job(self, document: object) -> JobResources:
        mounts: list[MountRequest] = []
        deferred: list[Deferred] = []
        resources_left = RESOURCES_MAX
        ops = self._ops(document)
        places: dict[str, str] = {}
        for index, op in enumerate(ops):
            at = f"$.ops[{index}]"
            if not isinstance(op, Mapping):
                self.fault(at, f"an op must be an object, not {_kind(op)}")
                continue
            items = self._resources(op, at)
            resources_left -= len(items)
            if resources_left < 0:
                self.fault(f"{at}.args.resources", f"more than {RESOURCES_MAX} resources in one document")
                break
            op_id = self._op_id(op, at, places, needed=bool(items))
            self._op(op_id, items, f"{at}.args.resources", mounts, deferred)
        return JobResources(tuple(mounts), tuple(deferred))

    def _ops(self, document: object) -> Sequence[object]:
        if not isinstance(document, Mapping):
            self.fault("$", f"a Job Definition is an object, not {_kind(document)}")
            return ()
        if "ops" not in document:
            self.fault("$.ops", "ops is missing", "a Job Definition holds its operations in the list ops")
            return ()
        return self._list(document["ops"], "$.ops", "ops")

    def _list(self, value: object, at: str, name: str) -> Sequence[object]:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
            return value
        self.fault(at, f"{name} must be a list, not {_kind(value)}")
        return ()

    def _op_id(self, op: Mapping[str, object], at: str, places: dict[str, str], *, needed: bool) -> str:
        op_id = op.get("id")
        if not isinstance(op_id, str) or not op_id or unencodable(op_id):
            if needed or op_id is not None:
                self.fault(
                    f"{at}.id", "an op with resources needs an id" if op_id is None else "id must be a text, not empty"
                )
            return ""
        other = places.setdefault(op_id, at)
        if other != at:
            self.fault(f"{at}.id", f"id {shown(op_id)} is also the id of {other}")
        return op_id

    def _resources(self, op: Mapping[str, object], at: str) -> Sequence[object]:
        args = op.get("args")
        if args is None:
            return ()
        if not isinstance(args, Mapping):
            self.fault(f"{at}.args", f"args must be an object, not {_kind(args)}")
            return ()
        value = args.get("resources")
        if value is None:
            return ()
        items = self._list(value, f"{at}.args.resources", "resources")
        if items and op.get("type", "container/run") != "container/run":
            self.fault(f"{at}.args.resources", "only an op of type container/run can have resources")
        return items

    def _op(
        self, op: str, items: Sequence[object], at: str, mounts: list[MountRequest], deferred: list[Deferred]
    ) -> None:
        """Read one op's resources into ``mounts`` and ``deferred``."""
        found: list[MountRequest] = []
        places: dict[str, str] = {}
        for index, item in enumerate(items):
            place = f"{at}[{index}]"
            parsed = self._item(item, place)
            if isinstance(parsed, _Waits):
                deferred.append(Deferred(op, place, parsed.reason))
            elif parsed and parsed.target is not None:
                found.append(MountRequest(op, place, parsed.resource, parsed.target))
            target = _known_target(item)
            if target is not None and places.setdefault(target, place) != place:
                self.fault(
                    f"{place}.target",
                    f"target {shown(target)} is also the target of {places[target]}",
                    "give each resource of an op a target of its own; one inside the other is allowed",
                )
        mounts += outermost_first(found)

    def _item(self, item: object, at: str) -> _Parsed | _Waits | None:
        """One entry of a list of resources, which may also be a placeholder."""
        if item == REMOVE_IF_EMPTY:
            return None
        if isinstance(item, str) and _LITERAL.fullmatch(item):
            return _Waits(at, _reason(item))
        if isinstance(item, Mapping) and SPREAD in item:
            return self._spread(item, at)
        return self.resource(item, at)

    def _spread(self, item: Mapping[str, object], at: str) -> _Waits | None:
        self._unknown_fields(item, (SPREAD, "chunked"), at)
        source = item[SPREAD]
        if isinstance(source, str) and (literal := _LITERAL.search(source)):
            return _Waits(at, _reason(literal[0]))
        self.fault(member(at, SPREAD), "must be a literal such as %%ops.<id>.results.<name>%%")
        return None

    # --- one resource

    def resource(self, item: object, at: str, *, target_required: bool = True) -> _Parsed | _Waits | None:
        if not isinstance(item, Mapping):
            self.fault(at, f"a resource must be an object, not {_kind(item)}")
            return None
        known_types = "the types are HF, S3 and Ollama"
        kind = item.get("type")
        if kind is None:
            self.fault(f"{at}.type", "type is missing", known_types)
        elif kind in _LATER_TYPES:
            self.fault(f"{at}.type", f"{kind} resources are not yet supported", "this version fetches HF resources")
        elif kind == "HF":
            return self._hf(item, at, target_required=target_required)
        elif isinstance(kind, str) and (literal := _LITERAL.search(kind)):
            return _Waits(f"{at}.type", _reason(literal[0]))
        else:
            self.fault(f"{at}.type", f"unknown type {_quoted(kind)}", known_types)
        return None

    def _hf(self, item: Mapping[str, object], at: str, *, target_required: bool) -> _Parsed | _Waits | None:
        faults_before = self.faults_count
        waits: list[_Waits] = []
        self._unknown_fields(item, _HF_FIELDS, at)
        repo = self._text(item, "repo", at, waits)
        if repo is not None:
            self._judged(f"{at}.repo", _repo_fault(repo), "a repo is named owner/name")
        elif item.get("repo") is None:
            self.fault(f"{at}.repo", "repo is missing", "name the repo: owner/name")
        target = self._text(item, "target", at, waits)
        if target is not None:
            if self._judged(f"{at}.target", target_fault(target), "a target is an absolute path, such as /data/models"):
                target = normalise_target(target)
        elif item.get("target") is None and target_required:
            self.fault(f"{at}.target", "target is missing", "say where the container sees it, such as /data/models")
        revision = self._text(item, "revision", at, waits) or None
        if revision is not None:
            self._judged(
                f"{at}.revision", revision_fault(revision), "name a branch, a tag or a commit, or leave it out"
            )
        files = self._files(item, at, waits)
        token = self._access_token(item, at, waits)
        if self.faults_count > faults_before:
            return None
        if waits:
            return waits[0]
        assert repo is not None
        return _Parsed(HF(repo=repo, revision=revision, files=files, token=token), target)

    def _judged(self, at: str, fault: str | None, hint: str) -> bool:
        if fault:
            self.fault(at, fault, hint)
        return fault is None

    def _text(self, item: Mapping[str, object], name: str, at: str, waits: list[_Waits]) -> str | None:
        """Member ``name`` if it is text without a literal; null counts as absent."""
        value = item.get(name)
        if value is None:
            return None
        place = f"{at}.{name}"
        if not isinstance(value, str):
            self.fault(place, f"{name} must be a text, not {_kind(value)}")
        elif unencodable(value):
            self.fault(place, f"{name} has half of a surrogate pair in it")
        elif literal := _LITERAL.search(value):
            waits.append(_Waits(place, _reason(literal[0])))
        else:
            return value
        return None

    def _files(self, item: Mapping[str, object], at: str, waits: list[_Waits]) -> tuple[str, ...]:
        value = item.get("files")
        if value is None:
            return ()
        names = self._list(value, f"{at}.files", "files")
        if len(names) > FILES_MAX:
            self.fault(
                f"{at}.files", f"more than {FILES_MAX} names", "leave files out for the whole repo, or use a glob"
            )
            return ()
        found = []
        for index, name in enumerate(names):
            place = f"{at}.files[{index}]"
            if not isinstance(name, str):
                self.fault(place, f"a file name must be a text, not {_kind(name)}")
            elif unencodable(name):
                self.fault(place, "the file name has half of a surrogate pair in it")
            elif literal := _LITERAL.search(name):
                waits.append(_Waits(place, _reason(literal[0])))
            elif self._judged(place, file_selector_fault(name), "files are names or globs inside the repo"):
                found.append(name)
        return tuple(found)

    def _access_token(self, item: Mapping[str, object], at: str, waits: list[_Waits]) -> Secret | None:
        """The resource's credential. Nothing of its text may reach a message, not even as a literal."""
        value = item.get("accessToken")
        if value is None or value == "":
            return None
        place = f"{at}.accessToken"
        if not isinstance(value, str):
            self.fault(place, f"accessToken must be a text, not {_kind(value)}")
        elif _LITERAL.search(value):
            waits.append(_Waits(place, "accessToken holds a literal that is filled in when the op runs"))
        elif not _TOKEN.fullmatch(value.strip()):
            self.fault(
                place, "accessToken has characters that can't be in a token", "paste the token alone, on one line"
            )
        else:
            return Secret(value.strip())
        return None

    def _unknown_fields(self, item: Mapping[str, object], known: Sequence[str], at: str) -> None:
        for name in item:
            if name in known:
                continue
            text = str(name)  # a caller's own object may have any keys
            near = "repo" if text == "url" and "repo" in known else nearest(text, known)
            hint = f"did you mean {near}?" if near else f"the fields are {', '.join(known)}"
            self.fault(member(at, text), "unknown field", hint)


def _known_target(item: object) -> str | None:
    """The normalised target of an HF resource, whatever else is wrong with it; None where it is unknown or wrong."""
    target = item.get("target") if isinstance(item, Mapping) and item.get("type") == "HF" else None
    if not isinstance(target, str) or _LITERAL.search(target) or target_fault(target):
        return None
    return normalise_target(target)


def _repo_fault(repo: str) -> str | None:
    if repo.partition("/")[0] in HF_KINDS and "/" in repo:
        return f"a Job Definition names models only, by owner and name: {shown(repo)}"
    return repo_fault(repo)


def _reason(literal: str) -> str:
    """Why a resource with ``literal`` in it can't be known now."""
    if match := _OP_LITERAL.match(literal):
        return f"known only when op {shown(match[1])} has run ({shown(literal)})"
    return f"{shown(literal)} is filled in when the op runs"


def _kind(value: object) -> str:
    """The JSON word for a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"


def _quoted(value: object) -> str:
    return shown(value) if isinstance(value, str) else _kind(value)
