"""The Hub's dialect: which requests are made, how many, and where they go."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from fetcher.errors import DeniedError, ForbiddenError, NotFoundError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.resource import HF
from fetcher.model.secret import Secret
from fetcher.net.api import ApiClient
from fetcher.net.request import origin_of
from fetcher.net.roads import Roads
from fetcher.origins.hf import HfOrigin, _next_link
from fetcher.origins.hf_tree import select
from fetcher.testing import FaultPlan, Hub, Token
from fetcher.testing.faults import OnRequest, RedirectTo
from tests.net.fakes import FakeTransport, answer
from tests.origins.conformance import Answered
from tests.origins.hubs import FILES, origin_at, settings_for

NOBODY = Asker("job")
SHA = "c0ffee" + "0" * 34
INFO = b'{"sha":"%s","private":false,"gated":false}' % SHA.encode()
PAGE = b'[{"type":"file","path":"a","oid":"%s","size":1}]' % (b"b" * 40)


def scripted(*script: Any, endpoint: str = "https://huggingface.co") -> tuple[HfOrigin, FakeTransport]:
    """An origin that talks to a script instead of a network."""
    transport = FakeTransport(*script)
    settings = settings_for(_Endpoint(endpoint), api_tries_max=1)  # type: ignore[arg-type]
    return HfOrigin(ApiClient(transport, settings), settings), transport


class _Endpoint:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint


# --- addresses


@pytest.mark.parametrize(
    ("resource", "info", "tree"),
    [
        (HF("a/b"), "/api/models/a/b/revision/main", f"/api/models/a/b/tree/{SHA}"),
        (HF("gpt2"), "/api/models/gpt2/revision/main", f"/api/models/gpt2/tree/{SHA}"),
        (HF("a/b", "datasets"), "/api/datasets/a/b/revision/main", f"/api/datasets/a/b/tree/{SHA}"),
        (HF("a/b", "spaces", "v1.0"), "/api/spaces/a/b/revision/v1.0", f"/api/spaces/a/b/tree/{SHA}"),
        (HF("a/b", revision="refs/pr/1"), "/api/models/a/b/revision/refs%2Fpr%2F1", f"/api/models/a/b/tree/{SHA}"),
        (HF("a/b", revision="a%b#c&d"), "/api/models/a/b/revision/a%25b%23c%26d", f"/api/models/a/b/tree/{SHA}"),
        (HF("a/b", revision=SHA), f"/api/models/a/b/revision/{SHA}", f"/api/models/a/b/tree/{SHA}"),
    ],
)
def test_two_questions_for_a_whole_repo(resource: HF, info: str, tree: str) -> None:
    origin, transport = scripted(answer(200, INFO), answer(200, PAGE))
    asyncio.run(origin.resolve(resource, NOBODY))
    assert [request.url for request in transport.asked] == [
        f"https://huggingface.co{info}",
        f"https://huggingface.co{tree}?recursive=true&expand=false",
    ]
    assert all(request.purpose == "api" for request in transport.asked)


PATH = "odd/a b (1)'~%27#?&=+ä.txt"
QUOTED = "odd/a%20b%20%281%29%27~%2527%23%3F%26%3D%2B%C3%A4.txt"


def manifest(kind: str = "models", repo: str = "acme/tiny") -> Manifest:
    entries = (FileEntry(PATH, 1, None, inline=True), FileEntry("x.bin", 1, None))
    return Manifest("hf", "https://huggingface.co:443", f"{kind}/{repo}", SHA, False, entries)


@pytest.mark.parametrize(
    ("kind", "repo", "inline", "large"),
    [
        ("models", "acme/tiny", "models/acme/tiny", "acme/tiny"),
        ("models", "gpt2", "models/gpt2", "gpt2"),
        ("datasets", "acme/tiny", "datasets/acme/tiny", "datasets/acme/tiny"),
        ("spaces", "acme/tiny", "spaces/acme/tiny", "spaces/acme/tiny"),
    ],
)
def test_where_bodies_begin(kind: str, repo: str, inline: str, large: str) -> None:
    origin, _ = scripted()
    pinned = manifest(kind, repo)
    asker = Asker("operator", Secret("hf_x"), frozenset({"https://huggingface.co:443"}))
    first, second = (origin.locate(pinned, entry, asker) for entry in pinned.files)
    assert first.url == f"https://huggingface.co/api/resolve-cache/{inline}/{SHA}/{QUOTED}"
    assert unquote(first.url).endswith(PATH)
    assert second.url == f"https://huggingface.co/{large}/resolve/{SHA}/x.bin"
    for request in (first, second):
        assert request.carried_credential == Secret("hf_x") and not request.guarded
        assert (request.method, request.purpose) == ("GET", "body")
    anonymous = origin.locate(pinned, pinned.files[1], NOBODY)
    assert anonymous.credential is None and anonymous.guarded


def test_an_endpoint_without_resolve_cache_is_asked_once() -> None:
    origin, _ = scripted()
    pinned = manifest()
    inline = pinned.files[0]
    direct = origin.locate(pinned, inline, NOBODY)
    assert origin.refusal(Answered(404, direct.url), inline, signed=False).kind == "expired"
    following = origin.locate(pinned, inline, NOBODY)
    assert following.url == f"https://huggingface.co/acme/tiny/resolve/{SHA}/{QUOTED}"
    # Others may still be on their way to the first address.
    assert origin.refusal(Answered(404, direct.url), inline, signed=False).kind == "expired"
    assert origin.refusal(Answered(404, following.url), inline, signed=False).kind == "final"


def test_a_small_file_costs_one_request_and_a_listing_a_thousandth() -> None:
    async def main() -> None:
        async with Hub(quotas=None) as hub, origin_at(hub) as origin:
            count = 2500
            hub.add_repo("acme/many", files={f"data/{number:04}.json": b"%d" % number for number in range(count)})
            found = await origin.resolve(HF("acme/many"), NOBODY)
            assert len(found.files) == count
            assert (hub.count("info"), hub.count("tree"), len(hub.requests)) == (1, 3, 4)
            assert all("/api/resolve-cache/" in origin.locate(found, entry, NOBODY).url for entry in found.files)

    asyncio.run(main())


# --- the listing's next page


@pytest.mark.parametrize(
    ("field", "target"),
    [
        ('<https://h/x?cursor=a%3D%3D>; rel="next"', "https://h/x?cursor=a%3D%3D"),
        ("<https://h/x>;rel=next", "https://h/x"),
        ('<https://h/x>; rel="prev next"', "https://h/x"),
        ('<https://h/a>; rel="first", <https://h/b>; rel="next"', "https://h/b"),
        ('<https://h/a,b;c>; title="x, rel=next"; rel="next"', "https://h/a,b;c"),
        ('<https://h/x>; rel="nextish"', None),
        ('<https://h/x>; rel="xet-auth"', None),
        ("https://h/x; rel=next", None),
        ("", None),
        ("<" * 20_000, None),
    ],
)
def test_the_next_link(field: str, target: str | None) -> None:
    assert _next_link(field) == target


@pytest.mark.parametrize(
    "link", ["https://[bad/x", "http://[::1", "//[", "https://[v1.x]/", "https://u@h/", "file:///x"]
)
def test_a_next_page_that_is_no_address_is_an_error_of_the_origin(link: str) -> None:
    """Not of ours: reading an address in brackets that is none raises errors of other kinds."""
    origin, transport = scripted(answer(200, INFO), answer(200, PAGE, Link=f'<{link}>; rel="next"'))
    with pytest.raises(ForbiddenError):
        asyncio.run(origin.resolve(HF("acme/tiny"), NOBODY))
    assert len(transport.asked) == 2


@pytest.mark.parametrize(
    ("endpoint", "link", "asked"),
    [
        (
            "https://mirror.example",
            "https://huggingface.co/api/models/a/b/tree/x?cursor=%3D",
            "https://mirror.example/api/models/a/b/tree/x?cursor=%3D",
        ),
        ("http://mirror.example:81", "https://huggingface.co/api/t?c=1", "http://mirror.example:81/api/t?c=1"),
        (
            "https://huggingface.co",
            "/api/models/a/b/tree/x?cursor=%27",
            "https://huggingface.co/api/models/a/b/tree/x?cursor=%27",
        ),
        ("https://mirror.example/hf", "https://huggingface.co/api/t?c=1", "https://mirror.example/hf/api/t?c=1"),
        ("https://mirror.example/hf", "https://mirror.example/hf/api/t?c=1", "https://mirror.example/hf/api/t?c=1"),
        ("https://huggingface.co", "http://169.254.169.254/latest?c=1", "https://huggingface.co/latest?c=1"),
    ],
)
def test_the_next_page_is_asked_at_the_endpoint(endpoint: str, link: str, asked: str) -> None:
    page = PAGE.replace(b'"a"', b'"b"')
    origin, transport = scripted(
        answer(200, INFO), answer(200, PAGE, Link=f'<{link}>; rel="next"'), answer(200, page), endpoint=endpoint
    )
    found = asyncio.run(origin.resolve(HF("a/b", token=None), Asker("job", Secret("hf_x"))))
    assert transport.asked[2].url == asked
    assert transport.asked[2].carried_credential == Secret("hf_x")
    assert [entry.path for entry in found.files] == ["a", "b"]
    assert found.endpoint == origin_of(endpoint)


# --- what the info says


@pytest.mark.parametrize(
    ("info", "token", "private"),
    [
        ('"private":false,"gated":false', None, False),
        ('"private":false,"gated":false', "hf_x", False),
        ('"private":true,"gated":false', "hf_x", True),
        ('"private":false,"gated":"auto"', "hf_x", True),
        ('"private":false,"gated":"manual"', "hf_x", True),
        ('"private":false,"gated":true', "hf_x", True),
        ('"private":false', "hf_x", True),
        ('"gated":false', "hf_x", True),
        ('"private":null,"gated":null', "hf_x", True),
        ('"x":1', "hf_x", True),
        ('"x":1', None, False),
    ],
)
def test_what_is_public(info: str, token: str | None, private: bool) -> None:
    script = [answer(200, f'{{"sha":"{SHA}",{info}}}'.encode()), answer(200, PAGE)]
    origin, _ = scripted(*script, answer(302, b"", Location="https://cdn.example/x"))
    asker = Asker("job", Secret(token) if token else None)
    assert asyncio.run(origin.resolve(HF("a/b"), asker)).private is private


GATED = b'{"sha":"%s","private":false,"gated":"auto"}' % SHA.encode()
FOLDERS = b'[{"type":"directory","path":"%s"}]'
ROWS = b"""[{"type":"file","path":"large.bin","size":9,"lfs":{"oid":"%s","size":9}},
{"type":"file","path":"tiny","oid":"%s","size":1}]""" % (b"c" * 64, b"b" * 40)
ASKERS = (NOBODY, Asker("job", Secret("hf_x")))


def proof(question: str, asker: Asker, *script: Any) -> tuple[bool, list[str]]:
    """Whether access counts as proven, and the paths of all that was asked for it."""
    origin, transport = scripted(*script)

    async def main() -> bool:
        try:
            await getattr(origin, question)(HF("a/b"), asker)
        except DeniedError:
            return False
        return True

    return asyncio.run(main()), [request.url.removeprefix("https://huggingface.co") for request in transport.asked]


REFUSED = answer(403, X_Error_Code="GatedRepo")
SIGNED = answer(302, b"", Location="https://cdn.example/xet-bridge/x?sig=1")


@pytest.mark.parametrize("asker", ASKERS, ids=["anonymous", "token"])
@pytest.mark.parametrize("question", ["resolve", "revision"])
@pytest.mark.parametrize(
    ("last", "granted"),
    [
        ([REFUSED], False),
        ([SIGNED], True),
        ([answer(200)], True),
        ([answer(307, b"", Location="/new/name/resolve/x/large.bin"), REFUSED], False),
        ([answer(307, b"", Location="/new/name/resolve/x/large.bin"), SIGNED], True),
        ([answer(307, b"", Location="/api/resolve-cache/models/a/b/x/tiny?a=&etag=b"), REFUSED], False),
        ([answer(307, b"", Location="/api/resolve-cache/models/a/b/x/tiny?a=&etag=b"), answer(200)], True),
        ([answer(308, b"", Location="https://hub.example/a/b/resolve/x/large.bin"), REFUSED], False),
        ([answer(308, b"", Location="https://hub.example/a/b/resolve/x/large.bin"), SIGNED], True),
    ],
)
def test_only_an_answer_about_a_file_proves_access(question: str, asker: Asker, last: list[Any], granted: bool) -> None:
    """A renamed repo is redirected before anybody looks at the token, as is an endpoint that only passes on."""
    proven, asked = proof(question, asker, answer(200, GATED), answer(200, ROWS), *last)
    assert proven is granted
    assert len(asked) == 2 + len(last)
    assert asked[2] == f"/a/b/resolve/{SHA}/large.bin"


@pytest.mark.parametrize("asker", ASKERS, ids=["anonymous", "token"])
@pytest.mark.parametrize(("last", "granted"), [(REFUSED, False), (SIGNED, True)], ids=["refused", "granted"])
def test_a_file_to_prove_access_with_is_searched_beyond_pages_of_folders(
    asker: Asker, last: Any, granted: bool
) -> None:
    pages = [answer(200, FOLDERS % name, Link='</api/next>; rel="next"') for name in (b"d1", b"d2")]
    rest = answer(200, ROWS, Link='</api/never>; rel="next"')
    proven, asked = proof("revision", asker, answer(200, GATED), *pages, rest, last)
    assert proven is granted
    assert asked[2:] == ["/api/next", "/api/next", f"/a/b/resolve/{SHA}/large.bin"]


@pytest.mark.parametrize("question", ["resolve", "revision"])
@pytest.mark.parametrize("page", [b"[]", FOLDERS % b"d"])
def test_a_gated_repo_without_files_proves_nothing(question: str, page: bytes) -> None:
    origin, _ = scripted(answer(200, GATED), answer(200, page))
    with pytest.raises(NotFoundError, match="no files"):
        asyncio.run(getattr(origin, question)(HF("a/b"), NOBODY))


def test_selecting_does_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million paths against many globs take seconds; other transfers go on meanwhile."""
    seen: list[threading.Thread] = []

    def spy(*arguments: Any) -> Any:
        seen.append(threading.current_thread())
        return select(*arguments)

    monkeypatch.setattr("fetcher.origins.hf.select", spy)
    origin, _ = scripted(answer(200, INFO), answer(200, PAGE))
    assert asyncio.run(origin.resolve(HF("a/b"), NOBODY)).files
    assert len(seen) == 1 and seen[0] is not threading.main_thread()


