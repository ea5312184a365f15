"""A market's list of what its nodes must have: resources and container images. Text in, values out; asks nobody.

The list comes from the network's endpoint, from a file or from stdin, always as JSON, and in several shapes: images as
texts or as objects with a login, a Hub repo as ``url`` or ``repo``, ``IAM`` in lower case and without a region. Its
items are independent: one that can't be read is told with its fault, and harms no other. Only a document that is no
list at all is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from fetcher.errors import ResourceError
from fetcher.model.faults import SECRETS_MAX, Faults
from fetcher.model.fields import Fields, Item, kind_of
from fetcher.model.image import Image, image_fault, server_fault
from fetcher.model.json_text import JSONFaults, parse_json
from fetcher.model.literals import Literals, is_list
from fetcher.model.resource import HF, S3, Resource
from fetcher.model.resource_object import TYPES, read_resource
from fetcher.model.secret import Login, Secret
from fetcher.model.text import shown, unencodable

DOCUMENT: Final = "the market list"
RESOURCES: Final = "required_remote_resources"
IMAGES: Final = "required_images"
ITEMS_MAX: Final = 1000
"""In each of the two lists."""

ADDRESS_BYTES: Final = 32
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ADDRESS = re.compile(rf"[{_BASE58}]{{32,44}}")
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
SLUG_CHARACTERS_MAX: Final = 64

_IMAGE_FIELDS: Final = ("name", "server", "username", "password", "email")
_LOGIN_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,8192}")
_HAD_CREDENTIAL: Final = "had_credential"
_SELECTIONS: Final = "selections"
"""Members that only our own record of a list has: see ``MarketList.without_secrets``."""
_SELECTION = re.compile(r"(?:[0-9a-f]{64})?")


@dataclass(frozen=True, slots=True)
class MarketItem:
    """One resource that the market requires; either readable, or with a fault."""

    at: str
    """JSON path in the list."""
    kind: str
    """``HF``, ``S3`` or ``Ollama``; ``unknown`` where that could not be read."""
    label: str
    """What to call it: its URI, or as much of it as could be read."""
    resource: Resource | None = None
    fault: ResourceError | None = None
    had_credential: bool = False
    """Whether the market gave a credential with it; of our own record of a list that is all that is left of it."""


@dataclass(frozen=True, slots=True)
class MarketImage:
    """One container image that the market requires; either readable, or with a fault."""

    at: str
    label: str
    """Its name, as far as it could be read."""
    image: Image | None = None
    fault: ResourceError | None = None
    had_credential: bool = False


@dataclass(frozen=True, slots=True)
class MarketList:
    """What a market requires, in the order of the list, without doubles."""

    resources: tuple[MarketItem, ...] = ()
    images: tuple[MarketImage, ...] = ()
    speaks_of_resources: bool = True
    """Whether the document has a list of resources, be it an empty one. One that leaves it out says nothing of them."""

    def without_secrets(self) -> dict[str, object]:
        """The readable items as JSON values, without any credential: our own record of the last good list.

        ``parse_market(…, saved=True)`` reads it again, to the same keys.
        """
        return {
            RESOURCES: [_saved(item, item.resource) for item in self.resources if item.resource is not None],
            IMAGES: [_saved_image(item, item.image) for item in self.images if item.image is not None],
        }


ItemT = TypeVar("ItemT", MarketItem, MarketImage)


def parse_market(document: Mapping[str, object] | str | bytes, *, saved: bool = False) -> MarketList:
    """The list, from an object or its JSON text. ``saved``: from our own record of one.

    Raises ResourceError for a document that is no market list.
    """
    value: object = document
    if isinstance(document, str | bytes):
        try:
            value = parse_json(document)
        except JSONFaults as error:
            raise ResourceError.of(error.faults, document=DOCUMENT) from None
    faults = Faults()
    found = _lists(value, faults)
    faults.raise_if_any(DOCUMENT)
    secrets, credentials = Literals().secrets(value), Literals().credentials(value)
    resources = [_resource(Item(at, item), secrets, credentials, saved=saved) for at, item in found[RESOURCES]]
    images = [_image(at, item, secrets, saved=saved) for at, item in found[IMAGES]]
    return MarketList(
        _without_doubles(resources, lambda item: item.resource),
        _without_doubles(images, lambda item: item.image),
        speaks_of_resources=isinstance(value, Mapping) and value.get(RESOURCES) is not None,
    )


def market_fault(text: str) -> str | None:
    """What is wrong with a market's address, or None: 32 bytes in base58, or a short name such as ``nvidia-3090``."""
    if len(text) <= SLUG_CHARACTERS_MAX and _SLUG.fullmatch(text):
        return None
    if not _ADDRESS.fullmatch(text):
        return f"not a market: {shown(text)} (an address has 32 to 44 characters, a short name is like nvidia-3090)"
    if _base58_bytes(text) != ADDRESS_BYTES:
        return f"not a market's address, which is {ADDRESS_BYTES} bytes: {shown(text)} has {_base58_bytes(text)}"
    return None


