"""Tenants of one cache, three kinds of origin that can change their minds about them, and the law that judges both.

The law is written without a look at the product: it knows what the origin would answer an asker now, and nothing else.
What an asker did is an ``Answer``: what he got or was told, and what went over the wire for him.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from fetcher import Fetcher, FetcherError
from fetcher.engine.asks import Ask
from fetcher.model.asker import Asker
from fetcher.model.events import Notice, Progress
from fetcher.model.resource import Ollama
from fetcher.model.secret import Login, Secret
from fetcher.testing import S3, Hub, Quotas, Synthetic, hub_in_thread, s3_in_thread
from fetcher.testing.faults import OnRequest, Status
from fetcher.testing.hub import Token
from fetcher.testing.messages import Reply
from fetcher.testing.records import RequestRecord
from fetcher.testing.registry import Registry, registry_in_thread
from fetcher.testing.registry.access import User
from fetcher.testing.s3 import Key
from tests.e2e.support import HURRIED, MIB, RESUMES, Gate, proven_blocks, sha256_of, until

Kind = Literal["hf", "s3", "ollama"]
KINDS: tuple[Kind, ...] = ("hf", "s3", "ollama")
Visibility = Literal["public", "private", "gated"]

GRANTED = ("owner", "other", "node", "somebody")
"""Whose credentials open what is private."""
VALID = (*GRANTED, "stranger")
_REQUEST_ID = re.compile(r"\(request [^)]*\)")
PATIENCE: Mapping[str, Any] = {
    "api_tries_max": 2,
    "api_time_max_s": 20.0,
    "no_progress_timeout_s": 30.0,
}
BIG, SMALL = "model.safetensors", "config.json"
BIG_BYTES = 2 * MIB + 77


@dataclass(frozen=True)
class Tenant:
    """Who asks: in which role, and with whose credential."""

    name: str
    role: Literal["operator", "job"]
    credential: str | None = None
    in_environment: bool = False

    def __str__(self) -> str:
        return self.name


OPERATOR = Tenant("operator", "operator")
NODE = Tenant("operator-with-token", "operator", "node", in_environment=True)
ANONYMOUS = Tenant("anonymous-job", "job")
OWNER = Tenant("owner", "job", "owner")
OTHER = Tenant("other-with-access", "job", "other")
SOMEBODY = Tenant("somebody-with-access", "job", "somebody")
STRANGER = Tenant("without-access", "job", "stranger")
BAD = Tenant("bad-credential", "job", "bad")
TENANTS = (OPERATOR, NODE, ANONYMOUS, OWNER, OTHER, STRANGER, BAD)


@dataclass
class Law:
    """What an origin says of one resource, to whom, at this moment."""

    kind: Kind
    visibility: Visibility = "private"
    there: bool = True
    valid: set[str] = field(default_factory=lambda: set(VALID))
    granted: set[str] = field(default_factory=lambda: set(GRANTED))
    trouble: str = ""
    """What the whole origin answers to everybody: ``down`` or ``limited``."""

    def credential_of(self, tenant: Tenant) -> str | None:
        """What this origin is shown; there is no environment variable for a registry of models."""
        return None if self.kind == "ollama" and tenant.in_environment else tenant.credential

    def allows(self, tenant: Tenant) -> bool:
        """Whether the origin would give it to ``tenant`` now."""
        if self.trouble or not self.there:
            return False
        credential = self.credential_of(tenant)
        anybodys = self.visibility == "public"
        if self.kind == "ollama" and anybodys:
            return True  # asked for without a credential first
        if credential is None:
            return anybodys
        if credential not in self.valid:
            return False  # a wrong credential is worse than none
        return anybodys or credential in self.granted

    def makes_public(self, tenant: Tenant) -> bool:
        """Whether what ``tenant`` is given now is everybody's: it took no credential, or the origin says so."""
        if self.kind == "s3":
            return tenant.credential is None
        return self.visibility == "public" or self.credential_of(tenant) is None

    def kinds(self, tenant: Tenant) -> set[str]:
        """Which errors a refusal may be."""
        if self.trouble:
            told = {"transport"} if self.trouble == "down" else {"rate_limited"}
            return told if self.credential_of(tenant) in {None, *self.valid} else {*told, "denied"}
        return {"not_found", "denied"}


