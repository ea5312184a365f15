"""The same eight hostile jobs under the documented rules of the present node (``present_node``) and, for real, under
ours: embedded origins on real sockets, the library's public face.

Each side tells what it saw, and the words of the table are made of that. ``Line.safe`` is judged apart from the words,
so that a leak can't be made good by writing the table anew:

    python -m tests.trust.side_by_side           # print the table
    python -m tests.trust.side_by_side --write   # put it into docs/SECURITY.md
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fetcher import Fetcher, FetcherError, ResourceError, parse_job
from fetcher.testing import Synthetic, hub_in_thread, s3_in_thread
from fetcher.testing.faults import RedirectTo
from fetcher.testing.hub import Hub
from fetcher.testing.hub.hostility import HOSTILE_ROWS, HostileTree
from fetcher.testing.registry import media, registry_in_thread
from fetcher.testing.registry.store import Manifest
from fetcher.testing.s3 import Key
from tests.e2e.support import HURRIED
from tests.trust.present_node import Answer, MissingResource, PresentNode, every_helper

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "SECURITY.md"
HEAD = "| | hostile job | under the present node's documented rules | under `fetcher` |"
RULE = "|---|---|---|---|"

ALICE, MALLORY = "hf_alice_canary", "hf_mallory_canary"
"""Alice has access; Mallory is a user of the same hub and has none."""
SECRET = Synthetic(3 * (1 << 20) + 5, 11)
"""What is Alice's."""

Files = Mapping[str, bytes]
Object = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One row of the table, and whether ours held."""

    number: int
    job: str
    present: str
    ours: str
    safe: bool

    def __str__(self) -> str:
        return f"| {self.number} | {self.job} | {self.present} | {self.ours} |"


# --- the present node's side


def under_every_helper(play: Callable[[PresentNode], tuple[str, str]]) -> str:
    """What comes of a play, in words: what is so whatever the helper image does, and what may be so. Where it decides,
    that is said, with all that can come of it."""
    ends = [play(PresentNode(helper)) for helper in every_helper()]
    certain = dict.fromkeys(certain for certain, _ in ends)
    assert len(certain) == 1, f"said to be certain, and is not: {certain}"
    found = [next(iter(certain))] if any(certain) else []
    may_be = sorted({text for _, text in ends if text})
    if len(may_be) == 1:
        found += may_be
    elif may_be:
        found.append(f"depends on the helper image: {', or '.join(may_be)}")
    return "; ".join(found)


def _mounted(node: PresentNode, resource: Object, answer: Answer) -> Files | None:
    try:
        return node.mount(resource, answer).volume.files
    except MissingResource:
        return None


# --- our side


@dataclass
class Saw:
    """What a job of ours came to."""

    files: list[Files] = field(default_factory=list)
    """What each of its mounts shows."""
    sources: list[Path] = field(default_factory=list)
    read_only: list[bool] = field(default_factory=list)
    error: FetcherError | None = None

    @property
    def end(self) -> str:
        """As a user would be told."""
        return "mounted" if self.error is None else f"refused, `{self.error.kind}` ({self.error.exit_code})"

    @property
    def told(self) -> tuple[Any, ...]:
        """All that an asker can read in an error."""
        error = self.error
        if error is None:
            return ()
        # The Hub numbers its answers.
        message = re.sub(r" \(request [^)]*\)", "", error.message)
        return (error.kind, message, error.hint, error.resource, error.at)

    def holds(self, content: bytes) -> bool:
        return any(content in files.values() for files in self.files)


def definition(*resources: Object) -> str:
    """A Job Definition of one op."""
    args = {"image": "x", "resources": list(resources)}
    ops = [{"type": "container/run", "id": "run", "args": args}]
    return json.dumps({"version": "0.1", "type": "container", "ops": ops})


class Host:
    """A host with our cache, which jobs follow one another on; each is a Fetcher of its own, as of a new process."""

    def __init__(self, work: Path, **settings: Any) -> None:
        self.cache_dir = work / "cache"
        self.settings = {**HURRIED, "cache_dir": str(self.cache_dir), **settings}

    def job(self, *resources: Object, **settings: Any) -> Saw:
        return asyncio.run(self._job(definition(*resources), settings))

    async def _job(self, document: str, settings: Mapping[str, Any]) -> Saw:
        saw = Saw()
        async with Fetcher(environ={}, **{**self.settings, **settings}) as fetcher:
            try:
                mounts = await fetcher.mount_all(parse_job(document), lease_s=3600.0)
            except FetcherError as error:
                saw.error = error
                return saw
        for mount in mounts.mounts:
            saw.sources.append(mount.source)
            saw.read_only.append(mount.read_only)
            saw.files.append(files_below(mount.source))
        return saw


def files_below(directory: Path) -> Files:
    """Path → bytes of what a mount shows."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            found[path.relative_to(directory).as_posix()] = path.read_bytes()
    return found


