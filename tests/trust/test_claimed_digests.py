"""A claimed digest is not possession: whoever states the sha256, MD5, ETag, CRC, git id or size of another tenant's
private file, and has not got its bytes, ends with nothing, whatever state that file is in: whole, under way, left by a
killed process, with its index lost, damaged, or as a private copy.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fetcher import FetcherError
from fetcher.testing.contents import BLOCK_BYTES, Content, Synthetic
from fetcher.testing.s3.checksums import stated
from tests.e2e.support import RESUMES, Child, sha256_of, wait_until
from tests.e2e.support import proven_blocks as blocks_proven
from tests.support.cli import CommandLine
from tests.trust.tenants import (
    ANONYMOUS,
    BIG,
    BIG_BYTES,
    KINDS,
    OWNER,
    STRANGER,
    Answer,
    EndHeld,
    Kind,
    Law,
    Tenant,
    World,
    tenants_of,
)

SECRET = Synthetic(BIG_BYTES, 1)
"""The large file of ``World.add``."""
OTHER_BYTES = Synthetic(BIG_BYTES, 99)


class Claimed(Content):
    """Says that it is one content, and has the bytes of another of the same size."""

    def __init__(self, claimed: Content = SECRET, real: Content = OTHER_BYTES) -> None:
        assert claimed.size == real.size
        self.size = claimed.size
        self._claimed, self._real = claimed, real

    def views(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        return self._real.views(start, stop)

    @property
    def sha256(self) -> str:  # type: ignore[override]
        return self._claimed.sha256

    @property
    def git_sha1(self) -> str:  # type: ignore[override]
        return self._claimed.git_sha1


@dataclass(frozen=True)
class Attack:
    """How bytes are claimed: the attacker puts content under a name of his own at his own place."""

    name: str
    kind: Kind
    put: Callable[[World, str, Content], None]
    verified: bool = True
    """Whether what is claimed is compared with the bytes; otherwise he gets his own bytes, and nobody else's."""

    def __str__(self) -> str:
        return self.name


def _hub(world: World, name: str, content: Content) -> None:
    world.contents[name] = {BIG: content, "config.json": b"{}"}
    world.origin.add_repo(f"acme/{name}", files=world.contents[name], private=True)


def _hub_git(world: World, name: str, content: Content) -> None:
    world.contents[name] = {BIG: content}
    world.origin.add_repo(f"acme/{name}", files={BIG: content}, private=True, lfs=())


def _s3(**stated_as: Any) -> Callable[[World, str, Content], None]:
    def put(world: World, name: str, content: Content) -> None:
        world.contents[name] = {BIG: content}
        bucket = world.origin.add_bucket(f"bucket-{name}")
        md5 = bucket.put("other", SECRET, checksum=None).etag
        bucket.delete("other")
        algorithm = stated_as.get("checksum")
        value = None if algorithm is None else stated(algorithm, [SECRET.views()], composite=False)
        bucket.put(f"sub/{BIG}", content, checksum=algorithm, checksum_value=value, etag=stated_as.get("etag", md5))

    return put


def _registry(world: World, name: str, content: Content) -> None:
    world.contents[name] = {BIG: content}
    world.origin.add_model(f"library/{name}", layers=[("model", content)])


ATTACKS = (
    Attack("hub-sha256", "hf", _hub),
    Attack("hub-git-sha1", "hf", _hub_git),
    Attack("s3-sha256", "s3", _s3(checksum="sha256", etag="0" * 32 + "-2")),
    Attack("s3-md5-etag", "s3", _s3()),
    Attack("s3-crc64", "s3", _s3(checksum="crc64nvme", etag="0" * 32 + "-2")),
    Attack("s3-opaque-etag", "s3", _s3(etag="opaque"), verified=False),
    Attack("registry-sha256", "ollama", _registry),
)
AS = (ANONYMOUS, STRANGER)
"""A job without a credential, for what the attacker shows to all; and one with the attacker's own."""