@dataclass
class Answer:
    """What became of one ask, and all that could be seen of it."""

    error: tuple[Any, ...] | None = None
    """Kind, exit code, message, hint, resource and place."""
    hit: bool = False
    downloaded: int = 0
    private: bool = False
    path: Path | None = None
    tree: dict[str, tuple[int, str]] = field(default_factory=dict)
    inodes: dict[str, int] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    """Requests to the API, in order."""
    bodies: list[str] = field(default_factory=list)
    """Requests for files' bytes, each kind once: in how many parts is a matter of time."""
    body_bytes: int = 0
    events: list[Any] = field(default_factory=list)

    @property
    def seen(self) -> tuple[Any, ...]:
        """All that an asker, and who watches his wire, can tell of it."""
        return (self.error, self.hit, self.downloaded, self.tree, self.questions, self.bodies, self.events)


class TenantFetcher(Fetcher):
    """The library as a tenant uses it. Models have no field for a credential yet; ``login`` is as if they had."""

    login: Login | None = None

    def _ask(self, item: Any, role: Any, at: str | None = None, keys_of: Any = None) -> Ask:
        ask = super()._ask(item, role, at, keys_of)
        if self.login is None or not isinstance(ask.resource, Ollama):
            return ask
        asker = Asker(ask.asker.role, self.login, ask.asker.trusted_origins)
        return Ask(ask.resource, asker, ask.copies, ask.at)


class EndHeld(Gate):
    """Whoever asks for the second half of a file waits until the gate is open; after ``let_others`` only those do who
    have asked already. With ``HALVES`` a client has nothing else to ask for then."""

    HALVES: ClassVar[Mapping[str, Any]] = {"part_bytes": 2 * MIB, "connections_max": 2}

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.answer: Reply | None = None
        """What those who waited get in place of the bytes."""
        self._others = False

    async def __call__(self, exchange: Any) -> Any:
        if not self._others and (exchange.record.range or "bytes=0-").startswith(f"bytes={2 * MIB}-"):
            self.waiting += 1
            await super().__call__(exchange)
            return self.answer
        return None

    def let_others(self) -> None:
        self._others = True

    async def reached(self, world: World, cache_dir: Path) -> None:
        """Somebody waits, with the first half in his Partial, and asks for nothing else."""
        await until(lambda: self.waiting > 0 and (not RESUMES or proven_blocks(cache_dir) >= 1))
        await until(lambda: all(record.ended for record in world.origin.requests if not record.range))
        self.let_others()