def test_files_that_nobody_asked_for_do_not_spoil_the_proof() -> None:
    """Twins that differ in case do not fit into one tree; whoever selects one of them may have it."""
    rows = ROWS.replace(b'"tiny"', b'"LARGE.bin"')
    origin, _ = scripted(answer(200, GATED), answer(200, rows), SIGNED)
    assert asyncio.run(origin.revision(HF("a/b", files=("large.bin",)), NOBODY)).revision == SHA


@pytest.mark.parametrize("question", ["resolve", "revision"])
@pytest.mark.parametrize("info", [b'{"sha":"%s"}', b'{"sha":"%s","private":false,"gated":null}'])
def test_an_endpoint_that_does_not_say_whether_it_is_gated_is_asked_for_a_file(question: str, info: bytes) -> None:
    script = (answer(200, info % SHA.encode()), answer(200, ROWS))
    assert proof(question, NOBODY, *script, REFUSED)[0] is False
    assert proof(question, NOBODY, *script, SIGNED)[0] is True


@pytest.mark.parametrize(
    "info",
    [b'{"sha":"main"}', b'{"sha":"C0FFEE"}', b'{"sha":""}', b"{}", b'{"sha":null}', b'{"sha":"%s"}' % (b"a" * 39)],
)
def test_an_info_that_pins_nothing(info: bytes) -> None:
    origin, _ = scripted(answer(200, info))
    with pytest.raises(TransportError):
        asyncio.run(origin.revision(HF("a/b"), NOBODY))


