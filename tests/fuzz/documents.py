"""What people and networks write: Job Definitions, market lists, URIs, names of images, targets, settings."""

from __future__ import annotations

import json
import posixpath
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fetcher import config
from fetcher.cli.job import docker_argument
from fetcher.errors import ForbiddenError, ResourceError, UsageError
from fetcher.model import image, job, json_text, literals, market, resource_object, s3_address, uri, yaml_text
from fetcher.model.foreign_uri import page_hint
from fetcher.model.mount import JobResources
from fetcher.model.resource import HF, S3, Resource
from fetcher.model.targets import normalise_target, target_fault
from fetcher.net.request import Request as HTTPRequest
from fetcher.net.request import address_of, display_url, redirected
from tests.fuzz.harness import Family, Plant
from tests.fuzz.judging import assert_tells_no_secret, printable, told

ENDPOINT = "https://s3.example.org"
HUB = "https://hub.example.org:443"


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


# --- Job Definitions

_HF = {"type": "HF", "repo": "acme/tiny", "target": "/data/models/", "revision": "v1.0", "files": ["*.json", "a/b.bin"]}
_S3 = {
    "type": "S3",
    "url": "https://s3.example.org/bucket/prefix/",
    "target": "/data/s3",
    "files": ["model.onnx"],
    "allowWrite": True,
    "IAM": {
        "REGION": "eu-west-1",
        "ACCESS_KEY_ID": "CanaryKeyId000001",
        "SECRET_ACCESS_KEY": "CanarySecretKey000001",
        "SESSION_TOKEN": "CanarySession000001",
    },
}
_BUCKETS = {
    "type": "S3",
    "target": "/data/both",
    "buckets": [{"url": "s3://one/a", "files": ["x"]}, {"url": "s3://two/b?versionId=abc"}],
}
_OLLAMA = {"type": "Ollama", "model": "gemma3:4b", "target": "/root/.ollama/models"}


def _job(*resources: Any, variables: Any = None, op_id: str = "run") -> dict[str, Any]:
    return {
        "version": "0.1",
        "type": "container",
        "meta": {"trigger": "cli"},
        "global": {"variables": variables or {}},
        "ops": [{"type": "container/run", "id": op_id, "args": {"image": "x", "resources": list(resources)}}],
    }


JOBS = (
    _dump(_job({**_HF, "accessToken": "CanaryHubToken000001"}, _S3, _OLLAMA)),
    _dump(_job(_BUCKETS, {**_OLLAMA, "model": "other"}, {"type": "HF", "repo": "gpt2", "target": "/a/b"})),
    _dump(
        _job(
            {**_HF, "repo": "%%global.variables.repo%%", "accessToken": "%%global.variables.hub_token%%"},
            {"__spread__": "%%global.variables.list%%"},
            "%%global.variables.object%%",
            {**_HF, "target": "/late", "repo": "%%ops.first.results.repo%%"},
            variables={
                "repo": "acme/%%global.variables.name%%",
                "name": "tiny",
                "hub_token": "CanaryVariable000001",
                "list": [_OLLAMA, {**_HF, "target": "/spread"}],
                "object": json.dumps({**_HF, "target": "/object"}),
            },
        )
    ),
)
JOBS_YAML = (
    b"ops:\n- type: container/run\n  id: run\n  args:\n    resources: &all\n"
    b"    - {type: HF, repo: acme/tiny, target: /a}\n"
    b"    - type: S3\n      url: s3://bucket/prefix\n      target: '/b'\n"
    b"      IAM: {ACCESS_KEY_ID: a, SECRET_ACCESS_KEY: b}\n"
    b"- type: container/run\n  id: second\n  args: {resources: *all}\n",
    b"%YAML 1.2\n---\nglobal: {variables: {a: &x [1, 2.5, true, ~], b: *x}}\nops: []\n...\n",
    b'? ops\n: - args:\n      resources: |-\n        []\n    id: "a\\u0041"\n    type: !!str container/run\n',
)
_YAML_WORDS = (
    *(
        b"&a",
        b"*a",
        b"*all",
        b"&all",
        b"<<: ",
        b"!!python/object:os.system ",
        b"!!binary ",
        b"!!set ",
        b"!<x>",
        b"---\n",
    ),
    *(
        b"? ",
        b": ",
        b"- ",
        b"| \n",
        b">-\n",
        b"%TAG ! x\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b"\n",
        b"  ",
        b"\t",
        b"#",
        b"'",
        b'"',
    ),
)


