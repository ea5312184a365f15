"""Files on the host: other users of it can neither read what is private nor plant anything, however they try; any user
of a container reads its mount, and what a job writes reaches nobody else.

The victim is an ordinary user, or root; the other user is neither, and knows every name (tests/trust/stranger.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fetcher.cache.records import SnapshotFile
from fetcher.engine.copy_out import copy_out
from fetcher.errors import CacheError
from fetcher.testing import Hub, Synthetic, hub_in_thread, s3_in_thread
from fetcher.testing.faults import StallAfter
from tests.support.cli import CHECKOUT, ORDINARY_UID, CommandLine, User
from tests.trust.users import STRANGER_UID, busy_stranger, command_as, meeting_place, stranger

pytestmark = pytest.mark.needs("ordinary-user")

MIB = 1 << 20
TOKEN = "hf_AliceWhoMayReadIt0123456789"
LOOPBACK = "127.0.0.0/8"
FILES = {"config.json": b'{"a": 1}', "deep/er/model.safetensors": Synthetic(2 * MIB + 5, 1), "empty": b""}
USERS: list[User] = ["ordinary", "current"]
MIXED = {"name": "mixed", "token": TOKEN}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """For what is started in the block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def private_hub() -> Iterator[Hub]:
    with hub_in_thread(tokens={TOKEN: "alice"}) as hub:
        hub.add_repo("acme/private", files=FILES, private=True)
        hub.add_repo("acme/large", files={"a.bin": Synthetic(6 * MIB, 7), "b.txt": b"b"}, private=True)
        yield hub


def environment(hub: Hub, cache: Path, **more: str) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "FETCHER_ALLOW_NET": LOOPBACK,
        "FETCHER_CACHE_DIR": str(cache),
        "FETCHER_PART_BYTES": "1MiB",
        "FETCHER_SPACE_FLOOR_BYTES": "0",
        **more,
    }


def a_job(*resources: dict[str, Any]) -> str:
    arguments = {"image": "x", "resources": list(resources)}
    return json.dumps(
        {"version": "0.1", "type": "container", "ops": [{"type": "container/run", "id": "op", "args": arguments}]}
    )


