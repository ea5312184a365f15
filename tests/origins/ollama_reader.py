"""A store read as Ollama reads it, after its rules and not with our code: which models there are, and whether each is
whole.

Rules (ollama 0.21): a model is a file exactly four folders below ``manifests`` (manifest/manifest.go); the folders are
host, namespace, model and tag, of letters, digits and ``_ - .`` in certain places, beginning with a letter, digit or
``_``, at most 350 (host) or 80 characters long (types/model/name.go); a blob is ``blobs/sha256-`` and 64 hex digits
(manifest/paths.go); config and all layers of a model must be there with the size that the manifest names.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

_HOST = re.compile(r"\w[\w.:-]{0,349}", re.ASCII)
_NAMESPACE = re.compile(r"\w[\w-]{0,79}", re.ASCII)
_PART = re.compile(r"\w[\w.-]{0,79}", re.ASCII)
_BLOB = re.compile(r"sha256:[0-9a-fA-F]{64}")


def models_in(store: Path) -> dict[str, int]:
    """Full name → bytes of config and layers. Raises AssertionError that names what Ollama would stumble over."""
    found = {}
    for path in sorted((store / "manifests").rglob("*")):
        if path.is_dir():
            continue
        parts = path.relative_to(store / "manifests").parts
        assert len(parts) == 4, f"{path} is not four folders deep: Ollama does not see it"
        rules = (_HOST, _NAMESPACE, _PART, _PART)
        assert all(rule.fullmatch(part) for rule, part in zip(rules, parts, strict=True)), path
        host, namespace, name, tag = parts
        found[f"{host}/{namespace}/{name}:{tag}"] = _checked(store, path)
    return found


def _checked(store: Path, manifest: Path) -> int:
    document = json.loads(manifest.read_bytes())
    rows = list(document["layers"] or [])
    if document["config"]["digest"]:
        rows.append(document["config"])
    total = 0
    for row in rows:
        assert _BLOB.fullmatch(row["digest"]), row
        data = (store / "blobs" / row["digest"].replace(":", "-")).read_bytes()
        assert len(data) == row["size"], row
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == row["digest"], row
        total += len(data)
    return total