def refs_of(hub: Hub) -> list[tuple[str, str]]:
    return [(record.method, record.target) for record in hub.requests]


# --- the eight jobs


def job_1(work: Path) -> Line:
    """A tokenless job names another's private repository that is in the cache."""
    theirs: Object = {"type": "HF", "repo": "acme/private", "accessToken": ALICE, "target": "/m"}
    hostile: Object = {"type": "HF", "repo": "acme/private", "target": "/m"}

    def play(node: PresentNode) -> tuple[str, str]:
        _mounted(node, theirs, {"f": b"private"})
        if _mounted(node, hostile, None) is not None:
            return "", "it is given the private files"
        return "", "it is refused, and the owner's good copy is deleted"

    with hub_in_thread(tokens={ALICE: "alice"}) as hub:
        hub.add_repo("acme/private", files={"model.safetensors": SECRET}, private=True)
        host = Host(work / "warm", hf_endpoint=hub.endpoint)
        assert host.job(theirs).holds(SECRET.read())
        hub.requests.clear()
        warm = host.job(hostile)
        seen_warm, sent = refs_of(hub), hub.body_bytes_sent()
        hub.requests.clear()
        cold = Host(work / "cold", hf_endpoint=hub.endpoint).job(hostile)
        alike = warm.told == cold.told and seen_warm == refs_of(hub)
        hub.requests.clear()
        again = host.job(theirs)
        kept = again.holds(SECRET.read()) and hub.body_bytes_sent() == 0
    ours = (
        f"{warm.end}; {sent} bytes fetched; the answer and the requests on the wire are"
        f" {'those' if alike else 'NOT those'} of an empty cache; the owner's copy {_kept(kept)}"
    )
    safe = warm.error is not None and not warm.files and alike and kept and sent == 0
    return Line(1, _words(job_1), under_every_helper(play), ours, safe)


def job_2(work: Path) -> Line:
    """A job with a bad token names a gated repository that is in the cache."""
    theirs: Object = {"type": "HF", "repo": "acme/gated", "accessToken": ALICE, "target": "/m"}
    hostile: Object = {**theirs, "accessToken": "hf_no_such_token"}

    def play(node: PresentNode) -> tuple[str, str]:
        _mounted(node, theirs, {"f": b"gated"})
        if _mounted(node, hostile, None) is not None:
            return "", "it is given the gated files"
        return "", "the good copy is deleted, and whoever comes next downloads all of it again"

    with hub_in_thread(tokens={ALICE: "alice"}) as hub:
        hub.add_repo("acme/gated", files={"model.safetensors": SECRET}, gated=True)
        host = Host(work, hf_endpoint=hub.endpoint)
        assert host.job(theirs).holds(SECRET.read())
        hub.requests.clear()
        first, refreshed, offline = (host.job(hostile, **more) for more in ({}, {"refresh": True}, {"offline": True}))
        again = host.job(theirs)
        kept = again.holds(SECRET.read()) and hub.body_bytes_sent() == 0
    refused = all(end.error is not None for end in (first, refreshed, offline))
    ours = f"{first.end}, with `--refresh` {refreshed.end}, offline {offline.end}; the owner's copy {_kept(kept)}"
    return Line(2, _words(job_2), under_every_helper(play), ours, refused and kept)


