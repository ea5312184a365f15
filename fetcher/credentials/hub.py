"""The Hub token that an asker may use.

Precedence is that of the official client (huggingface_hub 2.4): ``HF_TOKEN``, then the older
``HUGGING_FACE_HUB_TOKEN``, then the token file, which is ``HF_TOKEN_PATH``, else ``$HF_HOME/token``, else
``$XDG_CACHE_HOME/huggingface/token``, else ``~/.cache/huggingface/token``. ``HF_HUB_DISABLE_IMPLICIT_TOKEN`` switches
all of these off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fetcher.config import Settings
from fetcher.credentials.places import expanded, origin
from fetcher.errors import ResourceError, UsageError
from fetcher.model.asker import Asker, Role
from fetcher.model.resource import HF
from fetcher.model.secret import Secret

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
TOKEN_FILE_BYTES_MAX = 16 << 10

_TOKEN = re.compile(r"[\x21-\x7e]+")
"""What can stand in a header without being quoted; Hub tokens are letters, digits and ``_``."""
_TRUE = frozenset({"1", "on", "yes", "true"})


def for_hf(resource: HF, role: Role, settings: Settings, environ: Mapping[str, str]) -> Asker:
    """The Asker for a Hub resource. The resource's own token always wins.

    Raises UsageError for a token of the environment, ResourceError for one of the resource, that can't be sent.
    """
    if resource.token is not None and not _TOKEN.fullmatch(resource.token.reveal()):
        raise ResourceError(
            "the access token holds characters that no token has", hint="copy it again; blanks are no part of it"
        )
    if role == "operator":  # asked for by name: whatever else a caller may say gets less, never more
        token = resource.token or operator_token(environ)
        return Asker("operator", token, frozenset({origin(settings.hf_endpoint)}))
    return Asker("job", resource.token)


def job_ignores_token(environ: Mapping[str, str]) -> bool:
    """Whether the environment names a Hub token that jobs do not get; worth one sentence to the person."""
    return any(_stripped(environ.get(name)) for name in TOKEN_VARIABLES)


def operator_token(environ: Mapping[str, str]) -> Secret | None:
    """The Hub token of the person at the command line, or None. Raises UsageError if there is one that can't be
    used."""
    if _stripped(environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN")).lower() in _TRUE:
        return None
    for name in TOKEN_VARIABLES:
        text = _stripped(environ.get(name))
        if text:
            return _secret(text, name)
    path = token_file(environ)
    text = _stripped(_read(path))
    return _secret(text, str(path)) if text else None


def token_file(environ: Mapping[str, str]) -> Path:
    """Where the official client keeps the token."""
    if named := environ.get("HF_TOKEN_PATH"):
        return expanded(named, environ)
    if home := environ.get("HF_HOME"):
        return expanded(home, environ) / "token"
    if cache := environ.get("XDG_CACHE_HOME"):
        return expanded(cache, environ) / "huggingface" / "token"
    return expanded("~/.cache/huggingface/token", environ)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(TOKEN_FILE_BYTES_MAX).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise UsageError(
            f"can't read the Hub token in {path}: {reason.lower()}",
            hint="let this user read it, or set HF_TOKEN, or HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to do without",
        ) from None


def _stripped(text: str | None) -> str:
    return (text or "").replace("\r", "").replace("\n", "").strip()


def _secret(text: str, place: str) -> Secret:
    if not _TOKEN.fullmatch(text):
        raise UsageError(f"{place} holds characters that no token has", hint="copy the token again, it is one word")
    return Secret(text)
