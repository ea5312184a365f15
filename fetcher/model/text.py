"""Text of strangers, made fit to be quoted in a message: bounded, printable, without what looks like a credential."""

from __future__ import annotations

import re
from collections.abc import Iterable

SHOWN_CHARACTERS_MAX = 120

_USERINFO = re.compile(
    r"([a-z][a-z0-9+.-]*://)?[^\s?#:/@]*:(?!//|[0-9]{1,5}/)[^\s?#]*@|((?:https?|s3|ollama|docker)://)[^/@\s]*@",
    re.IGNORECASE,
)
"""``user:password@`` with any scheme or none, up to the last ``@`` (a password may hold ``/`` and ``@``; a port is not
one); and a user alone in a URL."""
_QUERY = re.compile(r"((?:https?|s3)://[^\s?#]*)[?#]\S*", re.IGNORECASE)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def unencodable(text: str) -> bool:
    """True where ``text`` has no UTF-8 form: JSON can bring lone surrogates (``"\\ud800"``)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def shown(text: str) -> str:
    """``text`` for a message: at most 120 characters, control characters escaped, and hidden what may be secret: user
    info, queries (signatures live there) and Hub tokens.
    """
    text = without_tokens(_QUERY.sub(r"\1?[hidden]", _USERINFO.sub(_hide_userinfo, text)))
    if len(text) > SHOWN_CHARACTERS_MAX:
        text = text[: SHOWN_CHARACTERS_MAX - 1] + "…"
    return printable(text)


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