class Scene:
    """The owner's origin, one of each kind of the attacker's, and a cache between them."""

    def __init__(self, victim: World, attackers: Mapping[Kind, World], cache_dir: Path) -> None:
        self.victim = victim
        self.attackers = attackers
        self.cache_dir = cache_dir
        self.names = 0

    def attacker(self, attack: Attack, content: Content | None = None) -> tuple[World, str]:
        """His place, and a name there that nobody has asked for."""
        world = self.attackers[attack.kind]
        self.names += 1
        name = f"evil{self.names}"
        world.laws[name] = Law(attack.kind, "public")
        attack.put(world, name, Claimed() if content is None else content)
        world.show(name, "public")
        return world, name

    async def attacked(self, attack: Attack, tenant: Tenant) -> None:
        """Plan and fetch; the plan has all to fetch, the fetch all to ask for, and nothing of the owner's to give."""
        world, name = self.attacker(attack)
        told: FetcherError | None = None
        world.origin.requests.clear()
        async with world.fetcher(self.cache_dir, tenant) as fetcher:
            plan = await fetcher.plan(world.item(name, tenant), tenant.role)
            (planned,) = plan.resources
            large = [file for file in planned.files if file.entry.size == BIG_BYTES]
            assert [(file.action, file.bytes_present, file.elsewhere) for file in large] == [("fetch", 0, False)]
            try:
                outcome = await fetcher.fetch(world.item(name, tenant), tenant.role)
            except FetcherError as error:
                told = error
            else:
                assert not attack.verified, "he was given what he merely named"
                assert sha256_of(outcome.snapshot.path / BIG) == OTHER_BYTES.sha256, "somebody else's bytes"
        if attack.verified:
            assert told is not None and told.exit_code in (30, 40), told
        asked = sum(
            record.body_bytes for record in world.origin.requests.select("bodies") if record.status in (200, 206)
        )
        assert asked >= BIG_BYTES, "he was asked for all that he claims to have"

    def attack(self, attack: Attack, tenant: Tenant) -> None:
        asyncio.run(self.attacked(attack, tenant))

    def everything(self) -> None:
        for attack in ATTACKS:
            for tenant in AS:
                try:
                    self.attack(attack, tenant)
                except AssertionError as error:
                    raise AssertionError(f"{attack} as {tenant}: {error}") from error

    def owner(self, **more: Any) -> Answer:
        answer = self.victim.ask(self.cache_dir, OWNER, **more)
        assert answer.error is None and answer.tree == self.victim.held("one"), answer.error
        return answer


@contextmanager
def scene_of(kind: Kind, cache_dir: Path) -> Iterator[Scene]:
    """The attacker has a host of his own of each kind; and of the owner's kind, a place at the owner's own host."""
    with ExitStack() as stack:
        worlds = {each: stack.enter_context(tenants_of(each)) for each in KINDS}
        worlds[kind].add("one", "private")
        yield Scene(worlds[kind], worlds, cache_dir)


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, cache_dir: Path) -> Iterator[Scene]:
    with scene_of(request.param, cache_dir) as made:
        yield made


def test_of_what_is_whole(scene: Scene) -> None:
    first = scene.owner()
    scene.everything()
    again = scene.owner()
    assert again.hit and again.path == first.path


def test_of_what_is_whole_at_another_host_of_the_same_names(cache_dir: Path) -> None:
    """The attacker's host has the same bucket, the same key, the same ETag and the same size."""
    with tenants_of("s3") as victim, tenants_of("s3") as attacker:
        for world in (victim, attacker):
            world.add("one", "private")
        attacker.origin.bucket("bucket-one").put(f"sub/{BIG}", Claimed(), checksum=None, last_modified=1_700_000_000)
        attacker.origin.bucket("bucket-one").put(
            f"sub/{BIG}", Claimed(), checksum=None, last_modified=1_700_000_000, etag=etag_of(victim)
        )
        assert victim.ask(cache_dir, OWNER).error is None
        for tenant in (OWNER, STRANGER):  # the owner's very keys, as a stranger may have got a request of his signed
            attacker.grant("stranger")
            answer = attacker.ask(cache_dir, tenant)
            assert answer.error is not None and answer.error[1] in (30, 40)
            assert answer.body_bytes >= BIG_BYTES
        assert victim.ask(cache_dir, OWNER).hit


