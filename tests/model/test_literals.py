"""Literals: what the document knows is filled in as a node would, the rest is named, nothing grows beyond bounds."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.errors import ResourceError
from fetcher.model.job import parse_job
from fetcher.model.literals import BUDGET_UNITS, CHAIN_MAX, LiteralFault, Literals, LiteralWaits, flat, joined
from fetcher.model.mount import JobResources
from fetcher.model.resource import HF, S3, Ollama
from fetcher.model.secret import AWSKeys, Secret

AT = "$.ops[0].args.resources"
MODEL = {"type": "Ollama", "model": "%%global.variables.MODEL%%"}


def read(resources: object, **variables: object) -> JobResources:
    """A job of one op with ``resources`` and these variables."""
    op = {"id": "run", "type": "container/run", "args": {"resources": resources}}
    return parse_job({"ops": [op], "global": {"variables": variables}})


def one(item: object, **variables: object) -> Any:
    """The one resource of a job of one item."""
    resources = read([item], **variables)
    assert not resources.deferred
    (mount,) = resources.mounts
    assert mount.at.startswith(f"{AT}[0]")
    return mount.resource


def fault(resources: object, **variables: object) -> tuple[str, str]:
    """Place and message of the one fault, with its hint."""
    with pytest.raises(ResourceError) as caught:
        read(resources, **variables)
    (found,) = caught.value.faults
    return found.at, f"{found.message}; {found.hint}"


def fill(text: str, **variables: object) -> object:
    return Literals({"global": {"variables": variables}}).fill(text)


# --- variables


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("%%global.variables.A%%", ["x", "y"]),
        ("a %%global.variables.A%% b", "a x y b"),
        ("%%global.variables.N%%", 8),
        ("v%%global.variables.N%%", "v8"),
        ("%%global.variables.F%%-%%global.variables.T%%", "0.5-true"),
        ("%%global.variables.ONE%%!", "1!"),
        ("%%global.variables.JSON%%", '["p", ["q"]]'),
        ("x%%global.variables.JSON%%", "xp q"),
        ("x%%global.variables.O%%", 'x{"a":["ü"]}'),
        ("%%global.variables.CHAIN%%", "x y/x y"),
        ("%%global.variables.LISTS%%", ["x", "y", "z", {"k": ["x", "y"]}, ["w"]]),
        ("100 %% of %% it", "100 %% of %% it"),
    ],
)
def test_what_a_text_stands_for(text: str, value: object) -> None:
    variables = {
        "A": ["x", "y"],
        "N": 8,
        "F": 0.5,
        "T": True,
        "ONE": 1.0,
        "JSON": '["p", ["q"]]',
        "O": {"a": ["ü"]},
        "CHAIN": "%%global.variables.A%%/%%global.variables.A%%",
        "LISTS": ["%%global.variables.A%%", "z", {"k": "%%global.variables.A%%"}, ["w"]],
    }
    assert fill(text, **variables) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), ([], ""), (False, "false"), ([1, [None, "a"]], "1 a"), ("[1", "[1"), (1e300, "1e+300")],
)
def test_how_values_are_joined(value: object, text: str) -> None:
    assert joined(value) == text


def test_the_model_of_the_templates() -> None:
    assert one(MODEL, MODEL="qwen3.6:35b-a3b") == Ollama.of("qwen3.6:35b-a3b")


def test_variables_in_every_field() -> None:
    item = {
        "type": "%%global.variables.TYPE%%",
        "url": "https://host/%%global.variables.DIR%%/x",
        "files": ["first", "%%global.variables.FILES%%", "%%global.variables.DIR%%.bin"],
        "bucket": "%%global.variables.BUCKET%%",
        "target": "/%%global.variables.DIR%%",
        "allowWrite": "%%global.variables.WRITE%%",
        "IAM": "%%global.variables.IAM%%",
    }
    keys = {"ACCESS_KEY_ID": "AKIA", "SECRET_ACCESS_KEY": "%%global.variables.KEY%%"}
    variables = {"TYPE": "S3", "DIR": "d", "FILES": '["a", "b"]', "BUCKET": "weights", "WRITE": "true", "KEY": "k" * 9}
    for iam in (keys, json.dumps(keys)):
        (mount,) = read([item], **variables, IAM=iam).mounts
        expected = S3.at(
            "https://host/d/x", "first", "a", "b", "d.bin", bucket="weights", keys=AWSKeys("AKIA", Secret("k" * 9))
        )
        assert mount.resource == expected
        assert (mount.target, mount.read_only) == ("/d", False)


@pytest.mark.parametrize("files", [["a", "b"], '["a", "b"]', ["a", ["b"]], [[["a"]], '["b"]']])
def test_a_field_that_is_one_literal_may_be_a_list(files: object) -> None:
    item = {"type": "HF", "repo": "acme/tiny", "target": "/x", "files": "%%global.variables.FILES%%"}
    assert one(item, FILES=files) == HF("acme/tiny", files=("a", "b"))
    assert one(item, FILES="only one.bin") == HF("acme/tiny", files=("only one.bin",))


@pytest.mark.parametrize("value", [True, "true", False, "false"])
def test_a_flag_from_a_literal(value: object) -> None:
    item = {"type": "S3", "url": "https://host/x", "target": "/x", "allowWrite": "%%global.variables.W%%"}
    (mount,) = read([item], W=value).mounts
    assert mount.read_only is (value in (False, "false"))


# --- spread, and what is left of a list


@pytest.mark.parametrize("form", [lambda value: value, json.dumps], ids=["list", "text"])
@pytest.mark.parametrize(
    ("item", "place"),
    [
        ({"__spread__": "%%global.variables.LIST%%"}, ".__spread__"),
        ({"__spread__": "%%global.variables.LIST%%", "chunked": False}, ".__spread__"),
        ("%%global.variables.LIST%%", ""),
    ],
)
def test_a_list_of_resources_is_expanded_here(form: Any, item: object, place: str) -> None:
    listed = [MODEL | {"target": "/m"}, {"type": "HF", "repo": "acme/tiny", "target": "/x"}]
    first = {"type": "HF", "repo": "acme/first", "target": "/first"}
    mounts = read([first, item], LIST=form(listed), MODEL="a").mounts
    assert [mount.resource for mount in mounts] == [HF("acme/first"), Ollama.of("a"), HF("acme/tiny")]
    assert [mount.at for mount in mounts] == [f"{AT}[0]", f"{AT}[1]{place}[0]", f"{AT}[1]{place}[1]"]


def test_resources_as_one_literal() -> None:
    listed = [{"type": "Ollama", "model": "a"}]
    (mount,) = read("%%global.variables.LIST%%", LIST=listed).mounts
    assert (mount.at, mount.resource) == (f"{AT}[0]", Ollama.of("a"))
    (deferred,) = read("%%ops.first.results.models%%").deferred
    assert (deferred.op, deferred.at) == ("run", AT)
    assert "op first" in deferred.reason


def test_faults_of_a_spread_resource_are_told_at_the_place_of_use() -> None:
    item = {"__spread__": "%%global.variables.LIST%%"}
    at, message = fault([item], LIST=[{"type": "Ollama", "model": "a"}, {"type": "Ollama", "modle": "a", "model": "b"}])
    assert at == f"{AT}[0].__spread__[1].modle"
    assert "did you mean model?" in message


@pytest.mark.parametrize("value", ["not JSON", 3, '{"type": "Ollama"}'])
def test_a_spread_of_something_else_is_a_fault(value: object) -> None:
    assert fault([{"__spread__": "%%global.variables.X%%"}], X=value)[0].startswith(f"{AT}[0].__spread__")


@pytest.mark.parametrize(
    "resources",
    [
        ["__remove-if-empty__"],
        [{"__spread__": "%%global.variables.EMPTY%%"}, "__remove-if-empty__"],
        ["%%global.variables.EMPTY%%", "__remove-if-empty__"],
        ["%%global.variables.SENTINEL%%"],
    ],
)
def test_what_may_be_empty_is_dropped_after_the_expansion(resources: list[object]) -> None:
    assert read(resources, EMPTY=[], SENTINEL="__remove-if-empty__") == JobResources((), ())


def test_files_of_which_nothing_is_left_are_absent() -> None:
    item = {"type": "HF", "repo": "acme/tiny", "target": "/x"}
    assert one({**item, "files": ["%%global.variables.EMPTY%%", "__remove-if-empty__"]}, EMPTY=[]) == HF("acme/tiny")


# --- what can't be known


@pytest.mark.parametrize(
    ("literal", "word"),
    [
        ("%%ops.story.results.slug%%", "op story"),
        ("%%ops.story.host%%", "op story"),
        ("%%ops.story.endpoint.8080%%", "op story"),
        ("%%ops.story.results.some key%%", "op story"),
        *(
            (f"%%{form}.{key}%%", key)
            for form in ("global", "globals")
            for key in ("job", "host", "project", "frps_address")
        ),
    ],
)
def test_what_only_a_running_job_knows_is_deferred_and_named(literal: str, word: str) -> None:
    for item in (
        {"type": "S3", "url": f"s3://my-bucket/stories/{literal}", "target": "/upload"},
        {"type": "Ollama", "model": literal},
        {"__spread__": literal},
        {"type": "Ollama", "model": "%%global.variables.INDIRECT%%"},
    ):
        (deferred,) = read([item], INDIRECT=literal).deferred
        assert (deferred.op, deferred.at) == ("run", f"{AT}[0]")
        assert word in deferred.reason


def test_the_known_models_of_a_target_do_not_wait_for_the_others() -> None:
    resources = read([{"type": "Ollama", "model": "a"}, {"type": "Ollama", "model": "%%ops.first.results.model%%"}])
    assert [mount.resource for mount in resources.mounts] == [Ollama.of("a")]
    assert [deferred.at for deferred in resources.deferred] == [f"{AT}[1]"]


@pytest.mark.parametrize(
    ("literal", "words"),
    [
        ("%%global.variables.MODLE%%", "no variable MODLE in $.global.variables; did you mean MODEL?"),
        ("%%global.variables.OTHER%%", "no variable OTHER in $.global.variables; set it there"),
        ("x%%global.variables.OTHER%%%%ops.a.results.b%%", "no variable OTHER"),
        ("%%global.variables.EMPTY%%", "variable EMPTY is empty"),
        ("%%global.variables.NULL%%", "variable NULL is empty"),
        ("%%globals.variables.MODEL%%", "write global, not globals"),
        ("%%global.variable.MODEL%%", "unknown literal %%global.variable.MODEL%%; literals are %%global.variables"),
        ("%%MODEL%%", "unknown literal %%MODEL%%"),
        ("%%global.variables.SELF%%", "variable SELF stands for itself"),
        ("%%global.variables.RING%%", "stands for itself"),
        ("%%global.variables.C0%%", f"more than {CHAIN_MAX} variables refer to each other"),
    ],
)
def test_a_literal_that_stands_for_nothing(literal: str, words: str) -> None:
    variables: dict[str, object] = {"MODEL": "a", "EMPTY": "", "NULL": None, "SELF": ["%%global.variables.SELF%%"]}
    variables |= {"RING": "x%%global.variables.GNIR%%", "GNIR": {"a": "%%global.variables.RING%%"}}
    variables |= {f"C{n}": f"%%global.variables.C{n + 1}%%" for n in range(CHAIN_MAX + 1)}
    at, message = fault([{"type": "Ollama", "model": literal}], **variables)
    assert at == f"{AT}[0].model"
    assert words in message


@pytest.mark.parametrize("section", [None, [], {"image": "x"}, {"variables": None}, {"variables": ["MODEL"]}])
def test_a_document_without_variables(section: object) -> None:
    document = {"ops": [{"id": "run", "args": {"resources": [MODEL]}}], "global": section}
    with pytest.raises(ResourceError, match=r"no variable MODEL: the document has no object \$\.global\.variables"):
        parse_job(document)
    assert parse_job({"ops": [], "global": section}) == JobResources((), ())


# --- bounds


@pytest.mark.parametrize("form", ["text", "list"])
def test_variables_that_double_each_other_end(form: str) -> None:
    double = "%%global.variables.{0}%%" * 2 if form == "text" else ["%%global.variables.{0}%%"] * 2
    variables: dict[str, object] = {"V0": "abc" if form == "text" else ["a"]}
    for number in range(1, 15):
        text = json.dumps(double).replace("{0}", f"V{number - 1}")
        variables[f"V{number}"] = json.loads(text)
    uses = ["%%global.variables.V14%%"] * 9
    literals = Literals({"global": {"variables": variables}})
    with pytest.raises(LiteralFault, match="stand for more than"):
        for use in uses * (BUDGET_UNITS // 100_000):
            literals.fill(use)


def test_many_uses_of_a_long_variable_end() -> None:
    items = [{"type": "HF", "repo": "acme/tiny", "target": "/x%%global.variables.LONG%%"}] * 900
    with pytest.raises(ResourceError, match="stand for more than"):
        read(items, LONG="x" * 10_000)


# --- secrets


@pytest.mark.parametrize("name", ["TOKEN", "PLAIN"])
@pytest.mark.parametrize("value", ["NeverBeSeen", ["NeverBeSeen"], '["NeverBeSeen"]', "%%global.variables.INNER%%"])
def test_secrets_in_variables_are_secrets(name: str, value: object) -> None:
    literal = f"%%global.variables.{name}%%"
    variables = {name: value, "INNER": "NeverBeSeen"}
    item = {"type": "HF", "repo": "acme/tiny", "target": "/x", "accessToken": literal}
    resources = read([item], **variables)
    (mount,) = resources.mounts
    assert isinstance(mount.resource, HF)
    assert mount.resource.token == Secret("NeverBeSeen")
    assert "NeverBeSeen" not in repr(resources)
    # The same variable by mistake where names stand, also in front of the place that shows it to be secret.
    wrong = {"type": "HF", "repo": f"{literal} ", "target": f"/x/../{literal}", "revision": f"{'y' * 110}{literal} "}
    bad = {
        "type": "S3",
        "url": f"ftp://{literal}",
        "files": [f"/{literal}"],
        "target": literal,
        "bucket": f"{literal} b",
    }
    with pytest.raises(ResourceError) as caught:
        read([wrong, bad, item | {"oops": 1}], **variables)
    error = caught.value
    assert len(error.faults) == 8
    assert "NeverBe" not in f"{error} {error.hint} {error.faults!r}"


def test_texts_of_no_secret_are_quoted() -> None:
    assert "'a b'" in fault([{"type": "HF", "repo": "a b", "target": "/x"}])[1]


# --- whatever comes

_PIECES = st.sampled_from(
    [
        "%%global.variables.A%%",
        "%%global.variables.B%%",
        "%%ops.a.results.b%%",
        "%%global.job%%",
        "%%",
        "a",
        "[",
        '["a"]',
    ]
)
_VALUES = st.recursive(
    st.lists(_PIECES, max_size=3).map("".join) | st.integers() | st.none() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "TOKEN"]), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(_PIECES, max_size=4).map("".join), _VALUES, _VALUES)
def test_any_literal_stands_for_something_or_is_explained(text: str, first: object, second: object) -> None:
    literals = Literals({"global": {"variables": {"A": first, "B": second}}})
    literals.secrets(first, second)
    with suppress(LiteralFault, LiteralWaits):
        value = literals.fill(text)
        assert "%%global.variables" not in joined(value)


def test_texts_in_texts_are_taken_apart_as_deep_as_a_document_may_be() -> None:
    """Each text is within its bounds; all of them together would be as deep as somebody likes."""

    def nested(texts: int) -> Any:
        value: Any = "x"
        for _ in range(texts):
            value = "[" * 20 + json.dumps(value) + "]" * 20
        return value

    assert list(flat(nested(3))) == ["x"]
    assert joined(nested(3)) == "x"
    (left,) = flat(nested(6))
    assert isinstance(left, str) and left.startswith("[")
    assert joined(nested(6)) == left