def job_3(work: Path) -> Line:
    """A job names the URL of another's S3 resource, with a bucket and keys of its own."""

    def resources(endpoint: str) -> tuple[Object, Object]:
        theirs, hostile = (
            {
                "type": "S3",
                "url": f"{endpoint}/",
                "bucket": bucket,
                "IAM": {"REGION": "us-east-1", "ACCESS_KEY_ID": key_id, "SECRET_ACCESS_KEY": secret},
                "target": "/m",
            }
            for bucket, key_id, secret in (("alpha", "AKIDALICE", "sa"), ("beta", "AKIDMALLORY", "sm"))
        )
        return theirs, hostile

    def play(node: PresentNode) -> tuple[str, str]:
        theirs, hostile = resources("https://s3.example")
        running = _mounted(node, theirs, {"secret.bin": b"private"})
        files = _mounted(node, hostile, {"own.bin": b"own"})
        assert running is not None and files is not None and running is files, "one key, one volume"
        if "secret.bin" in files:
            return "one volume for both", "it finds the other's private files there"
        return "one volume for both", "the other's files vanish while that job runs"

    keys = {"AKIDALICE": Key("sa", "alice"), "AKIDMALLORY": Key("sm", "mallory")}
    with s3_in_thread(keys=keys) as s3:
        s3.add_bucket("alpha", {"secret.bin": SECRET}, readers={"alice"})
        s3.add_bucket("beta", {"own.bin": b"own"}, readers={"mallory"})
        theirs, hostile = resources(s3.endpoint)
        host = Host(work)
        first, second = host.job(theirs), host.job(hostile)
        stolen = host.job({**hostile, "bucket": "alpha"})
        after = files_below(first.sources[0])
    apart = first.sources != second.sources and second.files == [{"own.bin": b"own"}]
    untouched = after == {"secret.bin": SECRET.read()} == first.files[0]
    ours = (
        f"two resources: it finds {'its own files only' if apart else 'MORE THAN ITS OWN FILES'}, the other's directory"
        f" {_stays(untouched)}; the other's bucket with its keys: {stolen.end}"
    )
    safe = apart and untouched and stolen.error is not None
    return Line(3, _words(job_3), under_every_helper(play), ours, safe)


def job_4(work: Path) -> Line:
    """A job of one revision and file whose names, joined, read like another's: `a-b` + `c.bin`, `a` + `b-c.bin`."""
    theirs: Object = {"type": "HF", "repo": "acme/open", "revision": "a", "files": ["b-c.bin"], "target": "/m"}
    hostile: Object = {"type": "HF", "repo": "acme/open", "revision": "a-b", "files": ["c.bin"], "target": "/m"}

    def play(node: PresentNode) -> tuple[str, str]:
        running = _mounted(node, theirs, {"b-c.bin": b"theirs"})
        _mounted(node, hostile, {"c.bin": b"hostile"})
        assert running is not None
        if "b-c.bin" in running:
            return "one volume for both", "its file appears in the other's mount"
        return "one volume for both", "its file takes the place of the other's while that job runs"

    with hub_in_thread() as hub:
        hub.add_repo("acme/open", files={})
        hub.commit("acme/open", {"b-c.bin": b"theirs"}, branch="a")
        hub.commit("acme/open", {"c.bin": b"hostile"}, branch="a-b")
        host = Host(work, hf_endpoint=hub.endpoint)
        first, second = host.job(theirs), host.job(hostile)
        again = host.job(theirs)
        after = files_below(first.sources[0])
    apart = first.sources != second.sources and second.files == [{"c.bin": b"hostile"}]
    untouched = after == {"b-c.bin": b"theirs"} and again.files == first.files
    ours = f"{'two resources' if apart else 'ONE RESOURCE'}; the other's directory {_stays(untouched)}"
    return Line(4, _words(job_4), under_every_helper(play), ours, apart and untouched)


def job_5(work: Path) -> Line:
    """A job with `allowWrite` changes files of a resource that others mount, too."""
    evil = b"evil"

    def play(node: PresentNode) -> tuple[str, str]:
        resource: Object = {"type": "S3", "url": "https://s3.example/open/", "target": "/m"}
        running = node.mount(resource, {"config.json": b"good"})
        hostile = node.mount({**resource, "allowWrite": True}, {"config.json": b"good"})
        hostile.write("config.json", evil)
        assert running.volume.files["config.json"] == evil
        return "it writes to the cached volume itself: jobs that run see it at once, the next gets that volume", ""

    with s3_in_thread() as s3:
        s3.add_bucket("open", {"config.json": b"good"}, public=True)
        resource: Object = {"type": "S3", "url": f"{s3.endpoint}/open/", "target": "/m"}
        host = Host(work)
        running = host.job(resource)
        hostile = host.job({**resource, "allowWrite": True})
        (hostile.sources[0] / "config.json").write_bytes(evil)
        (hostile.sources[0] / "added.py").write_bytes(evil)
        later, writer = host.job(resource), host.job({**resource, "allowWrite": True})
        good = {"config.json": b"good"}
        seen = [files_below(running.sources[0]), *later.files, *writer.files]
        with closing(Fetcher(environ={}, **host.settings)) as fetcher:
            sound = fetcher.verify().sound
    private = hostile.sources[0] not in (*running.sources, *later.sources, *writer.sources)
    untouched = all(files == good for files in seen)
    ours = (
        f"it writes to {'a copy of its own' if private else 'THE SHARED DIRECTORY'}; what runs, and what comes later,"
        f" reader or writer, {'sees nothing of it' if untouched else 'SEES IT'}; `verify` finds the cache"
        f" {'sound' if sound else 'DAMAGED'}"
    )
    safe = private and untouched and sound and not hostile.read_only[0] and running.read_only[0]
    return Line(5, _words(job_5), under_every_helper(play), ours, safe)