def test_another_commit_than_the_one_asked_for() -> None:
    origin, _ = scripted(answer(200, INFO))
    with pytest.raises(TransportError, match="which commit"):
        asyncio.run(origin.resolve(HF("a/b", revision="d" * 40), NOBODY))


def test_a_disabled_repo_whose_info_is_still_readable() -> None:
    origin, transport = scripted(answer(200, INFO.replace(b"{", b'{"disabled":true,')))
    with pytest.raises(DeniedError, match="disabled"):
        asyncio.run(origin.resolve(HF("a/b"), NOBODY))
    assert len(transport.asked) == 1


# --- the whole way, at the hub


@pytest.mark.parametrize("kind", ["models", "datasets", "spaces"])
@pytest.mark.parametrize("reference", [None, "main", "feature", "refs/pr/1", "commit"])
def test_kinds_and_revisions(kind: Any, reference: str | None) -> None:
    async def main() -> None:
        async with Hub() as hub, origin_at(hub) as origin:
            repo = hub.add_repo("acme/tiny", kind=kind, files=FILES)
            wanted = first = (await origin.revision(HF("acme/tiny", kind), NOBODY)).revision
            for branch in ("feature", "refs/pr/1"):
                made = hub.commit(repo, {f"only-{branch.replace('/', '-')}.txt": b"x"}, branch=branch)
                if branch == reference:
                    wanted = made
            revision = first if reference == "commit" else reference
            found = await origin.resolve(HF("acme/tiny", kind, revision), NOBODY)
            assert found.revision == wanted
            assert len(found.files) == len(FILES) + (wanted != first)

    asyncio.run(main())


