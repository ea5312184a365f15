"""The faults of one document while it is read: collected in its order, bounded in number, and free of its secrets.

A document may use one text as a credential in one place and, by mistake, as a name in another. Whatever is known to be
secret anywhere in it is quoted nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from fetcher.errors import Fault, ResourceError
from fetcher.model.json_text import FAULTS_MAX
from fetcher.model.text import without_tokens

SECRET_CHARACTERS_MIN: Final = 4
"""Shorter texts are hidden by nobody: they occur in any message by chance, and protect nothing."""
NAMED_CHARACTERS_MIN: Final = 16
"""Tokens and secret keys have 20 and more; a password of fewer may well be part of an honest name."""
SECRETS_MAX: Final = 1000
"""With more of them nothing of the document is quoted at all: each fault is searched for each."""


@dataclass(slots=True)
class Faults:
    """What is wrong with one document, as far as it was read."""

    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Texts that no message may quote; the document may hold more of them in places that are not read."""
    credentials: tuple[str, ...] = field(default=(), repr=False)
    """Those of them that open something, and so can't be names."""
    found: list[Fault] = field(default_factory=list)
    """The first of them, as many as anybody may want to read."""
    count: int = 0
    """All of them."""

    @property
    def is_full(self) -> bool:
        """Whether more of them would be told to nobody."""
        return len(self.found) >= FAULTS_MAX

    def add(self, at: str, message: str, hint: str | None = None) -> None:
        """One more fault, at a JSON path."""
        self.count += 1
        if not self.is_full:
            self.found.append(Fault(self._clean(at), self._clean(message), None if hint is None else self._clean(hint)))

    def judge(self, at: str, text: str, rule: Callable[[str], str | None], hint: str) -> bool:
        """Whether ``text`` is right by ``rule``, which returns a sentence if it is not."""
        fault = rule(text)
        if fault is None:
            return True
        # A sentence may quote the first half of a long text, which no search for the whole would find.
        if len(self.secrets) > SECRETS_MAX or any(secret in text for secret in self.secrets):
            fault = "not right, and not quoted: the document uses it as a credential"
        self.add(at, fault, hint)
        return False

    def names_secret(self, text: str) -> bool:
        """Whether ``text``, which is about to be a name, holds a credential of the document: names are shown, kept and
        asked for. Of short credentials nobody can tell."""
        return any(len(secret) >= NAMED_CHARACTERS_MIN and secret in text for secret in self.credentials[:SECRETS_MAX])

    def hide(self, texts: Iterable[str]) -> None:
        """Quote none of ``texts`` from now on."""
        self.secrets = tuple(dict.fromkeys((*self.secrets, *(t for t in texts if len(t) >= SECRET_CHARACTERS_MIN))))

    def raise_if_any(self, document: str) -> None:
        """Raise ResourceError with all of them; ``document`` is what to call it."""
        if self.found:
            raise ResourceError.of(self.found, document=document)

    def _clean(self, text: str) -> str:
        for secret in self.secrets[:SECRETS_MAX]:
            text = text.replace(secret, "[hidden]")
        return without_tokens(text)
