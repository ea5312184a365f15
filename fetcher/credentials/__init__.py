"""Which credential an asker may use for a resource: found once, handed down as a value. Sends nothing by itself.

An *operator* is a person at a command line: the environment and the files of the official clients count. A *job* has
what its own definition carries, or nothing: the node's credentials are not the job's, whoever runs the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fetcher.config import Settings
from fetcher.credentials.hub import for_hf, job_ignores_token, operator_token, token_file
from fetcher.credentials.places import origin
from fetcher.model.asker import Asker, Role
from fetcher.model.resource import HF, S3, Resource

if TYPE_CHECKING:
    from fetcher.credentials.aws import KeysOf, for_s3, operator_keys

__all__ = [
    "for_hf",
    "for_market",
    "for_ollama",
    "for_resource",
    "for_s3",
    "job_ignores_token",
    "may_wait",
    "operator_keys",
    "operator_token",
    "token_file",
]


def for_resource(
    resource: Resource, role: Role, settings: Settings, environ: Mapping[str, str], keys_of: KeysOf | None = None
) -> Asker:
    """The Asker for any resource. Raises UsageError or ResourceError for a credential that can't be sent.

    ``keys_of``: as for ``for_s3``.
    """
    if isinstance(resource, HF):
        return for_hf(resource, role, settings, environ)
    if isinstance(resource, S3):
        from fetcher.credentials.aws import for_s3

        return for_s3(resource, role, settings, environ, keys_of)
    return for_ollama(role, settings)


def may_wait(resource: Resource, role: Role, settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether ``for_resource`` may have to wait for somebody else: not to be called in an event loop's thread then."""
    if role != "operator" or not isinstance(resource, S3):
        return False
    from fetcher.credentials.aws import asks_chain

    return asks_chain(resource, settings, environ)


def for_market(resource: Resource, settings: Settings, environ: Mapping[str, str]) -> Asker:
    """The Asker for an item of a market's list: as a job, with what the list itself gives; and, at the Hub, with the
    operator's own token, since it is the operator's node that has to hold it."""
    if isinstance(resource, HF) and resource.token is None:
        return Asker("job", operator_token(environ))
    return for_resource(resource, "job", settings, environ)


def for_ollama(role: Role, settings: Settings) -> Asker:
    """The Asker for Ollama models, which everybody asks for without a credential."""
    return Asker(role, None, frozenset({origin(settings.ollama_url)}) if role == "operator" else frozenset())


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fetcher.credentials import aws  # the rules of S3's host names cost a hit at the Hub two milliseconds

    return getattr(aws, name)