def test_the_branch_moves_in_mid_run() -> None:
    async def main() -> None:
        def move(exchange: Any) -> None:
            exchange.origin.commit("acme/tiny", {"new.txt": b"new"})

        faults = FaultPlan(OnRequest(move).on("tree", times=1))
        async with Hub(faults=faults, page_entries=2) as hub, origin_at(hub) as origin:
            hub.add_repo("acme/tiny", files=FILES)
            found = await origin.resolve(HF("acme/tiny"), NOBODY)
            assert [entry.path for entry in found.files] == sorted(FILES)
            assert (await origin.revision(HF("acme/tiny"), NOBODY)).revision != found.revision

    asyncio.run(main())


def test_an_operator_reaches_what_he_named_and_a_job_does_not() -> None:
    async def main() -> None:
        async with Hub() as hub, origin_at(hub, allow_net=()) as origin:
            hub.add_repo("acme/tiny", files=FILES)
            operator = Asker("operator", None, frozenset({origin_of(hub.endpoint)}))
            assert (await origin.resolve(HF("acme/tiny"), operator)).files
            before = len(hub.requests)
            with pytest.raises(ForbiddenError, match="loopback"):
                await origin.resolve(HF("acme/tiny"), NOBODY)
            assert len(hub.requests) == before

    asyncio.run(main())