def _judge_job(case: bytes, found: JobResources) -> None:
    assert len(found.mounts) + len(found.deferred) <= job.RESOURCES_MAX
    seen: set[tuple[str, str]] = set()
    for mount in found.mounts:
        _judge_target(mount.target)
        assert (mount.op, mount.target) not in seen, "two mounts at one place"
        seen.add((mount.op, mount.target))
        _judge_resource(mount.resource)
        printable(mount.at)
        for other in found.mounts:
            if other.op == mount.op and other.target.startswith(f"{mount.target}/"):
                assert found.mounts.index(other) > found.mounts.index(mount), "the inner mount comes first"
    for deferred in found.deferred:
        printable(deferred.at, deferred.reason)
    assert_tells_no_secret(case, [repr(found)], accepted=True)


def _judge_target(target: str) -> None:
    assert target.startswith("/") and target == posixpath.normpath(target) != "/"
    assert not target.startswith("//") and ".." not in target.split("/")
    printable(target)
    assert target.split("/")[1] not in ("proc", "sys", "dev")
    assert len(target.encode()) <= 2048
    target.encode()


def _judge_resource(resource: Resource) -> None:
    text = resource.uri()
    printable(text)
    if isinstance(resource, S3):
        places = [location.uri() for location in resource.locations]
        assert all(re.fullmatch(r"(s3|https?)://[\x21-\x7e]+", place) for place in places), places
        if any(location.files or location.selection for location in resource.locations):
            return
    again = uri.parse_uri(text, resource.files if isinstance(resource, HF) else ())
    assert again.key(HUB) == resource.key(HUB), f"{text} is read as another resource"


def _judge_refused(case: bytes, error: BaseException) -> None:
    assert_tells_no_secret(case, told(error))


def _parse_job(case: bytes) -> JobResources:
    return job.parse_job(case)


def _plant_key_error(patch: pytest.MonkeyPatch) -> None:
    whole = job._Reader._ops

    def ops(self: Any, document: Any) -> Any:
        found = whole(self, document)
        for op in found:
            op["args"]  # what a reader in a hurry writes
        return found

    patch.setattr(job._Reader, "_ops", ops)


def _plant_dots_in_targets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resource_object, "target_fault", lambda target: None if target.startswith("/") else "not absolute")


