"""What the Hub's refusals are called: values first, then each of them from the embedded hub."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fetcher.errors import DeniedError, FetcherError, NotFoundError, RateLimitedError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry
from fetcher.model.resource import HF
from fetcher.model.secret import Secret
from fetcher.origins.hf_errors import DISABLED, hub_error
from fetcher.testing import FaultPlan, Hub, Token
from fetcher.testing.faults import Status
from fetcher.testing.hub import AnnounceQuota, JsonGarbage
from tests.origins.conformance import Answered
from tests.origins.hubs import FILES, origin_at

INVALID = "Invalid credentials in Authorization header"
CASES: list[tuple[str, int, str | None, str | None, bool, type[FetcherError], str]] = [
    # name, status, X-Error-Code, X-Error-Message, with a token, error, words of message and hint
    (
        "missing or private, anonymous",
        401,
        "RepoNotFound",
        "Invalid username or password.",
        False,
        NotFoundError,
        "or private",
    ),
    ("missing or private, with token", 404, "RepoNotFound", "Repository not found", True, NotFoundError, "or private"),
    ("401 without a code", 401, None, "Invalid username or password.", False, NotFoundError, "or private"),
    ("invalid token", 401, None, INVALID, True, DeniedError, "does not accept the token"),
    ("invalid token, unasked", 401, None, INVALID, False, DeniedError, "does not accept the token"),
    ("any 401 to a token", 401, None, None, True, DeniedError, "does not accept the token"),
    (
        "gated, anonymous",
        401,
        "GatedRepo",
        "Access to model x is restricted.",
        False,
        DeniedError,
        "accept its conditions",
    ),
    ("gated, not granted", 403, "GatedRepo", "not in the authorized list", True, DeniedError, "not been granted"),
    ("revision", 404, "RevisionNotFound", "Invalid rev id: v9", False, NotFoundError, "no revision 'v9'"),
    ("file", 404, "EntryNotFound", "Entry not found", False, NotFoundError, "no file 'a/b.bin'"),
    ("moderation", 403, None, DISABLED, False, DeniedError, "disabled access"),
    (
        "missing permission",
        403,
        None,
        "Token lacks repo.content.read",
        True,
        DeniedError,
        "Token lacks repo.content.read",
    ),
    ("403 without a word", 403, None, None, False, DeniedError, "refuses"),
    ("404 without a word", 404, None, None, False, NotFoundError, "or private"),
    ("gone", 410, None, None, False, NotFoundError, "or private"),
    ("anything else", 418, None, "teapot", False, TransportError, "418"),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_values(case: tuple[str, int, str | None, str | None, bool, type[FetcherError], str]) -> None:
    _, status, code, said, with_token, kind, words = case
    headers = {"X-Request-Id": "Root=1-abc"}
    if code:
        headers["X-Error-Code"] = code
    if said:
        headers["X-Error-Message"] = said
    error = hub_error(
        status,
        headers,
        "hf://acme/tiny",
        with_token=with_token,
        reference="v9",
        path="a/b.bin",
        page="https://h/acme/tiny",
    )
    assert type(error) is kind
    assert words in f"{error.message} {error.hint}"
    assert "hf://acme/tiny" in error.message
    assert "Root=1-abc" in error.message


def test_the_exit_codes_are_those_of_the_contract() -> None:
    assert (NotFoundError.exit_code, DeniedError.exit_code) == (21, 22)


def test_what_the_hub_says_is_made_harmless() -> None:
    headers = {"X-Error-Message": "a\x1b[31m" + "x" * 500 + "hf_" + "a" * 30, "X-Request-Id": "a b\x1b" + "x" * 300}
    error = hub_error(403, headers, "hf://acme/tiny", with_token=True)
    assert "\x1b" not in error.message and len(error.message) < 300
    error = hub_error(403, {"X-Error-Message": "token hf_" + "a" * 30}, "hf://acme/tiny", with_token=True)
    assert "a" * 30 not in error.message


def test_other_request_ids_are_quoted_too() -> None:
    assert "amz" in hub_error(404, {"X-Amzn-Trace-Id": "amz"}, "x", with_token=False).message
    assert "cf" in hub_error(404, {"X-Amz-Cf-Id": "cf"}, "x", with_token=False).message


# --- the same, asked for at the hub

ALICE = Asker("job", Secret("hf_alice"))
EVE = Asker("job", Secret("hf_eve"))
NOBODY = Asker("job")
BAD = Asker("job", Secret("hf_wrong"))
ASKED: list[tuple[str, HF, Asker, type[FetcherError] | None, str]] = [
    ("missing, anonymous", HF("acme/none"), NOBODY, NotFoundError, "or private"),
    ("missing, with token", HF("acme/none"), ALICE, NotFoundError, "or private"),
    ("private, anonymous", HF("acme/private"), NOBODY, NotFoundError, "or private"),
    ("private, other token", HF("acme/private"), EVE, NotFoundError, "or private"),
    ("private, own token", HF("acme/private"), ALICE, None, ""),
    ("public, bad token", HF("acme/public"), BAD, DeniedError, "does not accept the token"),
    ("gated, anonymous", HF("acme/gated"), NOBODY, DeniedError, "accept its conditions"),
    ("gated, not granted", HF("acme/gated"), EVE, DeniedError, "not been granted"),
    ("gated, granted", HF("acme/gated"), ALICE, None, ""),
    ("no such revision", HF("acme/public", revision="v9"), NOBODY, NotFoundError, "no revision 'v9'"),
    ("no such commit", HF("acme/public", revision="0" * 40), NOBODY, NotFoundError, "no revision"),
    ("no such file", HF("acme/public", files=("none.bin",)), NOBODY, NotFoundError, "'none.bin'"),
    ("disabled", HF("acme/disabled"), NOBODY, DeniedError, "disabled"),
    ("empty", HF("acme/empty"), NOBODY, NotFoundError, "no files"),
    ("wrong kind", HF("acme/public", kind="datasets"), NOBODY, NotFoundError, "or private"),
]


def hub_with_everything(**more: Any) -> Hub:
    hub = Hub(tokens={"hf_alice": Token("alice"), "hf_eve": Token("eve", frozenset())}, **more)
    hub.add_repo("acme/public", files=FILES)
    hub.add_repo("acme/private", files=FILES, private=True)
    hub.add_repo("acme/gated", files=FILES, gated="manual")
    hub.add_repo("acme/disabled", files=FILES, disabled=True)
    hub.add_repo("acme/empty", files={})
    return hub


@pytest.mark.parametrize("row", ASKED, ids=[row[0] for row in ASKED])
def test_asked_at_the_hub(row: tuple[str, HF, Asker, type[FetcherError] | None, str]) -> None:
    _, resource, asker, kind, words = row

    async def main() -> None:
        async with hub_with_everything() as hub, origin_at(hub) as origin:
            if kind is None:
                assert (await origin.resolve(resource, asker)).private
                assert (await origin.revision(resource, asker)).private
                return
            with pytest.raises(kind) as caught:
                await origin.resolve(resource, asker)
            assert type(caught.value) is kind
            assert words in f"{caught.value.message} {caught.value.hint}"
            if not resource.files and resource.repo != "acme/empty":
                with pytest.raises(kind):
                    await origin.revision(resource, asker)

    asyncio.run(main())


def test_a_gated_listing_is_no_proof_of_access() -> None:
    """Info and tree of a gated repo are open to all: only asking for a file tells who may read it."""

    async def main() -> None:
        async with hub_with_everything() as hub, origin_at(hub) as origin:
            with pytest.raises(DeniedError):
                await origin.revision(HF("acme/gated"), EVE)
            assert hub.count("resolve") == 1 and hub.count("cdn") == 0
            await origin.resolve(HF("acme/gated"), ALICE)
            assert hub.count("resolve") == 2 and hub.count("cdn") == 0

    asyncio.run(main())


@pytest.mark.parametrize("place", ["info", "tree"])
@pytest.mark.parametrize(
    "fault",
    [
        Status(503),
        Status(500),
        Status(429),
        Status(502),
        *(JsonGarbage(kind) for kind in ("html", "truncated", "wrong-shape", "deep")),
    ],
    ids=lambda fault: fault.name,
)
def test_a_burst_of_faults_is_survived(place: str, fault: Any) -> None:
    async def main() -> None:
        faults = FaultPlan(fault.on(place, times=3))
        async with hub_with_everything(faults=faults) as hub, origin_at(hub) as origin:
            manifest = await origin.resolve(HF("acme/public"), NOBODY)
            assert len(manifest.files) == len(FILES)
            assert sum(faults.fired.values()) == 3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Status(503), TransportError),
        (Status(429), RateLimitedError),
        (Status(503, retry_after=200), RateLimitedError),
        (JsonGarbage(), TransportError),
    ],
    ids=str,
)
def test_faults_without_end_have_one(fault: Any, kind: type[FetcherError]) -> None:
    async def main() -> None:
        async with hub_with_everything(faults=FaultPlan(fault.on("info"))) as hub, origin_at(hub) as origin:
            with pytest.raises(kind) as caught:
                await origin.resolve(HF("acme/public"), NOBODY)
            assert type(caught.value) is kind

    asyncio.run(main())


def test_a_used_up_quota_is_waited_for_before_the_next_request() -> None:
    async def main() -> None:
        faults = FaultPlan(AnnounceQuota(remaining=0, reset_s=0).on("info"), AnnounceQuota(0, 300).on("tree"))
        async with hub_with_everything(faults=faults) as hub, origin_at(hub) as origin:
            await origin.resolve(HF("acme/public"), NOBODY)
            with pytest.raises(RateLimitedError) as caught:
                await origin.resolve(HF("acme/public"), NOBODY)
            assert "token" in str(caught.value.hint)
            assert len(hub.requests) == 2
            await origin.resolve(HF("acme/public"), ALICE)

    asyncio.run(main())


# --- answers to body requests

ENTRY = FileEntry("a/b.bin", 10, None)
OWN = "/acme/public/resolve/" + "0" * 40 + "/a/b.bin"
CACHED = "/api/resolve-cache/models/acme/public/" + "0" * 40 + "/a/b.bin"


@pytest.mark.parametrize(
    ("path", "status", "headers", "kind", "error"),
    [
        (OWN, 401, {"X-Error-Code": "GatedRepo"}, "final", DeniedError),
        (OWN, 403, {"X-Error-Code": "GatedRepo"}, "final", DeniedError),
        (OWN, 401, {"X-Error-Code": "RepoNotFound"}, "final", NotFoundError),
        (OWN, 401, {"X-Error-Message": INVALID}, "final", DeniedError),
        (OWN, 403, {"X-Error-Message": DISABLED}, "final", DeniedError),
        (OWN, 404, {"X-Error-Code": "EntryNotFound"}, "final", NotFoundError),
        (OWN, 404, {"X-Error-Code": "RevisionNotFound"}, "final", NotFoundError),
        (OWN, 404, {}, "final", NotFoundError),
        (OWN, 416, {}, "final", TransportError),
        (OWN, 304, {}, "final", TransportError),
        (OWN, 429, {"RateLimit": '"resolvers";r=0;t=9'}, "busy", None),
        (CACHED, 404, {}, "expired", None),
        (CACHED, 404, {"X-Error-Code": "EntryNotFound"}, "expired", None),
        (CACHED, 404, {"X-Error-Code": "RepoNotFound"}, "final", NotFoundError),
        (CACHED, 404, {"X-Error-Code": "RevisionNotFound"}, "final", NotFoundError),
        (CACHED, 401, {"X-Error-Code": "GatedRepo"}, "final", DeniedError),
        (CACHED + "?a/b.bin=&etag=x", 404, {}, "final", NotFoundError),
    ],
)
def test_answers_of_the_hub_to_a_body_request(
    path: str, status: int, headers: dict[str, str], kind: str, error: type[FetcherError] | None
) -> None:
    async def main() -> None:
        async with hub_with_everything() as hub, origin_at(hub) as origin:
            refusal = origin.refusal(Answered(status, hub.endpoint + path, headers), ENTRY, signed=False)
            assert refusal.kind == kind
            assert (type(refusal.error) if refusal.error else None) is error
            if isinstance(refusal.error, (NotFoundError, DeniedError)):
                assert "hf://acme/public" in refusal.error.message

    asyncio.run(main())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_storage_host_that_refuses_means_expired(status: int) -> None:
    async def main() -> None:
        async with hub_with_everything() as hub, origin_at(hub) as origin:
            answered = Answered(status, "https://cdn.example/x?sig", {"X-Error-Code": "GatedRepo"})
            assert origin.refusal(answered, ENTRY, signed=True).kind == "expired"

    asyncio.run(main())
