"""Which keys an asker gets for S3: the resource's own, for an operator at an S3 endpoint those of the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fetcher import credentials
from fetcher.config import Settings
from fetcher.errors import ResourceError, UsageError
from fetcher.model.asker import Role
from fetcher.model.resource import HF, Ollama
from fetcher.model.s3 import S3, S3Location
from fetcher.model.secret import AWSKeys, Secret

KEYS = AWSKeys("AKIDOWN", Secret("own-secret"))
ENVIRON = {"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "env-secret", "AWS_SESSION_TOKEN": "env-token"}
FROM_ENVIRON = AWSKeys("AKIDENV", Secret("env-secret"), Secret("env-token"))
OWN = "http://127.0.0.1:9000"


def settings(endpoint: str = "https://s3.amazonaws.com") -> Settings:
    return Settings(cache_dir=Path("/unused"), state_dir=Path("/unused"), s3_endpoint=endpoint)


def home(tmp_path: Path, **files: str) -> dict[str, str]:
    (tmp_path / ".aws").mkdir(exist_ok=True)
    for name, text in files.items():
        (tmp_path / ".aws" / name).write_text(text)
    return {"HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("url", "endpoint", "keys"),
    [
        ("s3://b-1/k", "https://s3.amazonaws.com", FROM_ENVIRON),
        ("s3://b-1/k", OWN, FROM_ENVIRON),
        ("https://b-1.s3.amazonaws.com/k", OWN, FROM_ENVIRON),
        ("https://acct.r2.cloudflarestorage.com/b-1/k", OWN, FROM_ENVIRON),
        ("https://s3.us-west-004.backblazeb2.com/b-1/k", OWN, FROM_ENVIRON),
        ("https://storage.googleapis.com/b-1/k", OWN, FROM_ENVIRON),
        (f"{OWN}/b-1/k", OWN, FROM_ENVIRON),
        ("http://127.0.0.1:9001/b-1/k", OWN, None),
        ("https://models.example/k", OWN, None),
        ("https://pub-1.r2.dev/k", OWN, None),
        ("https://s3.amazonaws.com.evil.example/b-1/k", OWN, None),
    ],
)
def test_an_operators_keys_go_to_s3_endpoints_only(url: str, endpoint: str, keys: AWSKeys | None) -> None:
    asker = credentials.for_s3(S3.at(url), "operator", settings(endpoint), ENVIRON)
    assert (asker.role, asker.credential) == ("operator", keys)


def test_several_places_get_them_only_if_all_are_such() -> None:
    places = (S3Location.parse("s3://b-1/k"), S3Location.parse("https://models.example/k"))
    assert credentials.for_s3(S3(places), "operator", settings(), ENVIRON).credential is None


def test_a_job_gets_its_own_or_nothing(tmp_path: Path) -> None:
    environ = ENVIRON | home(tmp_path, credentials="[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
    assert credentials.for_s3(S3.at("s3://b-1/k"), "job", settings(), environ).credential is None
    asker = credentials.for_s3(S3.at("s3://b-1/k", keys=KEYS), "job", settings(), environ)
    assert (asker.role, asker.credential, asker.trusted_origins) == ("job", KEYS, frozenset())


def test_the_resources_own_keys_win() -> None:
    for url in ("s3://b-1/k", "https://models.example/k"):
        asker = credentials.for_s3(S3.at(url, keys=KEYS), "operator", settings(), ENVIRON)
        assert asker.credential == KEYS


def test_an_operators_region_is_used_where_none_is_given() -> None:
    environ = ENVIRON | {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}
    asker = credentials.for_s3(S3.at("s3://b-1/k"), "operator", settings(), environ)
    assert isinstance(asker.credential, AWSKeys) and asker.credential.region == "eu-west-1"
    own = S3.at("s3://b-1/k", keys=AWSKeys("A", Secret("B"), region="us-west-2"))
    asker = credentials.for_s3(own, "operator", settings(), environ)
    assert isinstance(asker.credential, AWSKeys) and asker.credential.region == "us-west-2"
    job = credentials.for_s3(S3.at("s3://b-1/k", keys=KEYS), "job", settings(), environ)
    assert isinstance(job.credential, AWSKeys) and job.credential.region is None


def test_what_an_operator_typed_or_configured_is_trusted_for_what_lies_there() -> None:
    def trusted(*urls: str, endpoint: str = OWN) -> frozenset[str]:
        places = tuple(S3Location.parse(url) for url in urls)
        return credentials.for_s3(S3(places), "operator", settings(endpoint), {}).trusted_origins

    assert trusted("s3://b-1/k", "https://models.example/k") == {OWN, "https://models.example:443"}
    assert trusted("s3://b-1/k", endpoint="https://s3.amazonaws.com") == {"https://s3.amazonaws.com:443"}
    # Else what lies in public would be the operator's alone as soon as his own endpoint, inside, had been asked.
    assert trusted("https://models.example/k") == {"https://models.example:443"}


@pytest.mark.parametrize(
    "environ",
    [
        {"AWS_ACCESS_KEY_ID": "A"},
        {"AWS_SECRET_ACCESS_KEY": "B"},
        {"AWS_ACCESS_KEY_ID": "A B", "AWS_SECRET_ACCESS_KEY": "B"},
        {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B", "AWS_SESSION_TOKEN": "a\nb"},
    ],
)
def test_keys_of_the_environment_that_can_not_be_used(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        credentials.for_s3(S3.at("s3://b-1/k"), "operator", settings(), environ)
    assert caught.value.hint and "B" not in caught.value.message.split()


def test_keys_of_the_resource_that_can_not_be_used() -> None:
    for keys in (AWSKeys("A,B", Secret("C")), AWSKeys("A", Secret("C"), Secret("a\nb"))):
        with pytest.raises(ResourceError, match="IAM"):
            credentials.for_s3(S3.at("s3://b-1/k", keys=keys), "job", settings(), {})


def test_a_query_is_a_credential_of_its_own() -> None:
    url = "https://b-1.s3.amazonaws.com/k?X-Amz-Signature=hunter2"
    for role in ("operator", "job"):
        asker = credentials.for_s3(S3.at(url), role, settings(), ENVIRON)
        assert asker.credential == Secret("https://b-1.s3.amazonaws.com/k X-Amz-Signature=hunter2")
        assert asker.principal(b"k" * 32) is not None and "hunter2" not in repr(asker)
    plain = credentials.for_s3(S3.at("https://models.example/k?download=1"), "job", settings(), {})
    assert plain.credential == Secret("https://models.example/k download=1")
    version = credentials.for_s3(S3.at("s3://b-1/k?versionId=v1"), "job", settings(), {})
    assert version.credential is None
    twice = S3(tuple(S3Location.parse(f"https://models.example/k?file={name}") for name in "ab"))
    with pytest.raises(ResourceError, match="two queries"):
        credentials.for_s3(twice, "job", settings(), {})


# -- the chain ---------------------------------------------------------------------------------------------------------

CREDENTIALS = """[default]
aws_access_key_id = AKIDFILE
aws_secret_access_key = file-secret
[other]
aws_access_key_id = AKIDOTHER
aws_secret_access_key = other-secret
aws_session_token = other-token
"""


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("clean")
def test_files_and_profiles_are_read_as_aws_reads_them(tmp_path: Path) -> None:
    environ = home(tmp_path, credentials=CREDENTIALS, config="[profile other]\nregion = eu-west-3\n")
    assert credentials.operator_keys(environ) == AWSKeys("AKIDFILE", Secret("file-secret"))
    other = AWSKeys("AKIDOTHER", Secret("other-secret"), Secret("other-token"), "eu-west-3")
    assert credentials.operator_keys(environ | {"AWS_PROFILE": "other"}) == other
    assert credentials.operator_keys(environ | {"AWS_PROFILE": "other"} | ENVIRON) == FROM_ENVIRON
    moved = {"HOME": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / ".aws" / "credentials")}
    assert credentials.operator_keys(moved) == AWSKeys("AKIDFILE", Secret("file-secret"))


@pytest.mark.usefixtures("clean")
def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ProfileNotFound") as caught:
        credentials.operator_keys(home(tmp_path, credentials=CREDENTIALS) | {"AWS_PROFILE": "missing"})
    assert caught.value.hint


@pytest.mark.usefixtures("clean")
def test_a_file_without_keys_is_nothing(tmp_path: Path) -> None:
    assert credentials.operator_keys(home(tmp_path, config="[default]\nregion = eu-west-1\n")) is None


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    "program",
    ["/nonexistent/program", "/dev/null", "false", "true", "echo no-json", "echo []", "echo {}", "echo null"],
)
def test_a_program_that_gives_no_keys(tmp_path: Path, program: str) -> None:
    environ = home(tmp_path, config=f"[default]\ncredential_process = {program}\n")
    with pytest.raises(UsageError, match="no AWS keys could be had") as caught:
        credentials.operator_keys(environ)
    assert caught.value.hint and program not in caught.value.message


@pytest.mark.usefixtures("clean")
def test_it_is_known_beforehand_whether_somebody_has_to_be_asked(tmp_path: Path) -> None:
    environ = home(tmp_path, credentials=CREDENTIALS)

    def may_wait(url: str, role: Role = "operator", **more: str) -> bool:
        return credentials.may_wait(S3.at(url), role, settings(), environ | more)

    assert may_wait("s3://b-1/k") and may_wait("https://b-1.s3.amazonaws.com/k?versionId=v1")
    assert not may_wait("s3://b-1/k", "job")
    assert not may_wait("s3://b-1/k", **ENVIRON)
    assert not may_wait("https://models.example/k")
    assert not may_wait("https://b-1.s3.amazonaws.com/k?X-Amz-Signature=hunter2")
    assert not credentials.may_wait(S3.at("s3://b-1/k", keys=KEYS), "operator", settings(), environ)
    assert not credentials.may_wait(S3.at("s3://b-1/k"), "operator", settings(), {"HOME": "/nowhere"})
    assert not credentials.may_wait(HF("acme/own"), "operator", settings(), environ)
    given = AWSKeys("AKIDGIVEN", Secret("given-secret"))
    operator = credentials.for_s3(S3.at("s3://b-1/k"), "operator", settings(), environ, lambda _: given)
    assert operator.credential == given
    assert credentials.for_s3(S3.at("s3://b-1/k"), "job", settings(), environ, lambda _: given).credential is None


def run(program: str, environ: dict[str, str]) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_without_a_trace_of_keys_botocore_is_not_even_loaded(tmp_path: Path) -> None:
    program = (
        "import os, sys; from fetcher import credentials; from fetcher.config import Settings\n"
        "from fetcher.model.s3 import S3; from pathlib import Path\n"
        "s = Settings(cache_dir=Path('/unused'), state_dir=Path('/unused'))\n"
        "asker = credentials.for_s3(S3.at('s3://b-1/k'), 'operator', s, os.environ)\n"
        "print(asker.credential, 'botocore' in sys.modules)"
    )
    assert run(program, {"HOME": str(tmp_path), "PATH": os.defpath}) == "None False"
    given = {"HOME": str(tmp_path), "PATH": os.defpath} | ENVIRON
    assert run(program, given) == "<AWSKeys AKID…> False"


def test_machine_metadata_is_asked_only_where_it_is_said_to_be_there(tmp_path: Path) -> None:
    program = (
        "import os; from unittest.mock import patch; from fetcher import credentials\n"
        "from botocore.utils import InstanceMetadataFetcher as F\n"
        "asked = []\n"
        "with patch.object(F, 'retrieve_iam_role_credentials', lambda self: asked.append(1) or {}):\n"
        "    keys = credentials.operator_keys(os.environ)\n"
        "print(keys, len(asked))"
    )
    files = home(tmp_path, config="[default]\nregion = eu-west-1\n") | {"PATH": os.defpath}
    assert run(program, files) == "None 0"
    assert run(program, files | {"AWS_EC2_METADATA_DISABLED": "true"}) == "None 0"
    assert run(program, files | {"AWS_EC2_METADATA_DISABLED": "false"}) == "None 1"


@pytest.mark.parametrize(
    "resource", [S3.at("s3://b-1/k"), S3.at(f"{OWN}/b-1/k"), HF("acme/own", token=Secret("hf_own")), Ollama.of("tiny")]
)
def test_an_item_of_a_market_is_asked_for_as_a_job_is(resource: S3 | HF | Ollama) -> None:
    """Neither the operator's keys nor a way around the guard: the list is a stranger's, whoever runs the command."""
    asker = credentials.for_market(resource, settings(OWN), {**ENVIRON, "HF_TOKEN": "hf_operator"})
    assert (asker.role, asker.trusted_origins) == ("job", frozenset())
    assert asker.credential == (resource.token if isinstance(resource, HF) else None)


def test_an_item_of_a_market_at_the_hub_gets_the_operators_token() -> None:
    asker = credentials.for_market(HF("acme/gated"), settings(), {"HF_TOKEN": "hf_operator"})
    assert (asker.role, asker.credential, asker.trusted_origins) == ("job", Secret("hf_operator"), frozenset())
