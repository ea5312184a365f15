"""From proven bytes to a Blob: an immutable file under its own name.

The order of publishing one is: no writable descriptor, mode 0444, data durable, its tree durable and named, link(2) to
the Blob's name, directory durable, row. A crash leaves at worst files that no row speaks of.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fetcher import hashing
from fetcher.cache import durable, rescan
from fetcher.cache.blobs import Blobs, insert_blobs, scope_of, taken_out
from fetcher.cache.clearing import remove_any
from fetcher.cache.clock import Clock
from fetcher.cache.index import Index, Rows, insert_many
from fetcher.cache.layout import MEDIA_ERRNOS, Layout, disk_errors, make_directory, read_plain
from fetcher.cache.partials import DATA, Partial
from fetcher.cache.records import NOBODY, Asked, Blob, SmallFile
from fetcher.cache.small_files import BODY_MODE, SmallStaging
from fetcher.cache.steps import taken as step_taken
from fetcher.cache.tree_file import TreeFile, tree_of
from fetcher.cache.withdrawal import close_tree, closed_since
from fetcher.errors import CacheError, InternalError
from fetcher.model.digest import Digest


class Committer:
    """Makes the Blobs of one cache. Thread-safe."""

    def __init__(
        self,
        index: Index,
        layout: Layout,
        clock: Clock,
        owner_id: Callable[[], str],
        blobs: Blobs,
    ) -> None:
        self._index = index
        self._layout = layout
        self._clock = clock
        self._owner_id = owner_id
        self._blobs = blobs

    # --- one large content

    def commit(
        self,
        partial: Partial,
        *,
        digests: Sequence[Digest],
        verified_by: str,
        private: bool,
        principal: str | None,
        root: str | None = None,
        asked: Asked | None = None,
        step: Callable[[], None] = lambda: None,
    ) -> Blob:
        """Publish a complete Partial; it is gone afterwards. ``digests`` were computed by us over all of it.

        ``root`` is needed where blocks have no chaining values (plain mode). Where a body of this name is here already,
        that one is hashed, which may take minutes: ``step`` is called now and then, and may raise to give it up; the
        Partial stays then. Raises CacheError if the disk does not keep its word; the Partial is discarded then.
        ``asked``: see ``SmallFile``.
        """
        cvs = self._chaining_values(partial)
        reader = partial.give_up_writing()
        step_taken("blob:closed")
        try:
            with disk_errors("publish", partial.path):
                if os.fstat(reader).st_size != partial.size:
                    raise CacheError(f"{partial.path} was cut by somebody else", hint="run the command again")
                root = self._root(partial, cvs, reader, root)
                os.fchmod(reader, BODY_MODE)
                try:
                    os.fsync(reader)
                except OSError:
                    partial.poison()
                    raise
                step_taken("blob:durable")
                body, place = str(partial.path / DATA), self._layout.blob_place(root)
                staged = partial.path / "tree" if partial.size > hashing.BLOCK_BYTES else None
                made = _Made(root, partial.size, partial.head.content_id, tuple(digests), body, place, staged, asked)
                if staged is not None:
                    block_bytes = hashing.BLOCK_BYTES if cvs else 0
                    tree = tree_of(
                        root,
                        partial.size,
                        block_bytes,
                        cvs,
                        digests,
                        verified_by,
                        content_id=partial.head.content_id,
                        scope=scope_of(private, principal),
                    )
                    durable.remove_file(staged)
                    durable.write_file(staged, [tree], BODY_MODE, sync=True)
                    step_taken("blob:tree-durable")
                    while not self._link(staged, self._layout.tree(root)) and not self._tree_serves(tree, root):
                        self._out_of_the_way(self._layout.tree(root))
                    step_taken("blob:tree-named")
                self._name(made, b"".join(cvs), step)
                step_taken("blob:named")
                durable.sync_directory(os.path.dirname(place))
                durable.sync_directory(self._layout.blobs)
                step_taken("blob:names-durable")
                self._insert([made], private, principal, lambda: self._keep_names([made]))
                step_taken("blob:rows")
        except BaseException:
            partial.close()  # what is proven stays for a resume, unless it is poisoned
            raise
        finally:
            os.close(reader)
        partial.discard()
        step_taken("blob:partial-removed")
        return Blob(root, partial.size, made.place)

    def _chaining_values(self, partial: Partial) -> list[bytes]:
        if not hashing.HAS_TREE:
            return []
        missing = [block for block in range(partial.block_count) if block not in partial.proven]
        if missing:
            raise InternalError(f"{partial!r} can't be published: block {missing[0]} is not proven")
        return [partial.proven[block] for block in range(partial.block_count)]

    def _root(self, partial: Partial, cvs: list[bytes], reader: int, given: str | None) -> str:
        if partial.size > hashing.BLOCK_BYTES:
            if cvs:
                return hashing.merge_root(b"".join(cvs), partial.size, block=hashing.BLOCK_BYTES).hex()
            if given is None:
                raise InternalError("without chaining values the caller must say the root")
            return given
        # A lone block's chaining value is no root. Hash what is on disk, and see that it is what was hashed then.
        data = os.pread(reader, partial.size, 0)
        if cvs and hashing.hash_blocks(data, 0, block=hashing.BLOCK_BYTES) != cvs[0]:
            raise CacheError(
                f"{partial.path} changed after it was written", hint="the disk or another program does this"
            )
        return hashing.root_of(data).hex()

    def _name(self, made: _Made, cvs: bytes, step: Callable[[], None] = lambda: None) -> None:
        """Give a body its Blob's name. ``step``: see ``commit``."""
        while not self._link(made.body, made.place) and not self._sound(made, cvs, step):
            # What is there has the wrong bytes: a leftover, or the disk lost them. Snapshots that link it keep what
            # they have; the name is for ours.
            self._out_of_the_way(made.place)

    def _out_of_the_way(self, place: Path | str) -> Path:
        """Take the name from what has it; returns the trash, which gc empties if nobody else does."""
        trash = self._layout.trash(self._layout.blobs)
        with self._index.write(durable=False) as rows:
            try:
                os.rename(place, trash)
            except FileNotFoundError:
                pass  # removed by now
            taken_out(rows)  # whoever has just linked it is to notice
        return trash

    def _link(self, source: Path | str, target: Path | str) -> bool:
        """Give a file its final name; False if somebody else's copy has it. Never replaces anything."""
        for _ in range(2):
            try:
                os.link(source, target, follow_symlinks=False)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:  # the first with these two digits
                make_directory(os.path.dirname(target), self._layout.directory_mode, self._layout.group)
            except OSError as error:
                if error.errno not in durable.NOT_LINKABLE:
                    raise
                break
        # No hard links here. The index's lock keeps others of us from naming the same file meanwhile.
        make_directory(os.path.dirname(target), self._layout.directory_mode, self._layout.group)
        with self._index.write(durable=False):
            if os.path.lexists(target):
                return False
            os.rename(source, target)
        return True

    def _sound(self, made: _Made, cvs: bytes, step: Callable[[], None]) -> bool:
        """Whether a body that was there before us is right, by hashing it: ours was verified a moment ago, and is never
        dropped for one that was long ago."""
        root, size = made.root, made.size
        if self._blobs.proven(root, size) is None:
            return False
        try:
            descriptor = os.open(made.place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if size <= hashing.BLOCK_BYTES:
                return hashing.root_of(os.pread(descriptor, size, 0)).hex() == root
            if not cvs:  # plain mode: all of it, in order
                return _root_in_order(descriptor, size, step) == root
            return _is_ours(descriptor, made) or _is_right(descriptor, size, cvs, step)
        except OSError as error:
            if error.errno in MEDIA_ERRNOS:
                return False  # the disk has lost it
            raise
        finally:
            os.close(descriptor)

    def _tree_serves(self, ours: bytes, root: str) -> bool:
        """Whether a tree that was there before us says the same of the bytes as ours, or more, and gives them to nobody
        who may not have them."""
        mine = TreeFile.decode(ours)
        try:
            theirs = TreeFile.decode(read_plain(self._layout.tree(root)))
        except (OSError, ValueError):
            return False
        if theirs.scope == "" and mine.scope != "":
            with self._index.read() as rows:
                if not _is_everybodys(rows, root):
                    return False  # of a public download that never had rows: by it an index made anew would open ours
        same = (theirs.root, theirs.size) == (mine.root, mine.size)
        return same and (not mine.block_bytes or theirs.chaining_values == mine.chaining_values)

    def renew_tree(self, root: str, size: int, cvs: bytes, verified_by: str) -> None:
        """A new ``.tree`` for a Blob whose bytes were just found right, in place of one that is damaged or missing."""
        block_bytes = hashing.BLOCK_BYTES if cvs else 0
        content_id, scope = self._blobs.known_as(root)
        digests = self._blobs.digests(root)
        tree = tree_of(root, size, block_bytes, [cvs], digests, verified_by, content_id=content_id, scope=scope)
        place = self._layout.tree(root)
        staged = self._layout.staging(self._layout.blobs, "tree", self._owner_id())
        with disk_errors("write", place):
            try:
                durable.write_file(staged, [tree], BODY_MODE, sync=True)
                while not self._link(staged, place):
                    remove_any(self._out_of_the_way(place))
                durable.sync_directory(place.parent)
            finally:
                durable.remove_file(staged)

    # --- many small contents

    def small_staging(self) -> SmallStaging:
        """For contents that are written before ``commit_small`` is called; close it after the last such call."""
        with disk_errors("write in", self._layout.partials):
            return SmallStaging(self._layout, self._owner_id())

    def commit_small(
        self, items: Sequence[SmallFile], *, private: bool, principal: str | None, staging: SmallStaging | None = None
    ) -> list[Blob]:
        """Publish contents of at most one block with one write each and one durability barrier for all.

        Their names are their whole trees, so they have no ``.tree``. ``staging``: where some are written already.
        """
        for item in items:
            if not 0 < item.size <= hashing.BLOCK_BYTES:
                raise InternalError(f"{item.size} bytes are not a small file")
        with disk_errors("publish in", self._layout.blobs):
            if staging is not None:
                return self._commit_small(items, staging, private, principal)
            with self.small_staging() as own:
                return self._commit_small(items, own, private, principal)

    def _commit_small(
        self, items: Sequence[SmallFile], staging: SmallStaging, private: bool, principal: str | None
    ) -> list[Blob]:
        unwritten = [item for item in items if item.staged is None]
        written = iter(staging.write([item.data for item in unwritten]))
        step_taken("small:written")
        roots = map(bytes.hex, hashing.roots_of([item.data for item in items if item.root is None]))
        made: list[_Made] = []
        for item in items:
            body = f"{staging.path}/{item.staged or next(written)}"
            root = item.root or next(roots)
            place = self._layout.blob_place(root)
            made.append(_Made(root, item.size, item.content_id, item.digests, body, place, asked=item.asked))
        names = [os.path.basename(blob.body) for blob in made]
        staging.sync(names)
        step_taken("small:durable")
        with durable.directory(self._layout.blobs) as blobs:
            self._name_small(staging.folder, blobs, made)
            step_taken("small:named")
            self._insert(made, private, principal, lambda: self._keep_small(blobs, made))
            step_taken("small:rows")
        staging.forget(names)
        return [Blob(blob.root, blob.size, blob.place) for blob in made]

    def _name_small(self, folder: int, blobs: int, made: Sequence[_Made]) -> None:
        """Give the bodies in ``folder`` their Blobs' names. No barrier for these: a row whose body a power cut took is
        recognised by ``Blobs.proven``."""
        missing = self._link_small(folder, blobs, made, errno.ENOENT)
        if missing:
            self._make_folders(blobs, sorted({blob.root[:2] for blob in missing}))  # the first with these two digits
            self._link_small(folder, blobs, missing, None)

    def _make_folders(self, blobs: int, wanted: Sequence[str]) -> None:
        """Directories of Blobs that are missing, by one call: a new cache needs all of them at its first batch."""
        mode, group = self._layout.directory_mode, self._layout.group
        names = [digits.encode() for digits in wanted]
        for digits, error in zip(wanted, durable.make_directories(blobs, names, mode, group), strict=True):
            place = f"{self._layout.blobs}/{digits}"
            if error == errno.EEXIST:
                make_directory(place, mode, group)  # somebody has made it meanwhile: looks whether it can be trusted
            elif error:
                raise OSError(error, os.strerror(error), place)

    def _link_small(self, folder: int, blobs: int, made: Sequence[_Made], later: int | None) -> list[_Made]:
        """Link bodies to their Blobs' names, each for itself where that fails; returns those whose errno is ``later``,
        for another try."""
        names = [blob.body.rpartition("/")[2].encode() for blob in made]  # digits, as below
        targets = [f"{blob.root[:2]}/{blob.root}".encode() for blob in made]
        left: list[_Made] = []
        for blob, error in zip(made, durable.link_files(folder, names, blobs, targets), strict=True):
            if error and error == later:
                left.append(blob)
            elif error:  # it is there already, or can't be linked; or somebody has removed what we made just now
                self._name(blob, b"")
        return left

    def _keep_small(self, blobs: int, made: Sequence[_Made]) -> None:
        """See ``_keep_names``."""
        sizes = durable.look_for_files(blobs, [f"{blob.root[:2]}/{blob.root}".encode() for blob in made])
        self._keep_names([blob for blob, size in zip(made, sizes, strict=True) if size < 0])

    # --- rows

    def _insert(
        self, made: Sequence[_Made], private: bool, principal: str | None, keep_names: Callable[[], None]
    ) -> None:
        """Rows of new Blobs, held for us until the Snapshot that wants them is published. What came in as everybody's,
        and is no longer by now, is this run's to publish and nobody's to be given."""
        now = self._clock()
        owner_id = self._owner_id()
        # In the order of the tables, so that one page is not gone through many times.
        by_root = sorted(made, key=lambda blob: blob.root)
        by_content = sorted(made, key=lambda blob: (blob.content_id, blob.root))
        answers: set[Asked] = set() if private else {blob.asked for blob in made if blob.asked is not None}
        with self._index.write(durable=True, references_hold=True) as rows:
            keep_names()
            closed = {asked for asked in answers if closed_since(rows, self._clock, asked)}
            shut = [blob for blob in by_root if blob.asked in closed] if closed else []
            if shut:
                by_root = [blob for blob in by_root if blob.asked not in closed]
                by_content = [blob for blob in by_content if blob.asked not in closed]
            for among, scope in ((by_root, scope_of(private, principal)), (shut, NOBODY)):
                insert_blobs(rows, [(blob.root, blob.size, blob.digests) for blob in among], scope, now)
                held = [(blob.root, owner_id) for blob in among]
                insert_many(rows, "INSERT OR IGNORE INTO blob_holds", held)
            insert_many(rows, "INSERT OR REPLACE INTO contents", [(blob.content_id, blob.root) for blob in by_content])
            for blob in shut:
                if blob.tree is not None and not _is_everybodys(rows, blob.root):
                    close_tree(self._layout, blob.root, owner_id)

    def _keep_names(self, made: Sequence[_Made]) -> None:
        """Inside the transaction: give back names that somebody's cleaning took after our link. Now nobody can."""
        for blob in made:
            for source, target in blob.names(self._layout):
                if not os.path.lexists(target):
                    os.link(source, target, follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class _Made:
    """A body that has its Blob's name, or is about to."""

    root: str
    size: int
    content_id: str
    digests: tuple[Digest, ...]
    body: str
    """The name that it was written under."""
    place: str
    """The name of the Blob."""
    tree: Path | None = None
    """The name that its tree was written under."""
    asked: Asked | None = None
    """See ``SmallFile``."""

    def names(self, layout: Layout) -> tuple[tuple[str, str], ...]:
        """Written name and final name of all that it consists of."""
        body = (self.body, self.place)
        return (body,) if self.tree is None else ((str(self.tree), str(layout.tree(self.root))), body)


def _is_everybodys(rows: Rows, root: str) -> bool:
    return bool(rows.execute("SELECT 1 FROM blob_access WHERE root = ? AND principal = ''", (root,)).fetchone())


def _is_ours(descriptor: int, made: _Made) -> bool:
    """Whether it is the very body that we publish: somebody had named it, and was gone before there was a row."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(made.body))
    except FileNotFoundError:
        return False


def _is_right(descriptor: int, size: int, cvs: bytes, step: Callable[[], None]) -> bool:
    """Whether a file's blocks have these chaining values. ``step`` is called before each of some."""
    span = rescan.SCAN_STEP_BLOCKS * hashing.BLOCK_BYTES
    for start in range(0, size, span):
        step()
        first = start // hashing.BLOCK_BYTES
        expected = cvs[first * 32 : (first + rescan.SCAN_STEP_BLOCKS) * 32]
        if hashing.scan_file(descriptor, start, min(span, size - start), expected, block=hashing.BLOCK_BYTES):
            return False
    return True


def _root_in_order(descriptor: int, size: int, step: Callable[[], None]) -> str:
    """The BLAKE3 root of a file's first ``size`` bytes, or of what there is of them. ``step`` is called before each
    block."""
    digest = hashing.InOrderDigest.new("blake3", size)
    view = memoryview(bytearray(hashing.BLOCK_BYTES))
    while count := os.preadv(descriptor, [view[: size - digest.offset]], digest.offset):
        step()
        digest.update(view[:count])
    return digest.hexdigest()