def etag_of(world: World) -> str:
    return str(world.origin.bucket("bucket-one").objects[f"sub/{BIG}"].etag)


def test_whoever_has_the_bytes_gets_his_own_and_shares_the_disk(scene: Scene) -> None:
    """The claim is true: it costs him the download all the same, and the disk holds one copy."""
    first = scene.owner()
    inode = next(first.inodes[path] for path, (size, _) in first.tree.items() if size == BIG_BYTES)
    for attack in ATTACKS:
        world, name = scene.attacker(attack, SECRET)
        answer = world.ask(scene.cache_dir, ANONYMOUS, name)
        if answer.error is not None:
            raise AssertionError(f"{attack}: {answer.error}")
        assert inode in answer.inodes.values()
        if attack is ATTACKS[0]:
            # From now on these bytes are public: by their sha256 they may be had without another download.
            assert answer.downloaded >= BIG_BYTES and answer.body_bytes >= BIG_BYTES


def test_of_what_is_under_way(scene: Scene) -> None:
    """Neither joined to the owner's flight nor put into his Partial."""
    victim = scene.victim

    async def main() -> None:
        held = victim.hold_end("one")
        async with victim.fetcher(scene.cache_dir, OWNER, **EndHeld.HALVES) as fetcher:
            owner = asyncio.create_task(fetcher.fetch(victim.item("one", OWNER)))
            try:
                await held.reached(victim, scene.cache_dir)
                for attack in ATTACKS:
                    for tenant in AS:
                        await asyncio.wait_for(scene.attacked(attack, tenant), 30.0)
                assert not owner.done()
                held.open()
                outcome = await owner
                assert outcome.downloaded >= BIG_BYTES and not outcome.hit
            finally:
                held.open()
                owner.cancel()
                await asyncio.wait([owner])

    asyncio.run(main())
    scene.owner()


@pytest.mark.parametrize("kind", ["hf", "s3"])
def test_of_what_is_under_way_in_another_process(kind: Kind, cache_dir: Path) -> None:
    with scene_of(kind, cache_dir) as scene:
        victim = scene.victim
        held = victim.hold_end("one")
        settings = victim.settings(cache_dir, **EndHeld.HALVES)
        with Child(settings, [victim.item("one", OWNER)]) as owner:
            wait_until(lambda: held.waiting > 0 and (not RESUMES or blocks_proven(cache_dir) >= 1))
            held.let_others()
            scene.everything()
            assert owner.process.poll() is None
            held.open()
            owner.done()
        assert scene.owner().hit


@pytest.mark.parametrize("kind", ["hf", "s3"])
@pytest.mark.parametrize("index_lost", [False, True], ids=["index-kept", "index-lost"])
def test_of_what_a_killed_process_left(kind: Kind, index_lost: bool, cache_dir: Path) -> None:
    """Its Partial, with the owner's bytes in it, is the owner's to resume."""
    with scene_of(kind, cache_dir) as scene:
        victim = scene.victim
        held = victim.hold_end("one")
        settings = victim.settings(cache_dir, **EndHeld.HALVES)
        with Child(settings, [victim.item("one", OWNER)]) as owner:
            wait_until(lambda: held.waiting > 0 and (not RESUMES or blocks_proven(cache_dir) >= 1))
            owner.send(signal.SIGKILL)
            owner.process.wait()
        held.open()
        victim.origin.faults.clear()
        if index_lost:
            lose_index(cache_dir)
        scene.everything()
        if RESUMES:
            assert scene.owner().downloaded < BIG_BYTES, "he goes on from where he was"


def lose_index(cache_dir: Path) -> None:
    for path in cache_dir.glob("index-v*"):
        path.unlink()


def test_of_what_an_index_made_anew_has_found(scene: Scene) -> None:
    first = scene.owner()
    lose_index(scene.cache_dir)
    scene.everything()
    assert scene.owner().path == first.path


def test_of_blobs_that_an_index_made_anew_has_adopted(scene: Scene) -> None:
    """Without the Snapshot's list, only the bodies and their trees are left."""
    first = scene.owner()
    assert first.path is not None
    lose_index(scene.cache_dir)
    first.path.with_name(f"{first.path.name}.json").unlink()
    scene.everything()


