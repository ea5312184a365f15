"""Which token an asker gets: the official client's rules for a person, the definition's own for a job."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from fetcher import credentials
from fetcher.config import Settings
from fetcher.errors import ResourceError, UsageError
from fetcher.model.resource import HF
from fetcher.model.secret import Secret
from fetcher.net.request import origin_of

RESOURCE = HF("acme/tiny")
OWN = HF("acme/tiny", token=Secret("hf_own"))


def settings(endpoint: str = "https://huggingface.co") -> Settings:
    return Settings(cache_dir=Path("/unused"), state_dir=Path("/unused"), hf_endpoint=endpoint)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with four token files, one in each place that counts."""
    for place in (".cache/huggingface", "xdg/huggingface", "hf", "named"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "token").write_text(f"hf_{place.replace('/', '_')}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({"HF_TOKEN": "hf_new", "HUGGING_FACE_HUB_TOKEN": "hf_old", "HF_HOME": "{home}/hf"}, "hf_new"),
        ({"HF_TOKEN": " hf_new \r\n"}, "hf_new"),
        ({"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_old"}, "hf_old"),
        ({"HF_TOKEN": " \n", "HUGGING_FACE_HUB_TOKEN": "hf_old"}, "hf_old"),
        ({"HF_TOKEN_PATH": "{home}/named/token", "HF_HOME": "{home}/hf"}, "hf_named"),
        ({"HF_HOME": "{home}/hf", "XDG_CACHE_HOME": "{home}/xdg"}, "hf_hf"),
        ({"HF_HOME": "~/hf"}, "hf_hf"),
        ({"HF_HOME": "$PLACE/hf", "PLACE": "{home}"}, "hf_hf"),
        ({"HF_HOME": "${{PLACE}}/hf", "PLACE": "{home}"}, "hf_hf"),
        ({"XDG_CACHE_HOME": "{home}/xdg"}, "hf_xdg_huggingface"),
        ({}, "hf_.cache_huggingface"),
        ({"HF_HOME": "{home}/empty"}, None),
        ({"HF_TOKEN_PATH": "{home}/named/token/below"}, None),
        ({"HF_TOKEN": "hf_new", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, None),
        ({"HF_TOKEN": "hf_new", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "Yes"}, None),
        ({"HF_TOKEN": "hf_new", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}, "hf_new"),
    ],
)
def test_a_persons_token(home: Path, environ: dict[str, str], token: str | None) -> None:
    given = {"HOME": str(home)} | {name: value.format(home=home) for name, value in environ.items()}
    asker = credentials.for_hf(RESOURCE, "operator", settings(), given)
    assert (asker.token.reveal() if asker.token else None) == token
    assert asker.role == "operator"
    assert credentials.for_hf(OWN, "operator", settings(), given).token == Secret("hf_own")


def test_a_job_gets_its_own_token_or_none(home: Path) -> None:
    given = {"HOME": str(home), "HF_TOKEN": "hf_node"}
    asker = credentials.for_hf(RESOURCE, "job", settings(), given)
    assert (asker.role, asker.token, asker.trusted_origins) == ("job", None, frozenset())
    asker = credentials.for_hf(OWN, "job", settings(), given)
    assert (asker.token, asker.trusted_origins) == (Secret("hf_own"), frozenset())


def test_a_job_reads_no_token_file_at_all(home: Path) -> None:
    (home / ".cache/huggingface/token").write_text("hf broken token")
    assert credentials.for_hf(RESOURCE, "job", settings(), {"HOME": str(home)}).token is None


@pytest.mark.parametrize(
    "endpoint", ["https://huggingface.co", "http://mirror.example:8080", "http://mirror.example", "http://[::1]:99"]
)
def test_the_trusted_origin_is_written_as_requests_write_it(home: Path, endpoint: str) -> None:
    asker = credentials.for_hf(RESOURCE, "operator", settings(endpoint), {"HOME": str(home)})
    assert asker.trusted_origins == frozenset({origin_of(endpoint)})


def test_whether_a_job_misses_a_token() -> None:
    assert credentials.job_ignores_token({"HF_TOKEN": "hf_x"})
    assert credentials.job_ignores_token({"HUGGING_FACE_HUB_TOKEN": "hf_x"})
    assert not credentials.job_ignores_token({"HF_TOKEN": " "})
    assert not credentials.job_ignores_token({})


@pytest.mark.parametrize("text", ["hf_a b", "hf_ä", "hf_\x00", "hf_a\tb"])
def test_a_token_that_can_not_be_one(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        credentials.for_hf(RESOURCE, "operator", settings(), {"HF_TOKEN": text})
    assert "HF_TOKEN" in caught.value.message and text not in str(caught.value)
    with pytest.raises(ResourceError) as refused:
        credentials.for_hf(HF("acme/tiny", token=Secret(text)), "job", settings(), {})
    assert text not in str(refused.value)


def test_a_token_file_that_may_not_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str = "r") -> NoReturn:  # chmod would not stop root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError) as caught:
        credentials.for_hf(RESOURCE, "operator", settings(), {"HF_HOME": str(home / "hf")})
    assert str(home / "hf" / "token") in caught.value.message and "permission denied" in caught.value.message


def test_a_directory_for_a_token_file(home: Path) -> None:
    with pytest.raises(UsageError, match="can't read the Hub token"):
        credentials.for_hf(RESOURCE, "operator", settings(), {"HF_TOKEN_PATH": str(home)})