def _base58_bytes(text: str) -> int:
    """How many bytes ``text`` stands for; each leading ``1`` is a zero byte."""
    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    return (number.bit_length() + 7) // 8 + len(text) - len(text.lstrip("1"))


def _lists(value: object, faults: Faults) -> dict[str, list[tuple[str, object]]]:
    """Both lists with the places of their items."""
    found: dict[str, list[tuple[str, object]]] = {RESOURCES: [], IMAGES: []}
    hint = f"a market list is an object with the lists {IMAGES} and {RESOURCES}"
    if not isinstance(value, Mapping):
        faults.add("$", f"a market list is an object, not {kind_of(value)}", hint)
        return found
    if value.get(RESOURCES) is None and value.get(IMAGES) is None:
        faults.add("$", "this is no market list", hint)
    for name, items in found.items():
        held = value.get(name)
        if held is None:
            continue
        if not is_list(held):
            faults.add(f"$.{name}", f"{name} must be a list, not {kind_of(held)}")
        elif len(held) > ITEMS_MAX:
            faults.add(f"$.{name}", f"more than {ITEMS_MAX} items in {name}")
        else:
            items += [(f"$.{name}[{index}]", item) for index, item in enumerate(held)]
    return found


def _without_doubles(items: list[ItemT], value: Callable[[ItemT], object]) -> tuple[ItemT, ...]:
    """Items that ask for what an earlier one asks for, with the same credential, are left out; broken ones stay."""
    seen: set[object] = set()
    kept: list[ItemT] = []
    for item in items:
        wanted = value(item)
        if wanted is None or wanted not in seen:
            kept.append(item)
        if wanted is not None:
            seen.add(wanted)
    return tuple(kept)


# --- resources


def _resource(item: Item, secrets: tuple[str, ...], credentials: tuple[str, ...], *, saved: bool) -> MarketItem:
    faults = Faults(secrets, credentials)
    given: Mapping[str, object] = item.value if isinstance(item.value, Mapping) else {}
    if saved:
        ours = (_HAD_CREDENTIAL, _SELECTIONS)
        item = replace(item, value={name: value for name, value in given.items() if name not in ours})
    read = read_resource(item, faults, Literals(), target_required=False, market=True)
    kind = read.kind if read.kind in TYPES else "unknown"
    if read.wait:
        faults.add(read.wait.at, f"a literal that nobody fills in here: {read.wait.reason}")
    resource = read.resource
    if saved and isinstance(resource, S3):
        resource = _reselected(resource, given.get(_SELECTIONS), faults, item.at)
    if resource is None or faults.found:
        label = _label(given, ("repo", "url", "model", "bucket"), secrets) or item.at
        return MarketItem(item.at, kind, label, None, ResourceError.of(faults.found, document=label))
    credential = _credential(resource) is not None or (saved and given.get(_HAD_CREDENTIAL) is True)
    return MarketItem(item.at, kind, resource.uri(), resource, None, credential)


def _label(given: Mapping[str, object], names: tuple[str, ...], secrets: tuple[str, ...]) -> str | None:
    """The first text under ``names`` that may be shown; none of a list with more secrets than are searched for."""
    if len(secrets) > SECRETS_MAX:
        return None
    for name in names:
        text = given.get(name)
        if isinstance(text, str) and text and not any(secret in text for secret in secrets):
            return shown(text)
    return None


