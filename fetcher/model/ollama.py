"""Ollama models as resources: names as ``ollama pull`` takes them. Pure values.

``[host/][namespace/]name[:tag]``: without a host the Ollama registry, without a namespace ``library``, without a tag
``latest`` (ollama, types/model/name.go). Several models are one resource where they share one store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fetcher.model.key import canonical_key
from fetcher.model.text import shown, unencodable

TARGET_DEFAULT: Final = "/root/.ollama/models"
"""Where a node mounts a store that names no target (nosana-cli, createResourceName and mounts)."""
MODELS_MAX: Final = 100
REGISTRY_DEFAULT: Final = "registry.ollama.ai"
NAMESPACE_DEFAULT: Final = "library"
TAG_DEFAULT: Final = "latest"

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(?::[0-9]{1,5})?")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")


def model_fault(text: str) -> str | None:
    """What is wrong with the name of a model, or None."""
    if not text:
        return "model is empty"
    if len(text) > 512 or unencodable(text):
        return f"not a model name: {shown(text)}"
    if "://" in text or "@" in text:
        return f"not a model name: {shown(text)}"
    path, _, tag = _split_tag(text)
    parts = path.split("/")
    rules = {1: (_NAME,), 2: (_NAMESPACE, _NAME), 3: (_HOST, _NAMESPACE, _NAME)}.get(len(parts))
    if rules is None or not all(rule.fullmatch(part) for rule, part in zip(rules, parts, strict=True)):
        return f"not a model name: {shown(text)}"
    if ":" in text.rpartition("/")[2] and not _NAME.fullmatch(tag):
        return f"not a tag: {shown(text)}"
    return None


def _split_tag(text: str) -> tuple[str, str, str]:
    head, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    return f"{head}{slash}{name}", colon, tag


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """One model, its name complete."""

    host: str | None
    """``host[:port]`` of another registry; None: the one that is configured (``FETCHER_OLLAMA_URL``)."""
    namespace: str
    name: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> OllamaModel:
        """From ``[host/][namespace/]name[:tag]``. Raises ``ValueError``."""
        fault = model_fault(text)
        if fault:
            raise ValueError(fault)
        path, _, tag = _split_tag(text)
        *before, name = path.split("/")
        host = before[0].lower() if len(before) == 2 else None
        if host in (REGISTRY_DEFAULT, f"{REGISTRY_DEFAULT}:443"):
            host = None
        return cls(host, before[-1] if before else NAMESPACE_DEFAULT, name, tag or TAG_DEFAULT)

    @property
    def repository(self) -> str:
        """Name in the registry, as ``library/gpt-oss``."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        head = "" if self.host is None else f"{self.host}/"
        if head or self.namespace != NAMESPACE_DEFAULT:
            head += f"{self.namespace}/"
        return f"{head}{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Ollama:
    """One or several models in one store: a directory with ``blobs`` and ``manifests``, as Ollama itself reads it.

    Raises ``ValueError`` when built with names that can't be right.
    """

    models: tuple[OllamaModel, ...]
    """Sorted, no doubles."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(sorted(set(self.models), key=str)))
        if not 0 < len(self.models) <= MODELS_MAX:
            raise ValueError(f"a store has 1 to {MODELS_MAX} models, not {len(self.models)}")

    @classmethod
    def of(cls, *names: str) -> Ollama:
        """From names as a person types them. Raises ``ValueError``."""
        return cls(tuple(OllamaModel.parse(name) for name in names))

    @property
    def immutable(self) -> bool:
        """Always False: a tag can be moved."""
        return False

    def key(self, endpoint: str) -> str:
        """Identity of this request, 64 hex digits; ``endpoint`` is where models without a host are asked for."""
        return canonical_key("ollama", endpoint, tuple(str(model) for model in self.models))

    def uri(self) -> str:
        """``ollama://gpt-oss:20b``; several models are joined by commas."""
        return "ollama://" + ",".join(str(model) for model in self.models)