def everything_happens(run_cli: CommandLine, hub: Hub, cache: Path, user: User, **more: str) -> Path:
    """A cache in which there is everything that the format knows: Snapshots, a lease with a private copy, a market's
    list, a Partial and the staging of a command that was killed. Returns the private copy."""
    env = environment(hub, cache, **more)
    with s3_in_thread() as s3:
        s3.add_bucket("open", {"data/a.bin": Synthetic(MIB + 1, 3), "data/b": b"b"}, public=True)
        job = a_job(
            {"type": "HF", "repo": "acme/private", "accessToken": TOKEN, "target": "/m"},
            {"type": "S3", "url": f"{s3.endpoint}/open/data/", "allowWrite": True, "target": "/w"},
        )
        assert run_cli("get", "hf://acme/private", env=env, user=user).exit_code == 0
        leased = run_cli("job", "-", "--lease", "1h", "--format", "json", input=job, env=env, user=user)
        assert leased.exit_code == 0, leased.stderr
        market = json.dumps({"required_remote_resources": [{"type": "HF", "url": "acme/private"}]})
        listed = run_cli("prefetch", "-", "--pin", "market:abc", input=market, env=env, user=user)
        assert listed.exit_code == 0, listed.stderr
    hub.faults.add(StallAfter(MIB // 2).on(path="a.bin"))
    with run_cli.start("get", "hf://acme/large", env=env, user=user) as process:
        until = time.monotonic() + 20
        while not list(cache.glob("partials-v1/*/journal")) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)
        process.kill()
    assert list(cache.glob("partials-v1/*/data")), "a Partial stays"
    mounts = leased.last["mounts"]
    return Path(next(mount["source"] for mount in mounts if not mount["read_only"]))


# --- modes -----------------------------------------------------------------------------------------------------------

_ID, _HEX = r"[0-9a-f]{64}", r"[0-9a-f]{32}"
MODES: list[tuple[str, int, int]] = [
    (r"\.", 0o700, 0o750),
    (r"CACHEDIR\.TAG", 0o644, 0o644),
    (r"cache-id-v1(\.lock)?", 0o600, 0o600),
    (r"index-v1\.(sqlite(-wal|-shm)?|lock)|principal-key-v1|spare-v1", 0o600, 0o600),
    (r"(owners|partials|blobs|snapshots)-v1", 0o700, 0o750),
    (r"(writable|markets)-v1", 0o700, 0o700),
    (rf"owners-v1/{_HEX}", 0o600, 0o600),
    (rf"markets-v1/{_ID}\.json", 0o600, 0o600),
    (rf"partials-v1/{_ID}\.{_HEX}", 0o700, 0o700),
    (rf"partials-v1/{_ID}\.{_HEX}/(data|journal)", 0o600, 0o600),
    (rf"partials-v1/\.staging-small\.{_HEX}\.[0-9a-f]+", 0o700, 0o700),
    (rf"partials-v1/\.staging-small\.{_HEX}\.[0-9a-f]+/[0-9a-f]+", 0o444, 0o444),
    (r"blobs-v1/[0-9a-f]{2}", 0o700, 0o750),
    (rf"blobs-v1/[0-9a-f]{{2}}/{_ID}(\.tree)?", 0o444, 0o444),
    (rf"snapshots-v1/{_ID}\.json", 0o600, 0o600),
    (rf"writable-v1/{_HEX}\.[0-9]+(/.+)?", 0o777, 0o777),
]
"""Name → mode, and mode with a ``cache_group``, as docs/FORMAT.md has them. Snapshots and files of copies: below."""


def wrong_modes(cache: Path, owner: int, *, group: int | None = None) -> list[str]:
    """What in a cache has another mode, kind or owner than docs/FORMAT.md says, or a name that it does not know."""
    wrong = []
    for path in (cache, *sorted(cache.rglob("*"))):
        status = path.lstat()
        name = path.relative_to(cache).as_posix()
        mode = stat.S_IMODE(status.st_mode)
        if re.match(rf"snapshots-v1/{_ID}(/|$)", name):
            expected: int | None = 0o755 if path.is_dir() else 0o444
        elif name.startswith("writable-v1/") and not path.is_dir():
            expected = 0o666
        else:
            known = next((row for row in MODES if re.fullmatch(row[0], name)), None)
            expected = None if known is None else known[1 if group is None else 2]
        if mode != expected or path.is_symlink() or status.st_uid != owner:
            wrong.append(f"{name}: {mode:04o}, uid {status.st_uid}")
        if group is not None and expected == 0o750 and status.st_gid != group:
            wrong.append(f"{name}: group {status.st_gid}")
    return wrong


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077], ids=lambda mask: f"umask-{mask:03o}")
@pytest.mark.parametrize("group", [None, 2000], ids=["alone", "cache-group"])
def test_modes_are_as_written_whatever_the_umask(
    run_cli: CommandLine, private_hub: Hub, mask: int, group: int | None
) -> None:
    """As root, who may give a directory to any group."""
    with meeting_place(0o755) as place, umask(mask):
        cache = place / "made" / "for" / "it"
        more = {} if group is None else {"FETCHER_CACHE_GROUP": str(group)}
        everything_happens(run_cli, private_hub, cache, "current", **more)
        assert wrong_modes(cache, 0, group=group) == []
        for parent in (place / "made", place / "made" / "for"):
            assert stat.S_IMODE(parent.stat().st_mode) == 0o755 & ~mask, "a parent that we made is not open to all"
        # That this finds something at all:
        spoilt = next(cache.glob("snapshots-v1/*.json"))
        spoilt.chmod(0o644)
        assert len(wrong_modes(cache, 0, group=group)) == 1


