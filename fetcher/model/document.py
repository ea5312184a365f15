"""The text of a document → its value: JSON, and what is no JSON as YAML. Whatever is wrong is told as ResourceError."""

from __future__ import annotations

from fetcher.errors import ResourceError
from fetcher.model.json_text import JSONFaults, NotJSON, parse_json


def parse_document(text: str | bytes, document: str) -> object:
    """The value of ``text``; ``document`` is what to call it. Raises ResourceError with all faults of the form."""
    try:
        try:
            return parse_json(text)
        except NotJSON as error:
            from fetcher.model.yaml_text import parse_yaml  # 30 ms that JSON does not need

            return parse_yaml(text, not_json=error.faults[0])
    except JSONFaults as error:
        raise ResourceError.of(error.faults, document=document) from None
