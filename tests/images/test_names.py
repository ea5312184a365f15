"""Names of images: spelling → where it is fetched, what it is called in each engine, and whether a node will see it."""

from __future__ import annotations

import pytest

from fetcher.images.pull import HUB_LOGIN_SERVER, is_loopback, login_server
from fetcher.model.image import EngineKind, Image, ImageReference, image_fault, server_fault
from fetcher.model.secret import Login, Secret

HUB = "registry-1.docker.io"
DIGEST = "sha256:" + "0123456789abcdef" * 4
LONG_DIGEST = "sha512:" + "0123456789abcdef" * 8

# Spelling → (host that serves it, repository there, what is asked for, name in Docker, name in Podman).
SPELLINGS = {
    "nginx": (HUB, "library/nginx", "latest", "nginx:latest", "docker.io/library/nginx:latest"),
    "nginx:1.27": (HUB, "library/nginx", "1.27", "nginx:1.27", "docker.io/library/nginx:1.27"),
    "library/nginx:1": (HUB, "library/nginx", "1", "nginx:1", "docker.io/library/nginx:1"),
    "docker.io/nginx:1": (HUB, "library/nginx", "1", "nginx:1", "docker.io/library/nginx:1"),
    "docker.io/library/nginx": (HUB, "library/nginx", "latest", "nginx:latest", "docker.io/library/nginx:latest"),
    "index.docker.io/nginx:1": (HUB, "library/nginx", "1", "nginx:1", "docker.io/library/nginx:1"),
    "docker.io/library/a/b:1": (HUB, "library/a/b", "1", "library/a/b:1", "docker.io/library/a/b:1"),
    "nosana/stats:v1": (HUB, "nosana/stats", "v1", "nosana/stats:v1", "docker.io/nosana/stats:v1"),
    "docker.io/vllm/vllm-openai:v0.5.4": (
        *(HUB, "vllm/vllm-openai", "v0.5.4"),
        *("vllm/vllm-openai:v0.5.4", "docker.io/vllm/vllm-openai:v0.5.4"),
    ),
    "registry.hub.docker.com/nosana/frpc:0.1.0": (
        *(HUB, "nosana/frpc", "0.1.0"),
        *("registry.hub.docker.com/nosana/frpc:0.1.0", "registry.hub.docker.com/nosana/frpc:0.1.0"),
    ),
    "registry.hub.docker.com/nginx": (
        *(HUB, "library/nginx", "latest"),
        *("registry.hub.docker.com/nginx:latest", "registry.hub.docker.com/nginx:latest"),
    ),
    "registry-1.docker.io/org/app:1": (
        *(HUB, "org/app", "1"),
        *("registry-1.docker.io/org/app:1", "registry-1.docker.io/org/app:1"),
    ),
    "ghcr.io/Org/app".lower(): ("ghcr.io", "org/app", "latest", "ghcr.io/org/app:latest", "ghcr.io/org/app:latest"),
    "GHCR.io/org/app:V1": ("ghcr.io", "org/app", "V1", "GHCR.io/org/app:V1", "GHCR.io/org/app:V1"),
    "quay.io:443/a:1": ("quay.io", "a", "1", "quay.io:443/a:1", "quay.io:443/a:1"),
    "localhost/app": ("localhost", "app", "latest", "localhost/app:latest", "localhost/app:latest"),
    "localhost:5000": (HUB, "library/localhost", "5000", "localhost:5000", "docker.io/library/localhost:5000"),
    "host:5000/img": ("host:5000", "img", "latest", "host:5000/img:latest", "host:5000/img:latest"),
    "127.0.0.1:5000/org/app:v1": (
        *("127.0.0.1:5000", "org/app", "v1"),
        *("127.0.0.1:5000/org/app:v1", "127.0.0.1:5000/org/app:v1"),
    ),
    "[::1]:5000/app:v1": ("[::1]:5000", "app", "v1", "[::1]:5000/app:v1", "[::1]:5000/app:v1"),
    "myhost/app": (HUB, "myhost/app", "latest", "myhost/app:latest", "docker.io/myhost/app:latest"),
    "a_b/c__d/e---f/g.h": (
        *(HUB, "a_b/c__d/e---f/g.h", "latest"),
        *("a_b/c__d/e---f/g.h:latest", "docker.io/a_b/c__d/e---f/g.h:latest"),
    ),
    f"nginx@{DIGEST}": (HUB, "library/nginx", DIGEST, f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
    f"ghcr.io/a/b:1@{DIGEST}": ("ghcr.io", "a/b", DIGEST, f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
    f"ghcr.io/a@{LONG_DIGEST}": ("ghcr.io", "a", LONG_DIGEST, f"ghcr.io/a@{LONG_DIGEST}", f"ghcr.io/a@{LONG_DIGEST}"),
    "1234567890abcdef": (
        *(HUB, "library/1234567890abcdef", "latest"),
        *("1234567890abcdef:latest", "docker.io/library/1234567890abcdef:latest"),
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_is_fetched_and_delivered_as_the_table_says(spelling: str) -> None:
    reference = ImageReference.parse(spelling)
    assert (
        reference.fetch_host,
        reference.repository,
        reference.reference,
        reference.delivered("docker"),
        reference.delivered("podman"),
    ) == SPELLINGS[spelling]
    assert Image(spelling).uri() == f"docker://{spelling}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("a" * 256, "longer than 255"),
        ("h.io/" + "a" * 251, "longer than 255"),
        ("a" * 5_000, "longer than"),
        ("a:" + "t" * 129, "128 at most"),
        ("a:", "a tag is"),
        ("a:.x", "a tag is"),
        ("a:b:c", "a tag is"),
        ("a b", "blanks"),
        ("a\n", "blanks"),
        ("a\0b", "blanks"),
        ("\ud800", "blanks"),
        ("docker://nginx", "no scheme"),
        ("https://ghcr.io/org/app", "no scheme"),
        ("Nginx", "upper-case"),
        ("ghcr.io/Org/app", "upper-case"),
        ("LOCALHOST/app", "upper-case"),
        ("-host.io/app", "no host"),
        ("ho_st.io/app", "no host"),
        ("host.io:port/app", "no host"),
        ("host:/app", "no host"),
        ("../etc/passwd", "no host"),
        ("a/../b", "parts are"),
        ("a//b", "parts are"),
        ("/a", "parts are"),
        ("a/", "parts are"),
        ("ghcr.io/", "parts are"),
        (":tag", "parts are"),
        ("@" + DIGEST, "parts are"),
        ("a..b", "parts are"),
        ("a/b___c", "parts are"),
        ("ä", "parts are"),
        ("a%2fb", "parts are"),
        ("a?b=c", "parts are"),
        ("a#b", "parts are"),
        ("a@sha256:12", "after @"),
        ("a@" + DIGEST.upper(), "after @"),
        ("a@md5:" + "0" * 32, "after @"),
        (f"a@{DIGEST}@{DIGEST}", "after @"),
        ("0123456789abcdef" * 4, "id of an image"),
    ],
)
def test_what_is_no_name_is_told_in_a_sentence(text: str, sentence: str) -> None:
    fault = image_fault(text)
    assert fault is not None
    assert sentence in fault
    assert fault.isprintable()
    assert len(fault) < 250
    with pytest.raises(ValueError, match=r"image"):
        Image(text)


def test_a_password_pasted_into_a_name_is_not_repeated() -> None:
    fault = image_fault("user:hunter22@ghcr.io/org/app")
    assert fault is not None
    assert "hunter22" not in fault


@pytest.mark.parametrize(
    ("name", "server", "sentence"),
    [
        ("ghcr.io/org/app", "ghcr.io", None),
        ("ghcr.io/org/app", "https://GHCR.io/v2/", None),
        ("ghcr.io/org/app", "ghcr.io:443", None),
        ("org/app", "https://index.docker.io/v1/", None),
        ("org/app", "registry.hub.docker.com", None),
        ("registry.hub.docker.com/org/app", "docker.io", None),
        ("org/app", "hub.docker.com", None),
        ("org/app", "ghcr.io", "is for ghcr.io, but the image is at registry-1.docker.io"),
        ("ghcr.io/org/app", "ghcr.io:5000", "is for ghcr.io:5000"),
        ("ghcr.io/org/app", "docker.io", "is for registry-1.docker.io"),
        ("ghcr.io/org/app", "a b", "not a registry"),
        ("ghcr.io/org/app", "", "not a registry"),
        ("ghcr.io/org/app", "https://user:hunter22@ghcr.io", "not a registry"),
    ],
)
def test_a_login_goes_to_the_registry_it_is_for(name: str, server: str, sentence: str | None) -> None:
    fault = server_fault(name, server)
    assert (fault is None) == (sentence is None)
    assert (sentence or "") in (fault or "")
    assert "hunter22" not in (fault or "")


def test_a_login_for_another_registry_makes_no_image() -> None:
    login = Login("u", Secret("hunter22"))
    with pytest.raises(ValueError, match="the login is for"):
        Image("org/app", login, "ghcr.io")
    # A server without a login is a remark: the image is asked for anonymously.
    assert Image("org/app", None, "ghcr.io").login is None
    assert "hunter22" not in repr(Image("ghcr.io/org/app", login, "ghcr.io"))


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("nginx", HUB_LOGIN_SERVER),
        ("docker.io/org/app:1", HUB_LOGIN_SERVER),
        ("index.docker.io/org/app", HUB_LOGIN_SERVER),
        # To the engines other registries, with logins of their own.
        ("registry.hub.docker.com/org/app", "registry.hub.docker.com"),
        ("registry-1.docker.io/org/app", "registry-1.docker.io"),
        ("127.0.0.1:5000/org/app", "127.0.0.1:5000"),
    ],
)
def test_the_engine_is_told_the_server_by_its_own_rules(name: str, server: str) -> None:
    assert login_server(ImageReference.parse(name)) == server


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000")),
        *((host, False) for host in (None, "ghcr.io", "128.0.0.1:5000", "[2001:db8::1]:5000", "localhost.example")),
    ],
)
def test_what_counts_as_this_machine(host: str | None, loopback: bool) -> None:
    assert is_loopback(host) is loopback


