"""Container images as they are named and asked for: text in, values out. Knows no engine and no network.

The grammar is that of the reference library the engines share (distribution: ``[host/]path[:tag][@digest]``), so a name
that passes here is a name to them. What is particular to the Hub:

- the first part is a host only if it has a dot or a colon in it, or is ``localhost``; else the name is the Hub's;
- a Hub name of one part lives under ``library/``;
- the Hub has several spellings. They are one registry for *fetching* (same content, same quota). The engines take only
  ``docker.io`` and ``index.docker.io`` for the Hub; with them ``registry.hub.docker.com`` is another registry, with
  image names and credentials of its own. So the spelling is kept for *delivery*.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from fetcher.model.secret import Login
from fetcher.model.text import shown, unencodable

EngineKind = Literal["docker", "podman"]

NAME_CHARACTERS_MAX: Final = 255
"""Host and path together, as the engines count."""
REFERENCE_CHARACTERS_MAX: Final = NAME_CHARACTERS_MAX + len(":") + 128 + len("@sha512:") + 128

HUB_HOSTS: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
HUB_FETCH_HOST: Final = "registry-1.docker.io"
"""Where the Hub's ``/v2/`` really is."""
_FOLDED_BY_ENGINES: Final = ("docker.io", "index.docker.io")
_HUB_LIBRARY: Final = "library/"
DEFAULT_TAG: Final = "latest"

_LABEL = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?")
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")


def image_fault(text: str) -> str | None:
    """What is wrong with the name of an image, or None."""
    if not text:
        return "image name is empty"
    if len(text) > REFERENCE_CHARACTERS_MAX:
        return f"image name is longer than {REFERENCE_CHARACTERS_MAX} characters"
    if unencodable(text) or re.search(r"[\x00-\x20\x7f]", text):
        return "image name has blanks or control characters in it"
    if "://" in text:
        return f"an image name takes no scheme: {shown(text)}"
    host, path, tag, digest = _split(text)
    if digest is not None and not _DIGEST.fullmatch(digest):
        return f"not an image name: {shown(text)} (after @ comes sha256: and 64 hex digits, in lower case)"
    if tag is not None and not _TAG.fullmatch(tag):
        return f"not an image name: {shown(text)} (a tag is letters, digits, '_', '.' and '-', 128 at most)"
    if host is not None and not _is_host(host):
        return f"not an image name: {shown(text)} (its first part is no host)"
    if len(_normal(host, path)) > NAME_CHARACTERS_MAX:
        return f"image name is longer than {NAME_CHARACTERS_MAX} characters, tag and digest not counted"
    if path != path.lower():
        return f"not an image name: {shown(text)} (only a host and a tag may have upper-case letters)"
    if not all(_PATH_PART.fullmatch(part) for part in path.split("/")):
        return f"not an image name: {shown(text)} (parts are a-z and 0-9 with '.', '_' or '-' inside)"
    if host is None and _IMAGE_ID.fullmatch(path):
        return "64 hex digits are the id of an image, not a name: no registry can be asked for them"
    return None


def _normal(host: str | None, path: str) -> str:
    """Host and path as the engines complete them before they count."""
    if host is not None and host not in _FOLDED_BY_ENGINES:
        return f"{host}/{path}"
    return f"{_FOLDED_BY_ENGINES[0]}/{path if '/' in path else _HUB_LIBRARY + path}"