class World:
    """One origin, running, with any number of resources, each under its own law."""

    kind: Kind

    def __init__(self, origin: Any) -> None:
        self.origin = origin
        self.laws: dict[str, Law] = {}
        self.contents: dict[str, dict[str, Any]] = {}
        self.credentials = set(VALID)
        self.fetcher_class: type[TenantFetcher] = TenantFetcher

    # What the origin is told

    def add(self, name: str, visibility: Visibility = "private", seed: int = 1) -> Law:
        law = self.laws[name] = Law(self.kind, visibility)
        law.valid = self.credentials
        self.contents[name] = {BIG: Synthetic(BIG_BYTES, seed), SMALL: Synthetic(1000, seed + 500)}
        self._add(name, self.contents[name])
        self.show(name, visibility)
        return law

    def show(self, name: str, visibility: Visibility) -> None:
        """Make it public, private or gated, to everybody, at once."""
        self.laws[name].visibility = visibility
        self._show(name, visibility)

    def remove(self, name: str) -> None:
        self.laws[name].there = False
        self._remove(name)

    def revoke(self, credential: str) -> None:
        """The credential is worth nothing from now on, anywhere."""
        self.credentials.discard(credential)
        self._revoke(credential)

    def restore(self, credential: str) -> None:
        self.credentials.add(credential)
        self._restore(credential)

    def downgrade(self, credential: str) -> None:
        """The credential stays good, and opens nothing that is not public."""
        for law in self.laws.values():
            law.granted.discard(credential)
        self._rights(credential, False)

    def grant(self, credential: str) -> None:
        for law in self.laws.values():
            law.granted.add(credential)
        self._rights(credential, True)

    def trouble(self, what: str) -> None:
        """``down``, ``limited``, or nothing."""
        for law in self.laws.values():
            law.trouble = what
        self.origin.faults.clear()
        if what == "down":
            self.origin.faults.add(Status(503))
        elif what == "limited":
            self.origin.faults.add(Status(429, retry_after=100_000))

    def hold_end(self, name: str) -> EndHeld:
        """The end of the large file is held until that is opened; see there."""
        held = EndHeld()
        self.origin.faults.add(OnRequest(held).on("bodies", path=self.path_of(name)))
        return held

    # To be filled in

    def _add(self, name: str, contents: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _show(self, name: str, visibility: Visibility) -> None:
        raise NotImplementedError

    def _remove(self, name: str) -> None:
        raise NotImplementedError

    def _revoke(self, credential: str) -> None:
        raise NotImplementedError

    def _restore(self, credential: str) -> None:
        raise NotImplementedError

    def _rights(self, credential: str, granted: bool) -> None:
        raise NotImplementedError

    def item(self, name: str, tenant: Tenant) -> Any:
        """What the tenant's job, or the operator, says."""
        raise NotImplementedError

    def environ(self, tenant: Tenant) -> dict[str, str]:
        return {}

    def options(self) -> dict[str, Any]:
        """Settings by which this origin is asked."""
        raise NotImplementedError

    def path_of(self, name: str) -> str:
        """The large file, as the origin's log has it."""
        return BIG

    def held(self, name: str) -> dict[str, tuple[int, str]]:
        """The tree that the origin would give."""
        return {path: (content.size, content.sha256) for path, content in self.contents[name].items()}

    # What tenants do

    def settings(self, cache_dir: Path, **more: Any) -> dict[str, Any]:
        """Settings of a hurried client of this origin."""
        return {**HURRIED, **PATIENCE, "cache_dir": str(cache_dir), **self.options(), **more}

    def fetcher(self, cache_dir: Path, tenant: Tenant, *, on_event: Any = None, **more: Any) -> TenantFetcher:
        settings = self.settings(cache_dir, **more)
        made = self.fetcher_class(environ=self.environ(tenant), on_event=on_event, **settings)
        if self.kind == "ollama" and tenant.credential is not None and not tenant.in_environment:
            made.login = Login(tenant.credential, Secret(f"password-of-{tenant.credential}"))
        return made

    def ask(self, cache_dir: Path, tenant: Tenant, name: str = "one", **more: Any) -> Answer:
        """One ask, from an empty loop to the end."""
        return asyncio.run(self.asking(cache_dir, tenant, name, **more))

    async def asking(
        self, cache_dir: Path, tenant: Tenant, name: str = "one", *, fetcher: Fetcher | None = None, **more: Any
    ) -> Answer:
        """``fetcher``: somebody's that is open already. What others ask meanwhile must be held elsewhere: the log is
        everybody's."""
        answer = Answer()
        told: list[Any] = []
        before = list(self.origin.requests)
        others = {connection_of(record) for record in before} if fetcher is None else set()
        one = fetcher or self.fetcher(cache_dir, tenant, on_event=told.append, **more)
        try:
            outcome = await one.fetch(self.item(name, tenant), tenant.role)
            snapshot = outcome.snapshot
            answer.hit, answer.downloaded, answer.private = outcome.hit, outcome.downloaded, snapshot.private
            answer.path = snapshot.path
            for path, status in files_below(snapshot.path):
                relative = path.relative_to(snapshot.path).as_posix()
                answer.tree[relative] = (status.st_size, sha256_of(path))
                answer.inodes[relative] = status.st_ino
        except FetcherError as error:
            answer.error = told_by(error)
        finally:
            if fetcher is None:
                await one.aclose()
        for record in list(self.origin.requests)[len(before) :]:
            if connection_of(record) in others:  # of somebody who is still at it
                continue
            line = line_of(record)
            if record.route in ("cdn", "resolve-cache", "blob") or (
                record.route == "object" and record.method == "GET"
            ):
                answer.body_bytes += record.body_bytes_due if record.status in (200, 206) else 0
                if line not in answer.bodies:
                    answer.bodies.append(line)
            else:
                answer.questions.append(line)
        answer.bodies.sort()
        if self.kind == "s3":  # a listing and an object are asked for at once: in which order they come is chance
            answer.questions.sort()
        answer.events = events_of(told)
        return answer


def connection_of(record: RequestRecord) -> tuple[bool, int]:
    """Which one it was: each listener counts its own."""
    return record.route == "cdn", record.connection


def told_by(error: FetcherError) -> tuple[Any, ...]:
    message = _REQUEST_ID.sub("(request …)", error.message)  # the origin's number for this very question
    return (error.kind, error.exit_code, message, error.hint, error.resource, error.at, len(error.also))


def events_of(told: list[Any]) -> list[Any]:
    """What was told, without what is a matter of time."""
    found: list[Any] = []
    for event in told:
        if isinstance(event, Notice):
            found.append(("notice", event.resource, event.message))
        elif isinstance(event, Progress) and event.bytes_total is not None:
            total = ("total", event.bytes_total, event.files_total)
            found += [] if total in found else [total]
    return found


def line_of(record: RequestRecord) -> str:
    """A request, as who watches the wire sees it: not the values of what differs each time (ids, times, ranges), but
    their names, and whose credential came along."""
    path, _, query = record.target.partition("?")
    names = sorted(word.partition("=")[0] for word in query.split("&") if word)
    who = record.principal if record.principal is not None else "signed" if record.authorization else "nobody"
    return f"{record.method} {path} {names} {sorted(record.headers)} {who}"


def files_below(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(folder, name)
            status = path.lstat()
            assert stat.S_ISREG(status.st_mode), f"{path} is no plain file"
            yield path, status


class HubTenants(World):
    kind = "hf"
    origin: Hub

    def _add(self, name: str, contents: Mapping[str, Any]) -> None:
        self.origin.add_repo(f"acme/{name}", files=contents)

    def _show(self, name: str, visibility: Visibility) -> None:
        repo = self.origin.repo(f"acme/{name}")
        repo.private, repo.gated = visibility == "private", "manual" if visibility == "gated" else False

    def _remove(self, name: str) -> None:
        self.origin.remove_repo(f"acme/{name}")

    def _revoke(self, credential: str) -> None:
        self.origin.tokens.pop(token_of(credential), None)

    def _restore(self, credential: str) -> None:
        self.origin.tokens[token_of(credential)] = hub_token(credential, granted=credential in GRANTED)

    def _rights(self, credential: str, granted: bool) -> None:
        if credential in self.credentials:
            self.origin.tokens[token_of(credential)] = hub_token(credential, granted=granted)

    def item(self, name: str, tenant: Tenant) -> Any:
        item = {"type": "HF", "repo": f"acme/{name}"}
        if tenant.credential is not None and not tenant.in_environment:
            item["accessToken"] = token_of(tenant.credential)
        return item

    def environ(self, tenant: Tenant) -> dict[str, str]:
        return {"HF_TOKEN": token_of(tenant.credential or "")} if tenant.in_environment else {}

    def options(self) -> dict[str, Any]:
        return {"hf_endpoint": self.origin.endpoint}


def token_of(credential: str) -> str:
    return f"hf_{credential}_secret"


def hub_token(credential: str, *, granted: bool) -> Token:
    return Token(credential, None if granted else frozenset())


class S3Tenants(World):
    kind = "s3"
    origin: S3

    def _add(self, name: str, contents: Mapping[str, Any]) -> None:
        bucket = self.origin.add_bucket(f"bucket-{name}", readers=set(GRANTED))
        for path, content in contents.items():
            bucket.put(f"sub/{path}", content, checksum="sha256", last_modified=1_700_000_000)

    def _show(self, name: str, visibility: Visibility) -> None:
        self.origin.bucket(f"bucket-{name}").public = visibility == "public"

    def _remove(self, name: str) -> None:
        self.origin.remove_bucket(f"bucket-{name}")

    def _revoke(self, credential: str) -> None:
        self.origin.keys.pop(key_of(credential), None)

    def _restore(self, credential: str) -> None:
        self.origin.keys[key_of(credential)] = Key(f"secret-{credential}", credential)

    def _rights(self, credential: str, granted: bool) -> None:
        for bucket in self.origin.buckets:
            readers = set(bucket.readers or ())
            bucket.readers = frozenset(readers | {credential} if granted else readers - {credential})

    def item(self, name: str, tenant: Tenant) -> Any:
        item: dict[str, Any] = {"type": "S3", "url": f"{self.origin.endpoint}/bucket-{name}/sub/"}
        if tenant.credential is not None and not tenant.in_environment:
            item["IAM"] = {
                "REGION": "us-east-1",
                "ACCESS_KEY_ID": key_of(tenant.credential),
                "SECRET_ACCESS_KEY": f"secret-{tenant.credential}",
            }
        return item

    def environ(self, tenant: Tenant) -> dict[str, str]:
        if not tenant.in_environment:
            return {}
        return {
            "AWS_ACCESS_KEY_ID": key_of(tenant.credential or ""),
            "AWS_SECRET_ACCESS_KEY": f"secret-{tenant.credential}",
            "AWS_REGION": "us-east-1",
        }

    def options(self) -> dict[str, Any]:
        return {"s3_endpoint": self.origin.endpoint}

    def path_of(self, name: str) -> str:
        return f"sub/{BIG}"


def key_of(credential: str) -> str:
    return f"AKID{credential.upper()}"


class RegistryTenants(World):
    kind = "ollama"
    origin: Registry

    def _add(self, name: str, contents: Mapping[str, Any]) -> None:
        self.origin.add_model(f"library/{name}", layers=[("model", contents[BIG]), ("params", contents[SMALL])])

    def _show(self, name: str, visibility: Visibility) -> None:
        self.origin.repository(f"library/{name}").private = visibility != "public"

    def _remove(self, name: str) -> None:
        self.origin.remove(f"library/{name}")

    def _revoke(self, credential: str) -> None:
        self.origin.users.pop(credential, None)

    def _restore(self, credential: str) -> None:
        self._set(credential, credential in GRANTED)

    def _rights(self, credential: str, granted: bool) -> None:
        if credential in self.credentials:
            self._set(credential, granted)

    def _set(self, credential: str, granted: bool) -> None:
        self.origin.users[credential] = registry_user(credential, granted=granted)

    def item(self, name: str, tenant: Tenant) -> Any:
        return f"ollama://{name}"

    def options(self) -> dict[str, Any]:
        return {"ollama_url": self.origin.endpoint}

    def path_of(self, name: str) -> str:
        return f"sha256:{self.contents[name][BIG].sha256}"

    def held(self, name: str) -> dict[str, tuple[int, str]]:
        manifest = self.origin.repository(f"library/{name}")["latest"]
        found = {
            f"manifests/registry.ollama.ai/library/{name}/latest": (
                len(manifest.body),
                manifest.digest.removeprefix("sha256:"),
            )
        }
        for row in (manifest.document["config"], *manifest.document["layers"]):
            found[f"blobs/{row['digest'].replace(':', '-')}"] = (row["size"], row["digest"].removeprefix("sha256:"))
        return found


def registry_user(credential: str, *, granted: bool) -> User:
    return User(f"password-of-{credential}", None if granted else frozenset())


@contextmanager
def tenants_of(kind: Kind, **settings: Any) -> Iterator[Any]:
    """A running origin of this kind, with everybody's credentials."""
    world: Callable[[Any], World]
    if kind == "hf":
        tokens = {token_of(name): hub_token(name, granted=name in GRANTED) for name in VALID}
        running: Any = hub_in_thread(tokens=tokens, quotas=Quotas(10**9, 10**9, 10**9), **settings)
        world = HubTenants
    elif kind == "s3":
        running = s3_in_thread(keys={key_of(name): Key(f"secret-{name}", name) for name in VALID}, **settings)
        world = S3Tenants
    else:
        users = {name: registry_user(name, granted=name in GRANTED) for name in VALID}
        running = registry_in_thread(dialect="ollama", auth="bearer", users=users, **settings)
        world = RegistryTenants
    with running as origin:
        yield world(origin)


def any_blob(blobs: Any, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """A planted fault: whoever names a sha256 gets its bytes (for ``Blobs._linkable``)."""
    found = {}
    with blobs._index.read() as rows:
        for digits, size in wanted:
            row = rows.execute("SELECT root FROM blob_digests WHERE hex = ? LIMIT 1", (digits,)).fetchone()
            if row is not None:
                found[digits, size] = row[0]
    return found