def test_the_format_says_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text()
    told = re.findall(r"^\s+([a-z<][A-Za-z0-9<>./-]*)/?  .*?\b(0[0-7]{3}|0777)\b", text, re.MULTILINE)
    assert len(told) >= 15
    modes = {pattern: mode for pattern, mode, _ in MODES}
    for name, mode in told:
        name = name.rstrip("/").replace("<owner>", "0" * 32).replace("<content>", "0" * 64).replace("<root>", "0" * 64)
        name = name.replace("<lease>.<number>", "0" * 32 + ".0").replace("/ab/", "/ab/").replace("<id>", "0" * 64)
        known = next((found for pattern, found in modes.items() if re.fullmatch(pattern, name)), None)
        assert known is None or known == int(mode, 8), name


EYE = """
import json, os, sys
_flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
def _look(event, arguments, _log=os.open(os.environ["OPENS_LOG"], _flags)):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT:
        line = [os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else "", arguments[2]]
        os.write(_log, (json.dumps(line) + chr(10)).encode())
sys.addaudithook(_look)
"""


def through_links(lines: Iterable[str]) -> list[str]:
    """Files that were made in a way that a symlink, or a child process, could have had its part in."""
    found = []
    for line in lines:
        path, flags = json.loads(line)
        if not flags & (os.O_EXCL | os.O_NOFOLLOW) or not flags & os.O_CLOEXEC:
            found.append(f"{path} {flags:o}")
    return found


def test_no_file_is_made_through_a_link(run_cli: CommandLine, private_hub: Hub, tmp_path: Path) -> None:
    """Every file that a full run makes, told by the interpreter itself (SQLite's own are made beforehand, by us)."""
    site, log = tmp_path / "site", tmp_path / "opens"
    site.mkdir()
    (site / "sitecustomize.py").write_text(EYE)
    with meeting_place(0o755) as place:
        env = {"PYTHONPATH": f"{site}{os.pathsep}{CHECKOUT}", "OPENS_LOG": str(log), "PYTHONDONTWRITEBYTECODE": "1"}
        everything_happens(run_cli, private_hub, place / "cache", "current", **env)
        run_cli("verify", env=environment(private_hub, place / "cache", **env))
        run_cli("doctor", env=environment(private_hub, place / "cache", **env))
        to = place / "out"
        assert (
            run_cli(
                "get", "hf://acme/private", "--to", to, env=environment(private_hub, place / "cache", **env)
            ).exit_code
            == 0
        )
    made = log.read_text().splitlines()
    assert len(made) > 20  # those of many small files are made by the native core, with O_EXCL as well
    assert through_links(made) == []
    assert through_links([json.dumps(["/x", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC])]) != []
    assert through_links([json.dumps(["/x", os.O_CREAT | os.O_EXCL])]) != []


# --- another user of the host ----------------------------------------------------------------------------------------


def all_paths(cache: Path) -> list[str]:
    return [str(path) for path in (cache, *sorted(cache.rglob("*")))]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("parent", [0o755, 0o1777], ids=lambda mode: f"{mode:04o}")
@pytest.mark.timeout(120)
def test_another_user_gets_nowhere(run_cli: CommandLine, private_hub: Hub, user: User, parent: int) -> None:
    with meeting_place(parent) as place, meeting_place(0o777) as elsewhere:
        cache = place / "cache"
        if user == "ordinary" and parent == 0o755:
            os.chown(place, ORDINARY_UID, ORDINARY_UID)
        with umask(0):
            everything_happens(run_cli, private_hub, cache, user)
        paths = all_paths(cache)
        before = digest_of(cache)
        worked = stranger("probe", paths, str(elsewhere))
        beside = [] if parent == 0o755 else [["create beside", str(cache)]]  # in /tmp everybody makes files of his own
        assert worked == beside
        assert digest_of(cache) == before
        # That the stranger knows what to do with a door that is open:
        cache.chmod(0o755)
        (cache / "index-v1.sqlite").chmod(0o644)
        (cache / "snapshots-v1").chmod(0o777)
        found = {(verb, Path(path).name) for verb, path in stranger("probe", paths, str(elsewhere))}
        assert {("read", "index-v1.sqlite"), ("list", "snapshots-v1"), ("create inside", "snapshots-v1")} <= found
        assert any(verb == "rename" for verb, _ in found)