def test_of_what_is_damaged_and_repaired(scene: Scene) -> None:
    """While the owner's file is hidden as damaged, nobody else's claim stands in for it, nor is given what is sound of
    it."""
    first = scene.owner()
    assert first.path is not None
    large = next(first.path / path for path, (size, _) in first.tree.items() if size == BIG_BYTES)
    os.chmod(large, 0o644)
    with large.open("r+b") as file:
        file.seek(BLOCK_BYTES)
        file.write(b"not these bytes")
    fetcher = scene.victim.fetcher(scene.cache_dir, OWNER)
    try:
        assert len(fetcher.verify().damage) == 1
    finally:
        fetcher.close()
    scene.everything()
    again = scene.owner()
    assert again.downloaded >= BIG_BYTES, "what he had is gone, and nobody's is taken instead"
    scene.everything()


def test_of_private_copies(scene: Scene) -> None:
    """A copy that a job may write to is made of what that job may have, and of nothing else."""
    scene.owner()
    for attack in ATTACKS:
        if attack.kind != "s3":
            continue  # only there may a job ask for a copy to write to
        world, name = scene.attacker(attack)
        item = world.item(name, ANONYMOUS)
        resource = {**item, "target": "/data", "allowWrite": True}
        job = {"version": "0.1", "type": "container", "ops": [container(resource)]}

        async def mount(world: World = world, job: Any = job) -> bytes:
            async with world.fetcher(scene.cache_dir, ANONYMOUS) as fetcher:
                mounts = await fetcher.mount_all(job)
                return (Path(mounts.mounts[0].source) / BIG).read_bytes()

        if attack.verified:
            with pytest.raises(FetcherError) as caught:
                asyncio.run(mount())
            assert caught.value.exit_code in (30, 40)
            copies = scene.cache_dir / "writable-v1"
            assert not copies.exists() or not [path for path in copies.iterdir() if not path.name.startswith(".")]
        else:
            assert asyncio.run(mount()) == OTHER_BYTES.read()


def container(resource: Any) -> dict[str, Any]:
    return {"type": "container/run", "id": "one", "args": {"image": "docker.io/x", "cmd": "x", "resources": [resource]}}


def test_of_copies_out_of_the_cache(run_cli: CommandLine, tmp_path: Path) -> None:
    """``--to``, typed by whoever names the attacker's repository."""
    cache_dir = tmp_path / "cache"
    with scene_of("hf", cache_dir) as scene:
        scene.owner()
        world, name = scene.attacker(ATTACKS[0])
        target = tmp_path / "copied"
        env = {
            "HF_ENDPOINT": world.origin.endpoint,
            "FETCHER_CACHE_DIR": str(cache_dir),
            "FETCHER_ALLOW_NET": "127.0.0.0/8",
        }
        done = run_cli("get", f"hf://acme/{name}", "--to", target, env=env)
        assert done.exit_code == 40, done.stderr
        assert not target.exists()
        done = run_cli("get", "hf://acme/one", "--to", target, env=env)
        assert done.exit_code == 21 and not target.exists()


def test_of_what_was_public_and_is_no_longer(scene: Scene) -> None:
    """Its bytes were everybody's. Once its origin has said that they are not, nobody gets them for naming them."""
    victim = scene.victim
    if victim.kind == "s3":
        return  # what is public there is never said to be private by whoever has a key
    victim.show("one", "public")
    assert not victim.ask(scene.cache_dir, ANONYMOUS).private
    victim.show("one", "private")
    assert victim.ask(scene.cache_dir, OWNER, refresh=True).private
    scene.everything()


def test_true_claims_are_had_once_they_are_public(scene: Scene) -> None:
    """The other way round: sharing what is public by its sha256 is what the cache is for."""
    scene.victim.show("one", "public")
    assert scene.victim.ask(scene.cache_dir, ANONYMOUS).error is None
    world, name = scene.attacker(ATTACKS[0], SECRET)
    answer = world.ask(scene.cache_dir, ANONYMOUS, name)
    assert answer.error is None and answer.downloaded < BIG_BYTES, "public bytes with a sha256 are linked"