def _plant_told_secret(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(literals.Literals, "secrets", lambda self, *places: ())


def _plant_loose_yaml(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(yaml_text, "VALUES_MAX", 10**9)
    patch.setattr(yaml_text, "_place", lambda mark: f"line {mark.lines}")


def _plant_unbounded_depth(patch: pytest.MonkeyPatch) -> None:
    def parse(text: str | bytes) -> object:
        return json.loads(text)

    patch.setattr("fetcher.model.document.parse_json", parse)


JOB = Family(
    "job",
    "json",
    JOBS,
    _parse_job,
    (ResourceError,),
    _judge_job,
    _judge_refused,
    (
        Plant("a field is taken for granted", _plant_key_error),
        Plant("dots in targets", _plant_dots_in_targets),
        Plant("credentials are quoted", _plant_told_secret),
        Plant("any JSON that Python reads", _plant_unbounded_depth),
    ),
    words=(
        b"/data/../x",
        b"/proc/x",
        b"//x",
        b"CanaryHubToken000001",
        b"CanarySecretKey000001",
        b"%%global.variables.name%%",
    ),
    weight=2.0,
)
JOB_YAML = Family(
    "job-yaml",
    "text",
    JOBS_YAML,
    _parse_job,
    (ResourceError,),
    _judge_job,
    plants=(Plant("a mark without lines", _plant_loose_yaml),),
    words=_YAML_WORDS,
    weight=2.0,
)

# --- text and literals by themselves


def _parse_text(case: bytes) -> object:
    return json_text.parse_json(case)


def _judge_text(case: bytes, value: object) -> None:
    depth, level = 0, [value]
    while level:
        level = [inner for item in level if isinstance(item, dict | list) for inner in _inner(item)]
        depth += 1
    assert depth <= json_text.DEPTH_MAX + 1
    if not isinstance(value, float):
        assert value == json.loads(case.decode().removeprefix("\ufeff"))


def _inner(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else list(item)


JSON_TEXT = Family(
    "json-text",
    "json",
    (b'{"a":[1,2.5,-3e2,true,false,null,"\\u00e9\\ud83d\\ude00"],"b":{"c":{}}}', b"[[[]]]"),
    _parse_text,
    (json_text.JSONFaults,),
    _judge_text,
    plants=(Plant("no bound of depth", lambda patch: patch.setattr(json_text, "_deeper_than", lambda *_: False)),),
)

# --- market lists

MARKETS = (
    _dump(
        {
            "required_images": [
                "docker.io/acme/tool:1.0",
                {"name": "nvidia/cuda:12", "username": "me", "password": "CanaryPassword000001"},
                {"name": "registry.example.org/a/b@sha256:" + "0" * 64, "server": "registry.example.org"},
            ],
            "required_remote_resources": [
                {"type": "HF", "url": "acme/tiny", "accessToken": "CanaryMarket000001"},
                {
                    "type": "S3",
                    "url": "s3://bucket/a",
                    "IAM": {"access_key_id": "A", "secret_access_key": "CanaryS3Key00001"},
                },
                {"type": "Ollama", "model": "gemma3"},
                _BUCKETS,
            ],
        }
    ),
    _dump({"required_images": ["a"], "required_remote_resources": None}),
)


def _judge_market(case: bytes, found: market.MarketList) -> None:
    assert len(found.resources) <= market.ITEMS_MAX and len(found.images) <= market.ITEMS_MAX
    kept = json.dumps(found.without_secrets())
    assert_tells_no_secret(case, [kept], accepted=True)
    for item in (*found.resources, *found.images):
        printable(item.label, item.at)
        if item.fault is not None:
            assert_tells_no_secret(case, [*told(item.fault), item.label])
    again = market.parse_market(kept, saved=True)
    first = [item.resource.key(HUB) for item in found.resources if item.resource is not None]
    second = [item.resource.key(HUB) if item.resource is not None else item.fault for item in again.resources]
    assert list(dict.fromkeys(first)) == list(dict.fromkeys(second)), "the kept list is another one"
    for each in found.images:
        if each.image is not None:
            _judge_image(each.image.name.encode(), image.ImageReference.parse(each.image.name))


def _plant_kept_login(patch: pytest.MonkeyPatch) -> None:
    def saved(item: market.MarketImage, found: image.Image) -> dict[str, object]:
        login = {"username": found.login.user, "password": found.login.password.reveal()} if found.login else {}
        return {"name": found.name, **login}

    patch.setattr(market, "_saved_image", saved)


MARKET = Family(
    "market",
    "json",
    MARKETS,
    market.parse_market,
    (ResourceError,),
    _judge_market,
    _judge_refused,
    (Plant("logins are kept", _plant_kept_login),),
    weight=2.0,
)

MARKET_ADDRESS = Family(
    "market-address",
    "text",
    (b"nvidia-3090", b"So11111111111111111111111111111111111111112", b"1" * 32),
    lambda case: market.market_fault(case.decode(errors="surrogateescape")),
    judge=lambda case, fault: printable(fault),
)

# --- URIs

URIS = (
    *(b"hf://acme/tiny@refs%2Fpr%2F1", b"hf://datasets/acme/set", b"hf://gpt2", b"s3://bucket/a/b?versionId=x"),
    *(b"https://bucket.s3.eu-west-1.amazonaws.com/a%20b/c+d", b"https://s3.example.org/bucket/key#bucket=bucket"),
    *(b"https://a.r2.cloudflarestorage.com/b/c?X-Amz-Signature=CanarySig0000001", b"s3://a/b,s3://c/d"),
    *(b"https://huggingface.co/acme/tiny/tree/main/sub", b"ollama://host.example:5000/ns/model:tag,other"),
    *(b"docker://nginx:latest", b"https://f003.backblazeb2.com/file/b/k", b"https://[2001:db8::1]:8443/x"),
    *(b"https://ollama.com/library/gemma3", b"gs://bucket/x", b"https://storage.googleapis.com/b/o?generation=1"),
)


def _text(case: bytes) -> str:
    return case.decode("utf-8", "surrogateescape")


def _judge_uri(case: bytes, found: Resource) -> None:
    _judge_resource(found)
    queries = b"".join(re.findall(rb"\?[^,#]*", case))
    elsewhere = re.sub(rb"\?[^,#]*", b"", case)
    if b"Canary" in queries and b"Canary" not in elsewhere and b"versionid" not in queries.lower():
        assert "Canary" not in found.uri() + repr(found), "a signature is told"
    if isinstance(found, S3):
        for location in found.locations:
            try:
                known = s3_address.readings(location.url, bucket=found.bucket, endpoint=ENDPOINT, region="eu-west-1")
            except ResourceError:
                continue
            assert 1 <= len(known) <= 2
            for reading in known:
                _judge_reading(location.url, reading)


def _judge_reading(url: str, reading: s3_address.Reading) -> None:
    """A URL leads to the host that it names, or to that of the endpoint; never to one that its path made up."""
    made = reading.bucket.url(reading.key)
    try:
        host = address_of(made).host
    except ForbiddenError:
        return  # no request will ever be made of it
    written = address_of(url).host if not url.startswith("s3://") else "s3.example.org"
    suffix = ".".join(written.split(".")[-2:])
    assert host == written or host.endswith(suffix) or written.endswith(host), f"{url} leads to {host}"
    moved = reading.bucket.at_region("eu-central-1")
    assert address_of(moved.url(reading.key)).host.endswith(suffix)


def _plant_userinfo(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(uri, "location_fault", lambda url: None)


URI = Family(
    "uri",
    "text",
    URIS,
    lambda case: uri.parse_uri(_text(case)),
    (ResourceError,),
    _judge_uri,
    lambda case, error: printable(*(text for text in told(error) if "\n" not in text)),
    (Plant("URLs are taken as they come", _plant_userinfo),),
    weight=2.0,
)
PAGE = Family(
    "page-url",
    "text",
    URIS,
    lambda case: page_hint(case.decode(errors="replace")),
    judge=lambda case, hint: printable(hint),
)

# --- where a redirect leads

LOCATIONS = (
    *(b"/elsewhere?a=b#c", b"https://cdn.example.org/x%27?sig=CanarySig0000001", b"//cdn.example.org/x", b"../up"),
    *(b"?only=query", b"http://127.0.0.1/", b"https://user:pass@example.org/", b"https://xn--bcher-kva.example/"),
)
_ASKED = HTTPRequest("GET", "https://hub.example.org/a/b?c=d", secret_query=True)


class _Moved:
    status = 302
    url = _ASKED.url

    def __init__(self, location: str) -> None:
        self.headers = {"Location": location}


def _judge_location(case: bytes, found: HTTPRequest | None) -> None:
    assert found is not None
    address = address_of(found.url)
    assert re.fullmatch(r"[\x21-\x7e]+", found.url) and "#" not in found.url and "\\" not in found.url
    assert address.scheme in ("http", "https") and 0 < address.port < 65536 and address.host
    assert found.credential is None or address.origin == _ASKED.origin
    printable(display_url(found.url))
    assert not re.search(r"[?#]", display_url(found.url)), "a query, where signatures live, is told"


def _parse_location(case: bytes) -> HTTPRequest | None:
    return redirected(_ASKED, _Moved(_text(case) or "/"))


LOCATION = Family(
    "location",
    "text",
    LOCATIONS,
    _parse_location,
    (ForbiddenError,),
    _judge_location,
    plants=(
        Plant(
            "targets are only joined",
            lambda patch: patch.setattr("fetcher.net.request.resolve_location", lambda url, location: location),
        ),
        Plant("ports are not looked at", lambda patch: patch.setattr("fetcher.net.request.address_of", _any_address)),
    ),
)


def _any_address(url: str) -> Any:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return type("Loose", (), {"origin": f"{parts.scheme}://{parts.hostname}:{parts.port}"})()


# --- names of images

IMAGES = (
    *(b"nginx", b"nginx:1.25", b"docker.io/library/nginx@sha256:" + b"0" * 64, b"localhost:5000/a/b:c"),
    *(
        b"registry.example.org/team/tool-x_y.z:v1",
        b"[::1]:5000/a",
        b"index.docker.io/a/b",
        b"ghcr.io/a/b@sha512:" + b"1" * 128,
    ),
)


def _judge_image(case: bytes, found: image.ImageReference) -> None:
    assert re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", found.fetch_host), found.fetch_host
    assert re.fullmatch(r"[a-z0-9._/-]+", found.repository) and ".." not in found.repository
    assert re.fullmatch(r"[A-Za-z0-9_.:-]+", found.reference)
    if found.is_hub and re.search(r"[.:]", found.path.partition("/")[0]):
        return  # the Hub has no such owner; Docker itself would list it as another registry's
    for engine in ("docker", "podman"):
        name = found.delivered(engine)  # type: ignore[arg-type]
        assert image.ImageReference.parse(name).fetch_host == found.fetch_host


IMAGE = Family(
    "image",
    "text",
    IMAGES,
    lambda case: image.ImageReference.parse(_text(case)),
    (ValueError,),
    _judge_image,
    plants=(Plant("any name will do", lambda patch: patch.setattr(image, "image_fault", lambda text: None)),),
)

# --- targets, and how docker is told of them

TARGETS = (
    b"/data/models/",
    b"//data/./x",
    b"/proc/x",
    b"/dev",
    b"/a b",
    b"/a,readonly=false,source=/",
    b"/\xc3\xa4/x",
    b"rel",
)


def _parse_target(case: bytes) -> str:
    text = _text(case)
    fault = target_fault(text)
    if fault:
        raise ResourceError(fault)
    return normalise_target(text)


def _judge_mount(case: bytes, target: str) -> None:
    _judge_target(target)
    assert normalise_target(target) == target and target_fault(target) is None
    try:
        line = docker_argument("/cache/snapshots-v1/x", target, True)
    except UsageError as error:
        printable(error.message, error.hint)
        return
    flag, _, fields = line.partition(" ")
    assert (flag, fields.split(",")) == (
        "--mount",
        ["type=bind", "source=/cache/snapshots-v1/x", f"target={target}", "readonly"],
    )
    assert not re.search(r"[\s'\"\\$`;&|<>*?(){}\[\]!#,]", target), "a shell, or CSV, takes this apart"


TARGET = Family(
    "target",
    "text",
    TARGETS,
    _parse_target,
    (ResourceError,),
    _judge_mount,
    plants=(
        Plant("commas for docker", lambda patch: patch.setattr("fetcher.cli.job._plain", lambda path, what: path)),
        Plant("dots stay", lambda patch: patch.setattr(f"{__name__}.normalise_target", lambda target: target)),
    ),
)

# --- settings

CONFIGS = (
    b'cache_dir = "/c"\nfresh_for_s = "24h"\nquota_bytes = "100GB"\nallow_net = ["10.0.0.0/8"]\nconnections_max = 8\n',
    b'hf_endpoint = "https://hub.example.org"\nmarket_url = ["https://m.example.org/{market}"]\nkeep_from = "use"\n',
    b"stale_if_error_s = 1h\n[pins]\na.b = 1\n",
)
_SETTING_WORDS = (
    *(
        b"api_tries_max",
        b"part_bytes",
        b"limit_rate",
        b"allow_net",
        b"s3_endpoint",
        b"sync_bytes",
        b"= [",
        b'"""',
        b"'''",
    ),
    *(
        b"50M",
        b"1h30m",
        b"16MiB",
        b"10.0.0.0/33",
        b"::1/128",
        b"inf",
        b"nan",
        b"0x10",
        b"1979-05-27T07:32:00Z",
        b"{a = 1}",
    ),
)


def _parse_config(case: bytes) -> config.Settings:
    with tempfile.TemporaryDirectory(prefix="fetcher-fuzz-") as directory:
        file = Path(directory, "config.toml")
        file.write_bytes(case)
        return config.load(environ={"HOME": "/home/somebody"}, file=file)


def _judge_settings(case: bytes, found: config.Settings) -> None:
    assert found.cache_dir.is_absolute() and found.state_dir.is_absolute()
    assert found.part_bytes > 0 and found.connections_max > 0 and found.api_tries_max > 0
    for name in (
        "fresh_for_s",
        "keep_for_s",
        "api_timeout_s",
        "connect_timeout_s",
        "backoff_min_s",
        "retry_after_max_s",
    ):
        value = getattr(found, name)
        assert value == value and 0 <= value < 1e12, (name, value)


CONFIG = Family(
    "config",
    "text",
    CONFIGS,
    _parse_config,
    (UsageError,),
    _judge_settings,
    plants=(Plant("paths are texts", lambda patch: patch.setitem(config._READERS, "cache_dir", str)),),
    words=_SETTING_WORDS,
    weight=0.5,
)
ENVIRONMENTS = (
    b"FETCHER_CACHE_DIR: /c\nFETCHER_FRESH_FOR_S: 24h\nFETCHER_ALLOW_NET: 10.0.0.0/8,::1/128\nHF_ENDPOINT: https://h.example",
    b"FETCHER_MARKET_URL: https://m.example/{market},https://n.example/{market}\nFETCHER_CONNECTIONS_MAX: 8\nHOME: /h",
    b"FETCHER_LIMIT_RATE: 50M\nFETCHER_OLLAMA_URL: http://127.0.0.1:5000\nFETCHER_QUOTA_BYTES: 1TB\nXDG_CACHE_HOME: /x",
    b"AWS_ENDPOINT_URL: https://s3.example.org\nFETCHER_ENGINE_CACHE_DIR: /e\nFETCHER_KEEP_FROM: use\n"
    b"FETCHER_STATE_DIR: ~/s",
)


def _parse_environment(case: bytes) -> config.Settings:
    lines = [line.partition(b":") for line in case.split(b"\n")]
    environ = {_text(name).strip("\0"): _text(value.strip()).replace("\0", "") for name, _, value in lines if name}
    environ.pop("FETCHER_CONFIG", None)
    return config.load(environ={"HOME": "/home/somebody", "XDG_CONFIG_HOME": "/nonexistent", **environ})


ENVIRONMENT = Family(
    "environment", "headers", ENVIRONMENTS, _parse_environment, (UsageError,), _judge_settings, words=_SETTING_WORDS
)

FAMILIES = (
    *(JOB, JOB_YAML, JSON_TEXT, MARKET, MARKET_ADDRESS, URI, PAGE, LOCATION, IMAGE, TARGET, CONFIG, ENVIRONMENT),
)
