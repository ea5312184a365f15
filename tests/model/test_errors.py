"""The tree of errors: what programs branch on is unique and stable, what people read is complete."""

from __future__ import annotations

import pickle

import pytest

from fetcher import errors
from fetcher.errors import ERROR_CLASSES, Fault, FetcherError, ResourceError

# Written out a second time: a changed number breaks somebody's script, so it must not change by accident.
EXIT_CODES = {
    "internal": 1,
    "usage": 2,
    "resource": 10,
    "partial": 11,
    "not_found": 21,
    "denied": 22,
    "rate_limited": 23,
    "offline": 24,
    "forbidden": 25,
    "transport": 30,
    "integrity": 40,
    "no_space": 50,
    "cache": 51,
    "lease": 60,
    "image": 70,
    "interrupted": 130,
}


def test_kinds_and_exit_codes_are_the_contract() -> None:
    assert {cls.kind: cls.exit_code for cls in ERROR_CLASSES} == EXIT_CODES
    assert len(ERROR_CLASSES) == len(EXIT_CODES)  # no two classes share a kind
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


def test_every_class_of_the_module_is_listed() -> None:
    found = {
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, FetcherError) and cls is not FetcherError
    }
    assert found == set(ERROR_CLASSES)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    for cls in ERROR_CLASSES:
        (line,) = [line for line in errors.__doc__.splitlines() if cls.__name__ in line]
        assert line.split(cls.__name__)[1].split()[0] == str(cls.exit_code)


@pytest.mark.parametrize("cls", ERROR_CLASSES)
def test_an_error_says_what_where_and_how_to_go_on(cls: type[FetcherError]) -> None:
    assert cls.__doc__
    error = cls("no bytes came", hint="try again", resource="hf://acme/tiny@main", at="$.ops[0]")
    assert (str(error), error.message, error.hint) == ("no bytes came", "no bytes came", "try again")
    assert (error.resource, error.at) == ("hf://acme/tiny@main", "$.ops[0]")


def test_what_an_inner_floor_said_is_not_overwritten() -> None:
    error = FetcherError("x", resource="inner")
    assert error.about(resource="outer", at="$.a") is error
    assert (error.resource, error.at) == ("inner", "$.a")


def test_only_what_may_change_by_itself_is_retryable() -> None:
    retryable = {cls.kind for cls in ERROR_CLASSES if cls.retryable}
    assert retryable == {"rate_limited", "offline", "transport", "integrity", "interrupted"}


def test_one_fault_speaks_for_itself() -> None:
    fault = Fault("$.ops", "ops is missing", "add it")
    error = ResourceError.of([fault], document="the job")
    assert (error.message, error.hint, error.at, error.faults) == ("ops is missing", "add it", "$.ops", (fault,))


def test_several_faults_are_all_there_in_order() -> None:
    faults = [Fault(f"$.ops[{index}]", f"fault number {index}") for index in range(3)]
    error = ResourceError.of(faults, document="the job")
    lines = str(error).splitlines()
    assert lines[0] == "the job has 3 faults:"
    assert lines[1:] == [f"  $.ops[{index}]: fault number {index}" for index in range(3)]
    assert error.faults == tuple(faults)


def test_an_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(errors.NotFoundError("gone", hint="look elsewhere")))
    assert (error.message, error.hint, error.exit_code) == ("gone", "look elsewhere", 21)
