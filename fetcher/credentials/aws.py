"""The keys, or the query, with which an asker may ask for an S3 resource.

A job has its own ``IAM``, or the query of its URL, or nothing. An operator has the resource's own keys, else those that
AWS's programs would use: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN``, else botocore's
chain. That chain costs 200 ms to load and may ask token services, so it is only begun where something of it is there:
a profile, a configuration or credentials file, a web identity, a container's address. The address of cloud machines'
metadata is asked only if ``AWS_EC2_METADATA_DISABLED`` is ``false`` in so many words: everywhere else the question ends
in a time-out, and most downloads need no keys at all.

An operator's keys are for S3 endpoints (``s3://`` URLs, AWS, R2, B2, GCS, and the configured endpoint); any other host
that is typed is asked without.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fetcher.config import Settings
from fetcher.credentials.places import expanded, origin
from fetcher.errors import ResourceError, UsageError
from fetcher.model.asker import Asker, Role
from fetcher.model.s3 import S3, S3Location
from fetcher.model.s3_address import is_api_host
from fetcher.model.secret import AWSKeys, Secret

KEY_ID, SECRET_KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
SESSION_TOKENS = ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
PROFILES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
WITHOUT_FILES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Any of these says that there is something for botocore's chain to find."""
METADATA_DISABLED = "AWS_EC2_METADATA_DISABLED"

KeysOf = Callable[[Mapping[str, str]], AWSKeys | None]
"""From an environment to the keys that it leads to, or None. Raises UsageError."""

_KEY_ID = re.compile(r"[\x21-\x2b\x2d\x2e\x30-\x7e]+")
"""What can stand in a signature's scope: printable, no comma, no slash."""
_WORD = re.compile(r"[\x21-\x7e]+")


def for_s3(
    resource: S3, role: Role, settings: Settings, environ: Mapping[str, str], keys_of: KeysOf | None = None
) -> Asker:
    """The Asker for an S3 resource. ``keys_of`` takes the place of ``operator_keys``, which may wait for others: see
    ``asks_chain``.

    A query that is more than a version's id counts as a credential, signed or not: it may be one, so what was fetched
    with it is private. Raises UsageError for keys of the environment, ResourceError for those of the resource, that
    can't be used.
    """
    query = _query(resource)
    if resource.keys is not None:
        _check(resource.keys)
    if role != "operator":
        return Asker("job", resource.keys or query)
    # Those of this resource and no others: where one of them leads inside, all of it is the operator's alone.
    named = [location.url for location in resource.locations]
    trusted = {origin(settings.s3_endpoint if url.startswith("s3:") else url) for url in named}
    keys = resource.keys
    if _takes_operator_keys(resource, settings):
        keys = (keys_of or operator_keys)(environ)
    if keys is not None and keys.region is None:
        keys = replace(keys, region=_first(environ, REGIONS))
    return Asker("operator", keys or query, frozenset(trusted))


def asks_chain(resource: S3, settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether ``for_s3`` asks botocore's chain for an operator's keys, which may take as long as a token service, or a
    program of the operator's, likes. Raises ResourceError as ``for_s3`` does."""
    in_environment = _text(environ, KEY_ID) or _text(environ, SECRET_KEY)
    return not in_environment and _has_chain(environ) and _takes_operator_keys(resource, settings)


def operator_keys(environ: Mapping[str, str]) -> AWSKeys | None:
    """The keys of the person at the command line, or None. Raises UsageError for keys that can't be used, or had."""
    key_id, secret = _text(environ, KEY_ID), _text(environ, SECRET_KEY)
    if key_id and secret:
        token = _first(environ, SESSION_TOKENS)
        keys = AWSKeys(key_id, Secret(secret), Secret(token) if token else None)
        if not _KEY_ID.fullmatch(key_id) or (token and not _WORD.fullmatch(token)):
            raise UsageError("the AWS keys of the environment hold characters that no key has", hint="copy them again")
        return keys
    if key_id or secret:
        missing = SECRET_KEY if key_id else KEY_ID
        raise UsageError(f"{KEY_ID if key_id else SECRET_KEY} is set, {missing} is not", hint=f"set {missing} too")
    return _from_chain(environ) if _has_chain(environ) else None


def _query(resource: S3) -> Secret | None:
    """The queries of a resource's URLs, as ``origins.s3_request.query_of`` reads them: URL, space, query, joined by
    NUL."""
    found: dict[str, str] = {}
    for location in resource.locations:
        if location.query is not None and location.holds_secret:
            query = location.query.reveal()
            if found.setdefault(location.url, query) != query:
                raise ResourceError(
                    f"{location.url} stands there with two queries", hint="make two resources of it, each with a target"
                )
    return Secret("\0".join(f"{url} {query}" for url, query in found.items())) if found else None


def _takes_operator_keys(resource: S3, settings: Settings) -> bool:
    if resource.keys is not None or _query(resource) is not None:
        return False
    return all(_takes_keys(location, settings) for location in resource.locations)


def _takes_keys(location: S3Location, settings: Settings) -> bool:
    return is_api_host(location.url, settings.s3_endpoint)


def _check(keys: AWSKeys) -> None:
    token = keys.session_token
    if not _KEY_ID.fullmatch(keys.access_key_id) or (token is not None and not _WORD.fullmatch(token.reveal())):
        raise ResourceError("IAM holds characters that no key has", hint="copy it again; blanks are no part of it")


def _has_chain(environ: Mapping[str, str]) -> bool:
    if any(_text(environ, name) for name in (*PROFILES, *WITHOUT_FILES)):
        return True
    return _uses_metadata(environ) or any(os.path.isfile(path) for path in _files(environ).values())


def _uses_metadata(environ: Mapping[str, str]) -> bool:
    return _text(environ, METADATA_DISABLED).lower() == "false"


def _files(environ: Mapping[str, str]) -> dict[str, Path]:
    """botocore's name of a file → where it is."""
    return {
        "credentials_file": expanded(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", environ),
        "config_file": expanded(environ.get("AWS_CONFIG_FILE") or "~/.aws/config", environ),
    }


def _from_chain(environ: Mapping[str, str]) -> AWSKeys | None:
    """What botocore finds in files and at token services. Web identities and containers' addresses it reads from the
    process's own environment."""
    from botocore.session import Session

    try:
        session: Any = Session(profile=_first(environ, PROFILES))
        for name, path in _files(environ).items():
            session.set_config_variable(name, str(path))
        chain = session.get_component("credential_provider")
        chain.remove("env")  # read above, from the environment that was handed in
        if not _uses_metadata(environ):
            chain.remove("iam-role")
        found = session.get_credentials()
        if found is None:
            return None
        frozen = found.get_frozen_credentials()
        region = _first(environ, REGIONS) or session.get_config_variable("region") or None
    except Exception as error:  # botocore's own, and what becomes of files and programs of any kind
        raise UsageError(
            f"no AWS keys could be had: {type(error).__name__}",
            hint="check AWS_PROFILE and ~/.aws/config, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from None
    token = Secret(frozen.token) if frozen.token else None
    return AWSKeys(frozen.access_key, Secret(frozen.secret_key), token, region)


def _text(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip()


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((text for name in names if (text := _text(environ, name))), None)