INSIDE = (
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "https://192.168.1.1/",
    "http://100.64.0.1/",
    "http://[::1]:9000/",
    "https://[::ffff:127.0.0.2]/",
    "https://[fd00:ec2::254]/",
    "http://127.1:9000/",
    "http://2130706434/",
    "http://0x7f000002/",
)
"""Beside these, the address of a listener that counts."""


def job_6(work: Path) -> Line:
    """A job's S3 URL leads into the host's own network: loopback, private, metadata; or redirects there."""
    with s3_in_thread(host="127.0.0.2") as inside, s3_in_thread() as outside:
        inside.add_bucket("open", {"f": b"of the house"}, public=True)
        outside.add_bucket("open", {"f": b"public"}, public=True)
        urls = (*INSIDE, f"{inside.endpoint}/open/f")

        def play(node: PresentNode) -> tuple[str, str]:
            handed = [url for url in urls if url in node.to_helper({"type": "S3", "url": url, "target": "/m"})]
            certain = f"{len(handed)} of {len(urls)} URLs go to the helper as they are"
            return certain, "what it asks depends on the helper image, what it reaches on the engine's network"

        # As on a host whose operator allows one network: 127.0.0.1 stands for what may be reached.
        host = Host(work, allow_net="127.0.0.1/32")
        ends = [host.job({"type": "S3", "url": url, "target": "/m"}) for url in urls]
        redirects = []
        for url in urls:
            outside.faults.clear()
            outside.faults.add(RedirectTo(url, 307).on("object", "list"))
            redirects.append(host.job({"type": "S3", "url": f"{outside.endpoint}/open/f", "target": "/m"}))
        arrived = len(inside.requests)
    refused = [end for end in ends if _is_policy(end.error)]
    turned = [end for end in redirects if _is_policy(end.error)]
    ours = (
        f"{len(refused)} of {len(urls)} URLs and {len(turned)} of {len(urls)} redirects to them refused,"
        f" `forbidden` (25) or `resource` (10); {arrived} requests arrived at a listener there"
    )
    safe = len(refused) == len(turned) == len(urls) and arrived == 0
    return Line(6, _words(job_6), under_every_helper(play), ours, safe)


def _is_policy(error: FetcherError | None) -> bool:
    return error is not None and error.exit_code in (10, 25)


def job_7(work: Path) -> Line:
    """A job's own registry lists, as a layer, the sha256 of another's private file that is in the cache."""
    theirs: Object = {"type": "HF", "repo": "acme/private", "accessToken": ALICE, "target": "/m"}

    def play(node: PresentNode) -> tuple[str, str]:
        _mounted(node, theirs, {"model.safetensors": b"private"})
        files = _mounted(node, {"type": "Ollama", "model": "mallory/claims"}, {"blobs/sha256-1": b"what it serves"})
        assert files is not None and b"private" not in files.values()
        certain = "no private byte: two resources share nothing"
        return certain, "whether the layer is compared with its digest depends on the helper image"

    with (
        hub_in_thread(tokens={ALICE: "alice"}) as hub,
        registry_in_thread(dialect="ollama", redirect_blobs=False) as registry,
    ):
        hub.add_repo("acme/private", files={"model.safetensors": SECRET}, private=True)
        repository = registry.add_model("mallory/claims", layers={"template": "x"})
        store = registry.repository("mallory/claims")
        digest = f"sha256:{SECRET.sha256}"
        row = {"mediaType": media.ollama_layer("model"), "digest": digest, "size": SECRET.size}
        document = {**repository.document, "layers": [*repository.document["layers"], row]}
        store.put_manifest(Manifest.make(document, media.DOCKER_MANIFEST), "latest")
        host = Host(work, hf_endpoint=hub.endpoint, ollama_url=registry.endpoint)
        assert host.job(theirs).holds(SECRET.read())
        hostile: Object = {"type": "Ollama", "model": "mallory/claims"}
        absent = host.job(hostile)
        store.blobs[digest] = Synthetic(SECRET.size, 12)  # of the size, but other bytes
        wrong = host.job(hostile)
        asked = registry.count("blob")
        again = host.job(theirs)
    leaked = absent.files or wrong.files
    ours = (
        f"the layer is asked of that registry{'' if asked else ' NEVER'}. It has none: {absent.end}; it serves other"
        f" bytes: {wrong.end}. {'A PRIVATE BYTE LEAKED' if leaked else 'No private byte'}; the owner's copy"
        f" {_kept(again.holds(SECRET.read()))}"
    )
    safe = not leaked and asked > 0 and again.holds(SECRET.read())
    return Line(7, _words(job_7), under_every_helper(play), ours, safe)


