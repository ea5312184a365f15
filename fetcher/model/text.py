"""Text of strangers, made fit to be quoted in a message: bounded, printable, without what looks like a credential."""

from __future__ import annotations

import re
from collections.abc import Iterable

SHOWN_CHARACTERS_MAX = 120
LOOKED_AT_CHARACTERS_MAX = 600
"""Of a text that is shown. The rules below look ahead from every character, and a document may hold texts of MiBs."""

_USERINFO = re.compile(
    r"(?<![^\s?#:/@])([a-z][a-z0-9+.-]*://)?[^\s?#:/@]*:(?!//|[0-9]{1,5}/)[^\s?#]*@"
    r"|((?:https?|s3|ollama|docker)://)[^/@\s]*@",
    re.IGNORECASE,
)
"""``user:password@`` with any scheme or none, up to the last ``@`` (a password may hold ``/`` and ``@``; a port is not
one); and a user alone in a URL."""
_QUERY = re.compile(
    r"(\A[a-z][a-z0-9+.-]*://[^?#]*)[?#].*|(?<![a-z0-9+.-])([a-z0-9+.-]+://[^\s?#]*)[?#]\S*", re.IGNORECASE | re.DOTALL
)
"""A text that begins as a URL is one to its end, blanks or not."""
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def unencodable(text: str) -> bool:
    """True where ``text`` has no UTF-8 form: JSON can bring lone surrogates (``"\\ud800"``)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def shown(text: str, characters_max: int = SHOWN_CHARACTERS_MAX) -> str:
    """``text`` for a message: at most 120 characters, control characters escaped, and hidden what may be secret: user
    info, queries (signatures live there) and Hub tokens.
    """
    looked_at = max(LOOKED_AT_CHARACTERS_MAX, characters_max + 1)
    if len(text) > looked_at:
        if "@" in text[looked_at:]:
            return "[hidden]…"  # what is in front of it may all be a password
        text = text[:looked_at]
    text = without_tokens(_QUERY.sub(_hide_query, _USERINFO.sub(_hide_userinfo, text)))
    if len(text) > characters_max:
        text = text[: characters_max - 1] + "…"
    return printable(text)


def _hide_query(match: re.Match[str]) -> str:
    return f"{match[1] or match[2]}?[hidden]"


def _hide_userinfo(match: re.Match[str]) -> str:
    return f"{match[1] or match[2] or ''}[hidden]@"


def without_tokens(text: str) -> str:
    """``text`` with whatever looks like a Hub token hidden: people paste tokens into the wrong field."""
    return _TOKEN.sub("[hidden]", text)


def printable(text: str) -> str:
    """``text`` with everything escaped that could move a cursor, change a colour or break a line of a terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a typing error most likely meant, if any is near."""
    from difflib import get_close_matches  # only on the way to an error

    if len(name) > 64:
        return None
    folded = {candidate.lower(): candidate for candidate in known}
    return next((folded[match] for match in get_close_matches(name.lower(), folded, n=1)), None)
