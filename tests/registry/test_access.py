"""Who may pull: logins, tokens that expire and open only what was asked for, private repositories, pull limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fetcher.testing.registry import PullLimit, Registry, User, registry_in_thread
from tests.hub.raw import Answer, fetch
from tests.registry.tools import Clock, basic, bearer, code, manifest, token

USERS: dict[str, User | str] = {"alice": "wonder:land", "bob": User("builder", frozenset({"acme/bobs"}))}
ALICE, BOB = basic("alice", "wonder:land"), basic("bob", "builder")
NAMES = ("library/open", "acme/secret", "acme/bobs")


@contextmanager
def guarded(auth: str, **settings: Any) -> Iterator[Registry]:
    with registry_in_thread(auth=auth, users=USERS, **settings) as registry:
        for name in NAMES:
            registry.add_model(name, layers={"model": name.encode()}, private=not name.endswith("open"))
        yield registry


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Iterator[Registry]:
    with guarded("bearer", clock=clock) as registry:
        yield registry


def statuses(registry: Registry, **headers: str) -> list[int | None]:
    return [manifest(registry, name, **headers).status for name in (*NAMES, "acme/missing")]


def challenge(answer: Answer) -> str:
    assert (answer.status, code(answer)) == (401, "UNAUTHORIZED")
    return answer.headers["www-authenticate"]


# Basic


def test_basic_asks_everybody() -> None:
    with guarded("basic") as registry:
        assert challenge(fetch(f"{registry.endpoint}/v2/")) == 'Basic realm="embedded registry"'
        assert statuses(registry) == [401] * 4
        for wrong in ("Basic ?", "Basic YQ==", basic("alice", "wonder"), basic("eve", ""), "Bearer x", "Basic"):
            assert statuses(registry, Authorization=wrong) == [401] * 4, wrong
        assert fetch(f"{registry.endpoint}/v2/", headers={"Authorization": BOB}).status == 200
        assert statuses(registry, Authorization=ALICE) == [200, 200, 200, 404]
        # What is missing and what is closed look alike.
        assert statuses(registry, Authorization=BOB) == [200, 403, 200, 403]
        assert code(manifest(registry, "acme/secret", Authorization=BOB)) == "DENIED"
        assert registry.requests[-1].principal == "bob"
        assert fetch(registry.token_url).status == 404


def test_a_private_repository_needs_users() -> None:
    with pytest.raises(ValueError, match="needs a registry with auth"):
        Registry().add_model("acme/secret", private=True)


# Bearer


def test_the_challenge_names_everything_a_client_needs(tokens: Registry) -> None:
    start = f'Bearer realm="{tokens.endpoint}/token",service="embedded-registry"'
    assert challenge(fetch(f"{tokens.endpoint}/v2/")) == start
    answer = manifest(tokens, "library/open")
    assert challenge(answer) == f'{start},scope="repository:library/open:pull"'
    assert answer.json["errors"][0]["detail"][0]["Name"] == "library/open"
    head = manifest(tokens, "library/open", method="HEAD")
    assert (head.status, head.body) == (401, b"")
    bad = manifest(tokens, "library/open", Authorization="Bearer made-up")
    assert challenge(bad).endswith(',error="invalid_token"')
    assert manifest(tokens, "library/open", Authorization=ALICE).status == 401


def test_anybody_gets_a_token_for_what_is_public(tokens: Registry) -> None:
    headers = bearer(tokens, "library/open")
    assert manifest(tokens, "library/open", **headers).status == 200
    assert fetch(f"{tokens.endpoint}/v2/", headers=headers).status == 200
    assert [record.principal for record in tokens.requests] == [None] * len(tokens.requests)


def test_a_token_opens_only_what_it_was_asked_for(tokens: Registry) -> None:
    for name, login in [("library/open", None), ("acme/secret", ALICE), ("acme/bobs", BOB)]:
        headers = bearer(tokens, name, login)
        assert statuses(tokens, **headers) == [200 if name == each else 401 for each in (*NAMES, "acme/missing")]
    wrong = manifest(tokens, "acme/secret", **bearer(tokens, "library/open", ALICE))
    assert challenge(wrong).endswith(',error="insufficient_scope"')
    scopes = ("repository:library/open:pull", "repository:acme/secret:pull,push repository:acme/bobs:pull")
    assert statuses(tokens, Authorization=f"Bearer {token(tokens, *scopes, login=ALICE)}") == [200, 200, 200, 401]
    for useless in ("repository:library/open:push", "registry:catalog:*", "library/open", ""):
        assert statuses(tokens, Authorization=f"Bearer {token(tokens, useless, login=ALICE)}") == [401] * 4


def test_a_private_repository_is_as_closed_as_a_missing_one(tokens: Registry) -> None:
    for login in (None, BOB):
        for name in ("acme/secret", "acme/missing"):
            answer = manifest(tokens, name, **bearer(tokens, name, login))
            assert challenge(answer).endswith(',error="insufficient_scope"')
    assert manifest(tokens, "acme/missing", **bearer(tokens, "acme/missing", ALICE)).status == 404


def test_access_taken_away_is_gone_at_once(tokens: Registry) -> None:
    headers = bearer(tokens, "acme/bobs", BOB)
    assert manifest(tokens, "acme/bobs", **headers).status == 200
    tokens.users["bob"] = User("builder", frozenset())
    assert manifest(tokens, "acme/bobs", **headers).status == 401


def test_the_token_service_refuses(tokens: Registry) -> None:
    for wrong in (basic("alice", "no"), basic("eve", "x"), "Basic ?", "Bearer x"):
        answer = fetch(tokens.token_url, headers={"Authorization": wrong})
        assert (answer.status, code(answer)) == (401, "UNAUTHORIZED")
    assert fetch(f"{tokens.token_url}?service=another").status == 400
    assert fetch(tokens.token_url, method="POST", body=b"grant_type=password").status == 405


def test_tokens_expire_by_the_clock(tokens: Registry, clock: Clock) -> None:
    answer = fetch(f"{tokens.token_url}?scope=repository:library/open:pull").json
    assert answer["expires_in"] == 300 and answer["token"] == answer["access_token"] and answer["issued_at"]
    headers = {"Authorization": f"Bearer {answer['token']}"}
    clock.now += 299.9
    assert manifest(tokens, "library/open", **headers).status == 200
    clock.now += 0.1
    assert challenge(manifest(tokens, "library/open", **headers)).endswith(',error="invalid_token"')
    headers = bearer(tokens, "library/open")
    assert manifest(tokens, "library/open", **headers).status == 200
    tokens.revoke_tokens()
    assert manifest(tokens, "library/open", **headers).status == 401
    assert manifest(tokens, "library/open", **bearer(tokens, "library/open")).status == 200


def test_blobs_and_tags_are_guarded_too(tokens: Registry) -> None:
    digest = tokens.repository("acme/secret")["latest"].document["layers"][0]["digest"]
    for path in (f"blobs/{digest}", "tags/list"):
        url = f"{tokens.endpoint}/v2/acme/secret/{path}"
        assert fetch(url).status == 401
        assert fetch(url, headers=bearer(tokens, "acme/secret", BOB)).status == 401
        assert fetch(url, headers=bearer(tokens, "acme/secret", ALICE)).status == 200


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_the_token_may_have_one_name_only(name: str) -> None:
    with guarded("bearer", token_fields=(name,)) as registry:
        answer = fetch(f"{registry.token_url}?scope=repository:library/open:pull").json
        assert {"token", "access_token"} & answer.keys() == {name}


def test_the_token_service_may_live_elsewhere() -> None:
    with guarded("bearer", separate_token_service=True) as registry:
        assert not registry.token_url.startswith(registry.endpoint)
        assert registry.token_url in challenge(manifest(registry, "library/open"))
        assert manifest(registry, "library/open", **bearer(registry, "library/open")).status == 200
        assert fetch(f"{registry.endpoint}/token").status == 404
        assert fetch(registry.token_url.replace("/token", "/v2/")).status == 404


def test_no_credential_is_on_record(tokens: Registry) -> None:
    headers = bearer(tokens, "acme/secret", ALICE)
    assert manifest(tokens, "acme/secret", **headers).status == 200
    fetch(tokens.token_url, headers={"Authorization": basic("alice", "a-wrong-one")})
    text = repr([*tokens.requests, tokens.users, tokens._tokens])
    for secret in ("wonder", "builder", "embedded.", ALICE.split()[1], headers["Authorization"].split()[1]):
        assert secret not in text
    asked, pulled, refused = tokens.requests
    assert (asked.route, asked.principal, asked.authorization) == ("token", "alice", True)
    assert (pulled.route, pulled.principal, pulled.repo) == ("manifest", "alice", "acme/secret")
    assert (refused.principal, refused.authorization) == (None, True)


# Limits


@pytest.mark.parametrize("retry_after", [True, False])
def test_pulls_are_limited_and_head_is_free(clock: Clock, retry_after: bool) -> None:
    limit = PullLimit(pulls=2, window_s=600, retry_after=retry_after)
    with registry_in_thread(pull_limit=limit, clock=clock) as registry:
        digest = registry.add_model("library/tiny", layers={"model": b"m"}).document["layers"][0]["digest"]
        for _ in range(5):
            head = manifest(registry, "library/tiny", method="HEAD")
            assert (head.headers["ratelimit-limit"], head.headers["ratelimit-remaining"]) == ("2;w=600", "2;w=600")
        assert manifest(registry, "library/tiny").headers["ratelimit-remaining"] == "1;w=600"
        assert manifest(registry, "library/tiny").headers["ratelimit-remaining"] == "0;w=600"
        clock.now += 100
        over = manifest(registry, "library/tiny")
        assert (over.status, code(over), over.headers["ratelimit-remaining"]) == (429, "TOOMANYREQUESTS", "0;w=600")
        assert over.headers.get("retry-after") == ("500" if retry_after else None)
        assert manifest(registry, "library/tiny", method="HEAD").status == 200
        assert fetch(f"{registry.endpoint}/v2/library/tiny/blobs/{digest}").status == 200
        clock.now += 500
        assert manifest(registry, "library/tiny").headers["ratelimit-remaining"] == "1;w=600"


def test_each_asker_has_a_limit_of_their_own() -> None:
    with guarded("bearer", pull_limit=PullLimit(pulls=1)) as registry:
        for login in (None, ALICE, BOB):
            headers = bearer(registry, "library/open", login)
            assert [manifest(registry, "library/open", **headers).status for _ in range(2)] == [200, 429]
