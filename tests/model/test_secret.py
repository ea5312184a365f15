"""A secret must not be readable in anything that prints, stores or sends values by accident."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable

import pytest

from fetcher.model.asker import Asker
from fetcher.model.mount import JobResources, MountRequest
from fetcher.model.resource import HF
from fetcher.model.secret import Secret

TEXT = "hf_ThisMustNeverBeSeen"
SECRET = Secret(TEXT)
HOLDERS = [
    SECRET,
    HF("acme/tiny", token=SECRET),
    Asker("job", SECRET),
    JobResources((MountRequest("op", "$.ops[0]", HF("acme/tiny", token=SECRET), "/data"),)),
]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
@pytest.mark.parametrize(
    "show",
    [repr, str, format, ascii, pprint.pformat, "%s %r".__mod__, lambda holder: f"{holder} {holder!r} {[holder]}"],
)
def test_printing_hides_it(show: Callable[[object], str], holder: object) -> None:
    argument = (holder, holder) if show == "%s %r".__mod__ else holder
    assert TEXT not in show(argument)
    assert "[hidden]" in show(argument)


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
@pytest.mark.parametrize("store", [pickle.dumps, json.dumps, copy.deepcopy])
def test_storing_is_refused(store: Callable[[object], object], holder: object) -> None:
    with pytest.raises(TypeError):
        store(holder)


def test_json_with_a_default_writes_no_secret() -> None:
    assert TEXT not in json.dumps({"token": SECRET}, default=str)


def test_format_specifications_apply_to_the_mask() -> None:
    assert f"{SECRET:>12}" == "    [hidden]"
    assert f"{SECRET:.3}" == "[hi"


def test_logs_and_tracebacks_hide_it(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").warning("token %s of %r", SECRET, HOLDERS[1])
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert TEXT not in caplog.text + shown.replace(f"TEXT = {TEXT!r}", "")


def test_asdict_does_not_hand_it_out() -> None:
    with pytest.raises(TypeError):
        dataclasses.asdict(HF("acme/tiny", token=SECRET))


def test_it_is_there_for_the_wire() -> None:
    assert SECRET.reveal() == TEXT
    assert Secret(TEXT) == SECRET != Secret("other")
    assert Secret(TEXT) != TEXT
    assert len({Secret(TEXT), SECRET, Secret("other")}) == 2


def test_fingerprints_tell_principals_apart_under_one_key_only() -> None:
    assert SECRET.fingerprint(b"key") == Secret(TEXT).fingerprint(b"key")
    assert SECRET.fingerprint(b"key") != Secret("other").fingerprint(b"key")
    assert SECRET.fingerprint(b"key") != SECRET.fingerprint(b"another key")
    assert TEXT not in SECRET.fingerprint(b"key")


def test_anonymous_is_a_principal_of_its_own() -> None:
    assert Asker("job").principal(b"key") is None
    assert Asker("job", SECRET).principal(b"key") == SECRET.fingerprint(b"key")


def test_an_empty_secret_is_a_mistake() -> None:
    with pytest.raises(ValueError):
        Secret("")