# --- the node's own check --------------------------------------------------------------------------------------------


def node_finds(required: str, repo_tags: list[str]) -> bool:
    """How the node decides whether it has an image: text against text. (Its double slash is its own.)"""
    name = required if ":" in required else f"{required}:latest"
    accepted = {
        name,
        f"docker.io/{name}",
        f"docker.io/library/{name}",
        f"registry.hub.docker.com//{name}",
        f"registry.hub.docker.com/library/{name}",
    }
    return not accepted.isdisjoint(repo_tags)


NEVER_FOUND_BY_THE_NODE: dict[EngineKind, set[str]] = {
    # Docker drops the host of the Hub's names, which the node does not expect.
    "docker": {
        *("library/nginx:1", "docker.io/nginx:1", "docker.io/library/nginx", "index.docker.io/nginx:1"),
        *("docker.io/library/a/b:1", "docker.io/vllm/vllm-openai:v0.5.4"),
    },
    "podman": {"docker.io/nginx:1", "index.docker.io/nginx:1"},
}


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_the_node_finds_what_was_delivered(engine: EngineKind) -> None:
    missed = set()
    for spelling in SPELLINGS:
        reference = ImageReference.parse(spelling)
        tags = [] if reference.digest else [reference.delivered(engine)]  # digests are listed elsewhere
        if not node_finds(spelling, tags):
            missed.add(spelling)
    # It can't find digests, nor a name with a port and no tag; those it asks the engine to pull again every time.
    blind = {spelling for spelling in SPELLINGS if "@" in spelling} | {"host:5000/img"}
    assert missed == NEVER_FOUND_BY_THE_NODE[engine] | blind