def _credential(resource: Resource) -> object:
    """What of a resource is secret, if anything is."""
    if isinstance(resource, HF):
        return resource.token
    if isinstance(resource, S3):
        return resource.keys or [each for each in resource.locations if each.holds_secret] or None
    return None


def _saved(item: MarketItem, resource: Resource) -> dict[str, object]:
    flag = {_HAD_CREDENTIAL: item.had_credential}
    if isinstance(resource, HF):
        revision = {} if resource.revision is None else {"revision": resource.revision}
        return {"type": "HF", "repo": resource.repo, **revision, "files": list(resource.files), **flag}
    if isinstance(resource, S3):
        places = [{"url": each.uri(), "files": list(each.files)} for each in resource.locations]
        where: dict[str, object] = {"buckets": places} if len(places) > 1 else dict(places[0])
        if resource.bucket is not None:
            where["bucket"] = resource.bucket
        return {"type": "S3", **where, **flag, _SELECTIONS: [each.selection for each in resource.locations]}
    (model,) = resource.models
    return {"type": "Ollama", "model": str(model), **flag}


def _reselected(resource: S3, selections: object, faults: Faults, at: str) -> S3 | None:
    """``resource`` with what its queries, which are not on record, had chosen."""
    texts = [text for text in selections if isinstance(text, str)] if is_list(selections) else []
    if len(texts) != len(resource.locations) or not all(_SELECTION.fullmatch(text) for text in texts):
        faults.add(f"{at}.{_SELECTIONS}", "not a record of ours")
        return None
    pairs = zip(resource.locations, texts, strict=True)
    return replace(resource, locations=tuple(replace(location, selection=text) for location, text in pairs))


# --- images


def _image(at: str, value: object, secrets: tuple[str, ...], *, saved: bool) -> MarketImage:
    faults = Faults(secrets)
    given: Mapping[str, object] = value if isinstance(value, Mapping) else {"name": value}
    if not isinstance(value, str | Mapping):
        faults.add(at, f"an image must be a text or an object, not {kind_of(value)}")
        return MarketImage(at, at, None, ResourceError.of(faults.found, document=at))
    fields = Fields(given, at, faults, Literals())
    place = at if isinstance(value, str) else fields.place("name")
    fields.unknown((*_IMAGE_FIELDS, _HAD_CREDENTIAL) if saved else _IMAGE_FIELDS, {"image": "name", "user": "username"})
    name = fields.text("name")
    login: Login | None = None
    server: str | None = None
    hint = "an image is named as for docker pull"
    if name is not None and faults.judge(place, name, image_fault, hint):
        server = fields.text("server") or None
        login = _login(fields)
        if login and server:
            rule = "leave server out, or write the registry into the name"
            faults.judge(fields.place("server"), server, lambda text: server_fault(name, text), rule)
    elif fields.absent("name"):
        faults.add(place, "name is missing", hint)
    for wait in fields.waits:
        faults.add(wait.at, f"a literal that nobody fills in here: {wait.reason}")
    if name is None or faults.found:
        label = _label(given, ("name",), secrets) or at
        return MarketImage(at, label, None, ResourceError.of(faults.found, document=label))
    # A server without a login is no more than a remark.
    image = Image(name, login, server if login else None)
    had = login is not None or (saved and given.get(_HAD_CREDENTIAL) is True)
    return MarketImage(at, shown(name), image, None, had)


def _login(fields: Fields) -> Login | None:
    """User name and password; None where neither is given. Nothing of either may reach a message."""
    given: dict[str, str] = {}
    for name in ("username", "password"):
        text = fields.text(name, secret=True)
        if not text:
            continue
        if unencodable(text) or not _LOGIN_TEXT.fullmatch(text) or (name == "username" and ":" in text):
            fields.faults.add(fields.place(name), f"{name} is too long, or has characters that can't be in it")
        given[name] = text
    if len(given) == 1:
        missing = "password" if "username" in given else "username"
        fields.faults.add(fields.place(missing), f"{missing} is missing", "a login is a user name and a password")
    return Login(given["username"], Secret(given["password"])) if len(given) == 2 else None


def _saved_image(item: MarketImage, image: Image) -> dict[str, object]:
    return {"name": image.name, _HAD_CREDENTIAL: item.had_credential}