def digest_of(directory: Path) -> str:
    """Of all names, modes and bytes below it."""
    hasher = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        hasher.update(f"{path}\0{status.st_mode:o}\0{status.st_uid}\0{status.st_size}\n".encode())
        if stat.S_ISREG(status.st_mode):
            hasher.update(path.read_bytes())
    return hasher.hexdigest()


def test_the_group_that_is_let_in_reads_and_changes_nothing(run_cli: CommandLine, private_hub: Hub) -> None:
    with meeting_place(0o755) as place, meeting_place(0o777) as elsewhere:
        cache = place / "cache"
        everything_happens(run_cli, private_hub, cache, "current", FETCHER_CACHE_GROUP=str(STRANGER_UID))
        worked = stranger("probe", all_paths(cache), str(elsewhere))
        assert {verb for verb, _ in worked} == {"read", "list"}
        secret = re.compile(
            r"writable-v1/|owners-v1/|markets-v1/|partials-v1/.+|\.json$|sqlite|principal|cache-id|spare|lock"
        )
        readable = [Path(path).relative_to(cache).as_posix() for _, path in worked]
        assert any(name.startswith("blobs-v1/") for name in readable)
        assert [
            name
            for name in readable
            if (secret.search(name) and not name.startswith("snapshots-v1/"))
            or re.fullmatch(r"snapshots-v1/[0-9a-f]+\.json", name)
        ] == []


# --- what another user made before us --------------------------------------------------------------------------------

TIE = json.dumps({"index_id": "0" * 32, "state_dir": "/etc"})


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "trap", ["open directory", "closed directory", "symlink to his own", "symlink to ours", "dangling symlink", "fifo"]
)
def test_the_cache_directory_is_there_already(run_cli: CommandLine, private_hub: Hub, trap: str, user: User) -> None:
    owner = ORDINARY_UID if user == "ordinary" else 0
    with meeting_place(0o1777) as place, meeting_place(0o777) as elsewhere:
        cache, his, ours = place / "cache", elsewhere / "his", elsewhere / "ours"
        ours.mkdir(mode=0o755)
        (ours / "precious").write_text("ours")
        os.chown(ours, owner, owner)
        steps: dict[str, list[list[Any]]] = {
            "open directory": [["mkdir", str(cache), 0o777]],
            "closed directory": [["mkdir", str(cache), 0o755]],
            "symlink to his own": [["mkdir", str(his), 0o777], ["symlink", str(cache), str(his)]],
            "symlink to ours": [["symlink", str(cache), str(ours)]],
            "dangling symlink": [["symlink", str(cache), str(elsewhere / "new")]],
            "fifo": [["fifo", str(cache), 0o666]],
        }
        stranger("do", steps[trap])
        before = digest_of(elsewhere)
        done = run_cli(
            "get", "hf://acme/private", "--json", env=environment(private_hub, cache), user=user, timeout_s=20
        )
        assert done.exit_code == 51, (done.stdout, done.stderr)
        assert done.last["kind"] == "cache"
        assert done.last["hint"]
        assert digest_of(elsewhere) == before
        assert not cache.is_dir() or list(cache.iterdir()) == [] or trap == "symlink to ours"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("name", "verb", "argument"),
    [
        *((name, "mkdir", 0o777) for name in ("owners-v1", "partials-v1", "blobs-v1", "snapshots-v1", "writable-v1")),
        ("blobs-v1", "symlink", "/etc"),
        ("snapshots-v1", "file", "x"),
        ("cache-id-v1", "file", TIE),
        ("cache-id-v1", "fifo", 0o666),
        ("cache-id-v1", "symlink", "/dev/zero"),
        ("cache-id-v1.lock", "file", ""),
        ("cache-id-v1.lock", "symlink", "PRECIOUS"),
    ],
)
def test_in_a_directory_like_tmp_what_others_made_is_refused(
    run_cli: CommandLine, private_hub: Hub, user: User, name: str, verb: str, argument: Any
) -> None:
    """The one place where others may make names beside ours: a cache directory with the sticky bit."""
    owner = ORDINARY_UID if user == "ordinary" else 0
    with meeting_place(0o1777) as cache, meeting_place(0o777) as elsewhere:
        precious, state = elsewhere / "precious", elsewhere / "state"
        precious.write_text("ours")
        state.mkdir(mode=0o700)
        for path in (precious, state):
            os.chown(path, owner, owner)
        stranger("do", [[verb, str(cache / name), str(precious) if argument == "PRECIOUS" else argument]])
        env = environment(private_hub, cache, FETCHER_STATE_DIR=str(state))
        done = run_cli("get", "hf://acme/private", "--json", env=env, user=user, timeout_s=20)
        assert done.exit_code == 51, (done.stdout, done.stderr)
        assert done.last["hint"]
        assert (precious.read_text(), precious.stat().st_mode & 0o777) == ("ours", 0o644)
        if verb == "mkdir":
            assert list((cache / name).iterdir()) == []


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("verb", ["file", "symlink"])
def test_a_tag_of_others_is_left_alone(run_cli: CommandLine, private_hub: Hub, user: User, verb: str) -> None:
    owner = ORDINARY_UID if user == "ordinary" else 0
    with meeting_place(0o1777) as cache, meeting_place(0o777) as elsewhere:
        state = elsewhere / "state"
        state.mkdir(mode=0o700)
        os.chown(state, owner, owner)
        stranger("do", [[verb, str(cache / "CACHEDIR.TAG"), str(elsewhere / "new")]])
        env = environment(private_hub, cache, FETCHER_STATE_DIR=str(state))
        assert run_cli("get", "hf://acme/private", env=env, user=user).exit_code == 0
        assert (cache / "CACHEDIR.TAG").is_symlink() == (verb == "symlink")
        assert sorted(path.name for path in elsewhere.iterdir()) == ["state"]


