"""All families, in the order of the floors they are on."""

from __future__ import annotations

from tests.fuzz import answers, documents, files
from tests.fuzz.harness import Family

FAMILIES: tuple[Family, ...] = (*documents.FAMILIES, *answers.FAMILIES, *files.FAMILIES)