def server_fault(name: str, server: str) -> str | None:
    """What is wrong with giving a login for ``server`` to the image ``name`` (a good one), or None.

    A login goes to the registry it was made for and to no other.
    """
    wanted, given = ImageReference.parse(name).fetch_host, _server_host(server)
    if not given:
        return f"not a registry: {shown(server)}"
    if wanted != given:
        return f"the login is for {shown(given)}, but the image is at {shown(wanted)}"
    return None


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The parts of an image's name. ``parse()`` is the door for the world, the constructor for parts already judged."""

    host: str | None
    """Registry host and port as written; None: a bare name, which is the Hub's."""
    path: str
    """As written, without ``library/`` where that was left out."""
    tag: str | None = None
    """As written; None where there is none."""
    digest: str | None = None
    """``sha256:…``. With both, the digest wins: the tag may have moved on, the digest can't."""

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Raises ``ValueError`` with the sentence of ``image_fault``."""
        fault = image_fault(text)
        if fault:
            raise ValueError(fault)
        return cls(*_split(text))

    @property
    def is_hub(self) -> bool:
        """Whether the name is the Hub's, in any of its spellings."""
        return self.host is None or self.host.lower() in HUB_HOSTS

    @property
    def fetch_host(self) -> str:
        """The host (and port) that serves it; one for all spellings of the Hub, lower case."""
        return HUB_FETCH_HOST if self.is_hub else _folded(self.host or "")

    @property
    def repository(self) -> str:
        """Its path in the registry's URLs, with the ``library/`` of one-part Hub names."""
        return f"{_HUB_LIBRARY}{self.path}" if self.is_hub and "/" not in self.path else self.path

    @property
    def reference(self) -> str:
        """What is asked for in the repository: the digest, else the tag, else ``latest``."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def is_folded_by_engines(self) -> bool:
        """Whether the engines know the name for the Hub's; narrower than ``is_hub``."""
        return self.host is None or self.host in _FOLDED_BY_ENGINES

    def delivered(self, engine: EngineKind) -> str:
        """The exact text by which ``engine`` lists the image once it has it (``RepoTags``, or ``RepoDigests``).

        Docker shortens the Hub's names (``docker.io/library/nginx`` → ``nginx:latest``), Podman writes them out; all
        others both keep as they are. A tag beside a digest is not recorded.
        """
        return f"{self.delivered_name(engine)}{'@' if self.digest else ':'}{self.reference}"

    def delivered_name(self, engine: EngineKind) -> str:
        """``delivered`` without tag and digest."""
        if not self.is_folded_by_engines:
            return f"{self.host}/{self.path}"
        if engine == "podman":
            return f"docker.io/{self.repository}"
        short = self.path.removeprefix(_HUB_LIBRARY)
        return short if "/" not in short else self.path


@dataclass(frozen=True, slots=True)
class Image:
    """An image that has to be present in the container engine, by this very name.

    Raises ``ValueError`` when built with parts that can't be right; documents report them with their place instead
    (``image_fault``, ``server_fault``).
    """

    name: str
    """As required, to the letter: others will look for this spelling."""
    login: Login | None = None
    """For its registry; None asks anonymously."""
    server: str | None = None
    """The registry that the login is for, as a document named it. Must be the image's own: a check, not a choice."""

    def __post_init__(self) -> None:
        fault = image_fault(self.name)
        if not fault and self.login and self.server:
            fault = server_fault(self.name, self.server)
        if fault:
            raise ValueError(fault)

    @property
    def reference(self) -> ImageReference:
        """The name in its parts."""
        return ImageReference.parse(self.name)

    def uri(self) -> str:
        """The URI a person would type, as ``docker://org/name:tag``."""
        return f"docker://{self.name}"


def _split(text: str) -> tuple[str | None, str, str | None, str | None]:
    """(host, path, tag, digest), nothing judged yet. A colon is a tag's only after the last slash."""
    name, at_sign, digest = text.partition("@")
    front, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    path = f"{front}{slash}{last}"
    first, slash, rest = path.partition("/")
    host = None
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first, rest
    return host, path, tag if colon else None, digest if at_sign else None


def _is_host(text: str) -> bool:
    return len(text) <= NAME_CHARACTERS_MAX and _HOST.fullmatch(text) is not None


def _server_host(server: str) -> str | None:
    """Host and port of a registry as documents write it (a host, or a URL such as the Hub's old index), folded."""
    host = re.sub(r"^https?://", "", server.strip(), flags=re.IGNORECASE).partition("/")[0]
    if not _is_host(host):
        return None
    folded = _folded(host)
    return HUB_FETCH_HOST if folded in (*HUB_HOSTS, "hub.docker.com") else folded


def _folded(host: str) -> str:
    return host.lower().removesuffix(":443")