MAKER = """
import sys, json, os
from pathlib import Path
from fetcher.cache.store import Cache
from fetcher.config import load
from fetcher.errors import FetcherError
made = []
for name in json.load(sys.stdin):
    arguments = {"cache_dir": name} if "state" not in sys.argv else {"cache_dir": sys.argv[2], "state_dir": name}
    try:
        Cache.open(load(arguments=arguments, environ={"HOME": "/nonexistent"})).close()
    except FetcherError as error:
        assert error.exit_code == 51, error
    else:
        made.append(name)
print(json.dumps(made))
"""


@pytest.mark.parametrize("uid", [ORDINARY_UID, 0])
def test_a_race_for_the_cache_directory(uid: int) -> None:
    """While we make caches in a directory like /tmp, another user makes symlinks of the same names."""
    with meeting_place(0o1777) as place, meeting_place(0o777) as elsewhere:
        names = [str(place / f"cache-{number}") for number in range(60)]
        code = MAKER
        with busy_stranger("plant", names[::-1], str(elsewhere), 30.0):
            done = subprocess.run(
                command_as(uid, [sys.executable, "-c", code]),
                input=json.dumps(names),
                env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        for name in json.loads(done.stdout):
            status = os.lstat(name)
            assert stat.S_ISDIR(status.st_mode)
            assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (uid, 0o700)
        assert list(elsewhere.iterdir()) == [], "nothing was made through a symlink"


# --- containers ------------------------------------------------------------------------------------------------------

INSIDE = """
mkdir /tmp/in-$$ && mount --bind {source} /tmp/in-$$ && mount -o remount,bind,{how} /tmp/in-$$ || exit 90
cd /tmp/in-$$ || exit 90
for uid in 0 1 1000 {stranger} 65534; do
  setpriv --reuid=$uid --regid=$uid --clear-groups sh -c '{script}' || exit 91
done
cd / && umount /tmp/in-$$ && rmdir /tmp/in-$$
"""


def in_container(source: Path, script: str, how: str = "ro") -> subprocess.CompletedProcess[str]:
    """As several users, in a mount namespace of its own, mounted as the plan says."""
    whole = INSIDE.format(source=source, how=how, stranger=STRANGER_UID, script=script)
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", whole], capture_output=True, text=True, check=False, timeout=40
    )


