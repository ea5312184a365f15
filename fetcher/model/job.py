"""Job Definition → what must be mounted where. Text in, values out; knows no network, no disk, no credentials of ours.

Only ``ops[].args.resources`` matters here, and ``global.variables``, which may be named in it. A document is judged
whole: every fault is reported at once, each with its JSON path. Unknown fields are faults inside a resource and
nobody's business elsewhere.

The order is that of the node (nosana-cli, runTaskManagerOperation): literals are filled in, then ``__spread__`` is
expanded, then ``__remove-if-empty__`` is dropped. A resource that needs what only a running job knows is *deferred*,
not wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fetcher.model.document import parse_document
from fetcher.model.faults import Faults
from fetcher.model.fields import Fields, Item, kind_of
from fetcher.model.literals import Literals, is_list, is_literal
from fetcher.model.mount import Deferred, JobResources, MountRequest
from fetcher.model.ollama import MODELS_MAX, Ollama
from fetcher.model.resource import Resource
from fetcher.model.resource_object import Read, read_resource
from fetcher.model.targets import outermost_first
from fetcher.model.text import shown, unencodable

DOCUMENT: Final = "the Job Definition"
RESOURCES_MAX: Final = 1000
"""Each costs requests to its origin before anything is fetched; real jobs have a handful."""
SPREAD: Final = "__spread__"
"""Member of an object in a list, which is replaced by the items of the list that it names."""


def parse_job(document: Mapping[str, object] | str | bytes) -> JobResources:
    """What a Job Definition (an object, or its text in JSON or YAML) asks for: mounts, outermost target first within an
    op, and what can't be known yet.

    Raises ResourceError with all faults of the document.
    """
    value = parse_document(document, DOCUMENT) if isinstance(document, str | bytes) else document
    reader = _Reader(Literals(value))
    resources = reader.job(value)
    reader.faults.raise_if_any(DOCUMENT)
    return resources


def parse_resource(document: Mapping[str, object], *, at: str = "$") -> Resource:
    """One resource object, as the library takes it in place of a URI; a ``target`` in it is judged and left out, and so
    is ``allowWrite``.

    Raises ResourceError with all faults, also for a literal: nobody is there to fill it in.
    """
    literals = Literals()
    faults = Faults(literals.secrets(document), literals.credentials(document))
    read = read_resource(Item(at, document), faults, literals, target_required=False)
    if read.wait:
        faults.add(read.wait.at, f"a literal that nobody fills in here: {read.wait.reason}")
    faults.raise_if_any("the resource")
    assert read.resource is not None
    return read.resource


@dataclass(slots=True)
class _Reader:
    """Walks one document and collects its faults; a method returns nothing for what it had to give up."""

    literals: Literals
    faults: Faults = field(default_factory=Faults)
    mounts: list[MountRequest] = field(default_factory=list)
    deferred: list[Deferred] = field(default_factory=list)

    def job(self, document: object) -> JobResources:
        left = RESOURCES_MAX
        ops = self._ops(document)
        arguments = [op.get("args") for op in ops if isinstance(op, Mapping)]
        self.faults.hide(self.literals.secrets(*arguments))
        self.faults.credentials = self.literals.credentials(*arguments)
        places: dict[str, str] = {}
        for index, op in enumerate(ops):
            at = f"$.ops[{index}]"
            if not isinstance(op, Mapping):
                self.faults.add(at, f"an op must be an object, not {kind_of(op)}")
                continue
            items = self._items(op, at)
            left -= len(items)
            if left < 0:
                self.faults.add(f"{at}.args.resources", f"more than {RESOURCES_MAX} resources in one document")
                break
            self._op(self._op_id(op, at, places, needed=bool(items)), items)
        return JobResources(tuple(self.mounts), tuple(self.deferred))

    def _ops(self, document: object) -> Sequence[object]:
        if not isinstance(document, Mapping):
            self.faults.add("$", f"a Job Definition is an object, not {kind_of(document)}")
            return ()
        if "ops" not in document:
            self.faults.add("$.ops", "ops is missing", "a Job Definition holds its operations in the list ops")
            return ()
        ops = document["ops"]
        if is_list(ops):
            return ops
        self.faults.add("$.ops", f"ops must be a list, not {kind_of(ops)}")
        return ()

    def _op_id(self, op: Mapping[str, object], at: str, places: dict[str, str], *, needed: bool) -> str:
        op_id = op.get("id")
        if not isinstance(op_id, str) or not op_id or unencodable(op_id):
            if needed or op_id is not None:
                missing = "an op with resources needs an id"
                self.faults.add(f"{at}.id", missing if op_id is None else "id must be a text, not empty")
            return ""
        other = places.setdefault(op_id, at)
        if other != at:
            self.faults.add(f"{at}.id", f"id {shown(op_id)} is also the id of {other}")
        return op_id

    def _items(self, op: Mapping[str, object], at: str) -> list[Item]:
        """The entries of an op's ``resources``, literals filled in and spreads expanded."""
        args = op.get("args")
        if args is None:
            return []
        if not isinstance(args, Mapping):
            self.faults.add(f"{at}.args", f"args must be an object, not {kind_of(args)}")
            return []
        fields = Fields(args, f"{at}.args", self.faults, self.literals)
        items = [part for item in fields.items("resources") for part in self._expanded(item)]
        if fields.waits:  # the list as a whole
            items += [Item(wait.at, None, wait=wait) for wait in fields.waits]
        if items and op.get("type", "container/run") != "container/run":
            self.faults.add(f"{at}.args.resources", "only an op of type container/run can have resources")
        return items

    def _expanded(self, item: Item) -> list[Item]:
        """``item``, or what the ``__spread__`` in it names."""
        if not isinstance(item.value, Mapping) or SPREAD not in item.value:
            return [item]
        fields = Fields(item.value, item.at, self.faults, self.literals)
        fields.unknown((SPREAD, "chunked"))
        source, place = item.value[SPREAD], fields.place(SPREAD)
        if not isinstance(source, str) or not is_literal(source):
            self.faults.add(place, "must be a literal such as %%ops.<id>.results.<name>%%")
            return []
        parts = fields.items(SPREAD)
        if fields.waits:
            return [Item(item.at, None, wait=fields.waits[0])]
        return parts

    def _op(self, op: str, items: Sequence[Item]) -> None:
        """Read one op's resources into mounts and deferred."""
        found: list[MountRequest] = []
        places: dict[str, tuple[str, str]] = {}
        for item in items:
            read = Read("", wait=item.wait) if item.wait else read_resource(item, self.faults, self.literals)
            if read.wait:
                self.deferred.append(Deferred(op, item.at, read.wait.reason))
            if read.target is None:
                continue
            other, kind = places.setdefault(read.target, (item.at, read.kind))
            if other != item.at and not kind == read.kind == "Ollama":
                self.faults.add(
                    f"{item.at}.target",
                    f"target {shown(read.target)} is also the target of {other}",
                    "give each resource of an op a target of its own; one inside the other is allowed",
                )
            elif read.resource is not None:
                self._mount(MountRequest(op, item.at, read.resource, read.target, read.read_only), found)
        self.mounts += outermost_first(found)

    def _mount(self, request: MountRequest, found: list[MountRequest]) -> None:
        """One more mount; Ollama models with one target share one store, and so one mount."""
        for index, other in enumerate(found):
            if other.target != request.target:
                continue
            assert isinstance(other.resource, Ollama)
            assert isinstance(request.resource, Ollama)
            models = {*other.resource.models, *request.resource.models}
            if len(models) > MODELS_MAX:
                self.faults.add(request.at, f"more than {MODELS_MAX} models with one target", "give some another one")
                return
            found[index] = MountRequest(other.op, other.at, Ollama(tuple(models)), other.target)
            return
        found.append(request)