@pytest.mark.parametrize("place", ["info", "tree"])
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.2:1/", "//[::1]:9/x"])
def test_a_redirect_of_the_api_is_judged_for_an_operator_too(place: str, target: str) -> None:
    async def main() -> None:
        faults = FaultPlan(RedirectTo(target).on(place))
        async with Hub(faults=faults, tokens={"hf_x": Token("alice")}) as hub, origin_at(hub, allow_net=()) as origin:
            hub.add_repo("acme/tiny", files=FILES)
            operator = Asker("operator", Secret("hf_x"), frozenset({origin_of(hub.endpoint)}))
            with pytest.raises(ForbiddenError):
                await origin.resolve(HF("acme/tiny"), operator)
            assert faults.fired

    asyncio.run(main())


def test_a_renamed_repo_is_followed() -> None:
    async def main() -> None:
        async with Hub(tokens={"hf_x": Token("alice")}) as hub:
            hub.add_repo("acme/new", files=FILES, private=True)
            seen: list[str | None] = []

            async def forward(request: web.Request) -> web.Response:
                seen.append(request.headers.get("Authorization"))
                path = request.path_qs.replace("acme/old", "acme/new")
                return web.Response(status=307, headers={"Location": path if len(seen) % 2 else hub.endpoint + path})

            application = web.Application()
            application.router.add_get("/{path:.*}", forward)
            runner = web.AppRunner(application)
            await runner.setup()
            try:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                port = runner.addresses[0][1]
                settings = settings_for(_Endpoint(f"http://127.0.0.1:{port}"))  # type: ignore[arg-type]
                transport = Roads(settings)
                try:
                    origin = HfOrigin(ApiClient(transport, settings), settings)
                    # The private repo moved to another origin: the token stays behind, so it is not seen there.
                    with pytest.raises(Exception, match="knows no") as caught:
                        await origin.resolve(HF("acme/old"), Asker("job", Secret("hf_x")))
                    assert "private" in str(caught.value.__dict__["hint"])
                finally:
                    await transport.close()
            finally:
                await runner.cleanup()
            assert seen[0] == "Bearer hf_x"
            assert not any(record.authorization for record in hub.requests)

    asyncio.run(main())