@pytest.mark.needs("mountns", "debian:setpriv")
@pytest.mark.parametrize("user", USERS)
def test_any_user_of_a_container_reads_and_a_job_writes_only_its_copy(
    run_cli: CommandLine, private_hub: Hub, user: User
) -> None:
    with meeting_place(0o1777) as place:
        cache = place / "cache"
        with umask(0o077):
            copy = everything_happens(run_cli, private_hub, cache, user)
        snapshots = [path for path in (cache / "snapshots-v1").iterdir() if path.is_dir()]
        assert len(snapshots) == 2
        before = {name: digest_of(cache / name) for name in ("snapshots-v1", "blobs-v1")}
        for snapshot in snapshots:
            read = in_container(snapshot, "find . -type f -exec cat {} + >/dev/null && ls -lR . >/dev/null")
            assert read.returncode == 0, read.stderr
            script = "! touch new 2>/dev/null && ! (: >> $(find . -type f | head -n1)) 2>/dev/null"
            wrote = in_container(snapshot, script)
            assert wrote.returncode == 0, wrote.stderr
        script = (
            "for f in $(find . -type f); do echo by-$(id -u) >> $f || exit 1; done; mkdir -p d-$(id -u)"
            " && ln -sf /etc/passwd d-$(id -u)/link && chmod 4777 d-$(id -u)"
        )
        written = in_container(copy, script, "rw")
        assert written.returncode == 0, written.stderr
        assert b"by-65534" in (copy / "b").read_bytes()
        assert {name: digest_of(cache / name) for name in before} == before
        sound = run_cli("verify", "--json", env=environment(private_hub, cache), user=user)
        assert (sound.exit_code, sound.last["damaged"]) == (0, 0)


# --- directories of the user's own: --to -----------------------------------------------------------------------------


def test_a_copy_into_somebody_elses_directory_stays_in_it() -> None:
    """Root copies where another user may swap a folder for a symlink at any time; names of files are a stranger's."""
    with meeting_place(0o755) as place, meeting_place(0o777) as elsewhere:
        root_only, target = place / "root-only", elsewhere / "out"
        root_only.mkdir(mode=0o700)
        stranger("do", [["mkdir", str(target), 0o755], ["mkdir", str(target / "deep"), 0o755]])
        snapshot, files = many_files(place / "many")
        refused = 0
        with busy_stranger("swap", str(target / "deep"), str(root_only), 40.0):
            for _ in range(1500):
                try:
                    copy_out(snapshot, files, target, merge=True)
                except CacheError:
                    refused += 1
        assert list(root_only.iterdir()) == [], "nothing came through the symlink"
        assert refused, "the other user was there"


def many_files(directory: Path) -> tuple[Any, list[SnapshotFile]]:
    """Something to copy that enters one folder again and again."""
    (directory / "deep").mkdir(parents=True)
    files = []
    for number in range(50):
        (directory / "deep" / f"{number}").write_bytes(b"x")
        files.append(SnapshotFile(f"deep/{number}", 1, "d" * 64, None, "size"))
    return SimpleNamespace(path=directory), files


def test_an_empty_directory_that_is_closed_stays_closed(run_cli: CommandLine, private_hub: Hub) -> None:
    """What is private is not opened to all because the directory that was named is replaced as a whole."""
    with meeting_place(0o755) as place:
        target = place / "out"
        target.mkdir(mode=0o700)
        os.chown(target, ORDINARY_UID, ORDINARY_UID)
        with umask(0):
            done = run_cli("get", "hf://acme/private", "--to", target, env=environment(private_hub, place / "cache"))
            fresh = run_cli(
                "get", "hf://acme/private", "--to", place / "p" / "q", env=environment(private_hub, place / "cache")
            )
        assert (done.exit_code, fresh.exit_code) == (0, 0)
        status = target.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, ORDINARY_UID)
        assert stat.S_IMODE((place / "p").stat().st_mode) == 0o755
        shutil.rmtree(target)