BAD_FILES = ("../../etc/cron.d/x", "/etc/passwd", "a/../../b", "a\0b")
BAD_TARGETS = ("/proc/1", "/", "/sys", "/dev/shm", "models", "/models/../../etc", "")
LISTED = ("dot-dot", "dot-dot-inside", "absolute", "nul", "long-path", "case-twins", "file-as-directory", "petabyte")


def job_8(work: Path) -> Line:
    """Hostile names: files and targets of the job, and file names that its origin lists."""
    jobs = [{"type": "HF", "repo": "acme/open", "files": [name], "target": "/m"} for name in BAD_FILES]
    jobs += [{"type": "HF", "repo": "acme/open", "target": target} for target in BAD_TARGETS]
    twice = [{"type": "HF", "repo": f"acme/{name}", "target": "/m"} for name in ("open", "other")]

    def play(node: PresentNode) -> tuple[str, str]:
        handed = [job for job in jobs if job.get("files", [""])[0] in (*node.to_helper(job), "")]
        handed = [job for job in handed if node.to_engine(job) == job["target"]]
        certain = f"{len(handed)} of {len(jobs)} pass, on to the helper (files) and the engine (targets)"
        return certain, "what comes of them, and of names that an origin lists, depends on those two"

    with hub_in_thread() as hub:
        hub.add_repo("acme/open", files={"a.txt": b"a"})
        host = Host(work, hf_endpoint=hub.endpoint)
        refused = [job for job in jobs if isinstance(_fault(job), ResourceError)]
        places = {place for job in jobs for place in _places(_fault(job))}
        doubles = _fault(*twice)
        listed = []
        for name in LISTED:
            hub.faults.clear()
            hub.faults.add(HostileTree(HOSTILE_ROWS[name]).on())
            listed.append(host.job({"type": "HF", "repo": "acme/open", "target": "/m"}))
        bodies = hub.body_bytes_sent()
    stopped = [saw for saw in listed if _is_policy(saw.error)]
    ours = (
        f"{len(refused)} of {len(jobs)} refused before anything is asked, `resource` (10), with the JSON path;"
        f" one target for two resources: {'refused' if doubles is not None else 'TAKEN'};"
        f" {len(stopped)} of {len(LISTED)} hostile listings refused, `forbidden` (25), {bodies} bytes fetched"
    )
    safe = len(refused) == len(jobs) and bool(places) and doubles is not None and len(stopped) == len(LISTED)
    return Line(8, _words(job_8), under_every_helper(play), ours, safe and bodies == 0)


def _fault(*resources: Object) -> FetcherError | None:
    try:
        parse_job(definition(*resources))
    except FetcherError as error:
        return error
    return None


def _places(error: FetcherError | None) -> list[str]:
    return [] if error is None else [str(each.at) for each in (error, *error.also) if each.at]


def _kept(kept: bool) -> str:
    return "stays, and serves its next job without a byte fetched" if kept else "IS GONE"


def _stays(untouched: bool) -> str:
    return "stays as it is" if untouched else "CHANGES"


def _words(job: Callable[[Path], Line]) -> str:
    assert job.__doc__ is not None
    return job.__doc__.removesuffix(".")


JOBS: Sequence[Callable[[Path], Line]] = (job_1, job_2, job_3, job_4, job_5, job_6, job_7, job_8)


def table(lines: Sequence[Line]) -> str:
    return "\n".join((HEAD, RULE, *map(str, lines)))


def stated() -> str:
    """The table that the document holds."""
    text = DOCUMENT.read_text()
    start = text.index(HEAD)
    return text[start : text.index("\n\n", start)]


def main() -> None:
    parser = argparse.ArgumentParser(description="The side by side of docs/SECURITY.md.")
    parser.add_argument("--write", action="store_true", help="put it into docs/SECURITY.md")
    write = parser.parse_args().write
    lines = []
    for job in JOBS:
        with tempfile.TemporaryDirectory(prefix="side-by-side-") as work:
            lines.append(job(Path(work)))
    if unsafe := [line.number for line in lines if not line.safe]:
        raise SystemExit(f"ours did not hold, and that is nothing for a document: jobs {unsafe}\n{table(lines)}")
    if write:
        DOCUMENT.write_text(DOCUMENT.read_text().replace(stated(), table(lines)))
    else:
        print(table(lines))


if __name__ == "__main__":
    main()
