# SPDX-License-Identifier: Apache-2.0
"""The device's folder: bundles, plans and the state that says which of them run.

::

    STORE/
      state.json            what runs now and before, floors, token (state.py)
      state.backup.json     the same content, written before it; read if state.json is damaged
      root.json             the TUF root of trust the app was shipped with
      device.key            who this device is (device_key.py); made when it first registers
      bundles/<digest>/     manifest.pb and parts/<sha256>; complete once manifest.pb is there
      plans/<sha256>.plan
      downloads/<sha256>.part     parts on their way, resumed by length
      tuf/                  verified TUF metadata
      lock                  held by the one writer

Nothing is changed in place. A file appears whole or not at all (temporary file, fsync,
rename, fsync of the folder), artifacts before the state that names them, and only files
that no pair of the state needs are deleted. So at every instant, also after a power cut,
the state on disk names artifacts that are complete. Parts that two bundles share are hard
links to one file where the file system has them.

Every change goes through one ``Disk``, so that tests can cut the power at any of them.
Reading changes nothing: a store on a read-only medium ranks.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError, IntegrityError, MalformedArtifactError, StoreError
from pocketrec.files import SYSTEM_DISK, Disk, make_folders, write_atomically
from pocketrec_device.downloads import Downloads, file_digest
from pocketrec_device.lock import writer_lock
from pocketrec_device.retention import n_kept_within
from pocketrec_device.state import DeviceState, Pair, decode_state, encode_state
from pocketrec_device.store_access import access_error, check_room, store_access
from pocketrec_device.updater import check_root
from pocketrec_quantization.bundle import MANIFEST_FILE, PARTS_FOLDER, BundleFolder
from pocketrec_quantization.checks import check_name

if TYPE_CHECKING:
    from pocketrec.signing import SigningKey

__all__ = ["ROOM_MARGIN_BYTES", "Store"]

ROOM_MARGIN_BYTES = 4 * 2**20
"""Asked for beyond the parts: manifest, plan, state, metadata, and what others write meanwhile."""


class Store:
    """One store folder. Reading needs no lock; every change is made inside ``writing``.

    Args:
        path: The folder.
        max_kept_bytes: What older pairs may take beyond the current and the previous one,
            which always stay. Those used longest ago go first.
        disk: What changes files.

    Attributes:
        path: The folder.
        downloads: Parts on their way.

    Raises:
        ConfigError: ``max_kept_bytes`` is below 0.
    """

    def __init__(
        self, path: str | Path, *, max_kept_bytes: int = 0, disk: Disk = SYSTEM_DISK
    ) -> None:
        if max_kept_bytes < 0:
            raise ConfigError(f"max_kept_bytes: expected 0 or more, got {max_kept_bytes}")
        self.path = Path(path)
        self.downloads = Downloads(self.path / "downloads", disk=disk)
        self._max_kept_bytes = max_kept_bytes
        self._disk = disk

    @property
    def tuning_file(self) -> Path:
        """Where measured times of kernels are kept; nothing that needs protection."""
        return self.path / "tuning.json"

    @property
    def tuf_folder(self) -> Path:
        """Where verified TUF metadata is kept."""
        return self.path / "tuf"

    def create(self, model: str, root: bytes | None) -> None:
        """Make the folder, or leave it as it is when it already follows ``model``.

        Args:
            model: The model line to follow.
            root: TUF root metadata; kept only if the store has none yet, or if the one it
                has is damaged and this is the same.

        Raises:
            ConfigError: ``model`` is no name, or ``root`` is no TUF root metadata.
            StoreError: The folder follows another model, cannot be read, or had another
                root before it was damaged.
            StoreLockedError: Another writer is at work.
            StoreAccessError: The folder must be written, and cannot be.
        """
        check_name(model, field="model")
        with store_access(self.path):
            needs_root = root is not None and self._root_problem() != ""
            if not self.exists() or needs_root:
                self._set_up(model, root if needs_root else None)
        found = self.load().model
        if found != model:
            raise StoreError(
                f"the store at {str(self.path)!r} follows model {found!r}, not {model!r}; "
                "use a store of its own for each model"
            )

    def exists(self) -> bool:
        """Whether there is a state, readable or not."""
        return self._state_path.exists() or self._backup_path.exists()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer for the length of a ``with`` block.

        Raises:
            StoreLockedError: Another writer is at work.
            StoreAccessError: The system refused something inside the block;
                ``DiskFullError`` and ``StoreReadOnlyError`` say more.
            StoreError: There is no such folder.
        """
        with store_access(self.path):
            if not self.path.is_dir():
                raise self._absent()
            with writer_lock(self.path / "lock", disk=self._disk):
                yield

    def load(self) -> DeviceState:
        """Return the state, from the backup when the first copy is damaged.

        Raises:
            StoreError: There is no state, or both copies are damaged.
            StoreAccessError: The state may not be read.
        """
        with store_access(self.path):
            if not self.exists():
                raise self._absent()
        problems: list[str] = []
        refused: OSError | None = None
        for path in (self._state_path, self._backup_path):
            try:
                return decode_state(path.read_bytes())
            except (MalformedArtifactError, FileNotFoundError) as exc:
                problems.append(f"{path.name}: {exc}")
            except OSError as exc:
                refused = exc
        if refused is not None:
            named = access_error(refused, self.path)
            raise named from refused
        raise StoreError(
            f"both copies of the state in {str(self.path)!r} are damaged "
            f"({'; '.join(problems)}); delete the folder, create it again and sync"
        )

    def save(self, state: DeviceState) -> None:
        """Replace the state; the second of two writes decides what a restart finds.

        Raises:
            OSError: It cannot be written; the old state stays.
        """
        data = encode_state(state)
        self._write(self._backup_path, data)
        self._write(self._state_path, data)

    def root(self) -> bytes:
        """Return the TUF root of trust.

        Raises:
            StoreError: The store was created without one, or it is damaged.
            StoreAccessError: It may not be read.
        """
        with store_access(self.path):
            problem = self._root_problem()
            if problem:
                raise StoreError(
                    f"the store at {str(self.path)!r} {problem}; pass root= and model= to "
                    "Runtime.create, or --root and --model to the command"
                )
            return self._root_path.read_bytes()

    def device_key(self) -> SigningKey:
        """Return the key that is this device's identity, made now if it has none; lock held.

        Raises:
            OSError: It cannot be read or written.
        """
        from pocketrec_device.device_key import obtain_device_key

        return obtain_device_key(self.path / "device.key", self._write)

    def open_bundle(self, digest: str) -> BundleFolder:
        """Return an installed bundle; its parts are verified as they are read.

        Raises:
            StoreError: It is not there.
            StoreAccessError: Its manifest may not be read.
            IntegrityError: Its manifest is not the one the digest names.
            ArtifactError: Its manifest is of another release.
        """
        folder = self._bundle_path(digest)
        with store_access(self.path):
            if not (folder / MANIFEST_FILE).exists():
                raise StoreError(f"bundle {digest} is not in the store; sync again")
            found = file_digest(folder / MANIFEST_FILE)
            if found != digest:
                raise IntegrityError(f"expected bundle {digest}, got {found}; sync again")
            return BundleFolder.open(folder)

    def read_plan(self, digest: str) -> bytes:
        """Return an installed plan, verified.

        Raises:
            StoreError: It is not there.
            StoreAccessError: It may not be read.
            IntegrityError: Its content has changed.
        """
        with store_access(self.path):
            try:
                data = self._plan_path(digest).read_bytes()
            except FileNotFoundError as exc:
                raise StoreError(f"plan {digest} is not in the store; sync again") from exc
        if hashlib.sha256(data).hexdigest() != digest:
            raise IntegrityError(f"plan {digest}: its content has changed; sync again")
        return data

    def put_plan(self, data: bytes) -> str:
        """Keep a plan and return its digest in hex.

        Raises:
            OSError: It cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        self._write_once(self._plan_path(digest), data, digest)
        return digest

    def put_manifest(self, data: bytes) -> str:
        """Complete a bundle whose parts are all there, and return its digest in hex.

        Raises:
            OSError: It cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        folder = self._bundle_path(digest)
        # Links are not flushed one by one, and a writer that was killed flushed nothing.
        self._disk.flush(folder / PARTS_FOLDER)
        self._write_once(folder / MANIFEST_FILE, data, digest)
        return digest

    def put_part(self, bundle: str, data: bytes) -> None:
        """Keep a verified part of a bundle under its digest.

        Raises:
            OSError: It cannot be written.
        """
        self._write(self._part_path(bundle, hashlib.sha256(data).hexdigest()), data)

    def add_part(self, bundle: str, sha256: str) -> None:
        """Move a part that has arrived to its bundle, if it is what its digest says.

        Raises:
            IntegrityError: It is not; it is dropped, so that the next sync starts afresh.
            OSError: It cannot be moved.
        """
        self.downloads.finish(sha256, self._part_path(bundle, sha256))

    def has_part(self, bundle: str, sha256: str) -> bool:
        """Whether an undamaged copy of a part is there for ``bundle``; shares one if not.

        Raises:
            OSError: A shared copy cannot be made.
        """
        path = self._part_path(bundle, sha256)
        for copy in [path, *self.path.glob(f"bundles/*/parts/{sha256}")]:
            if copy.exists() and file_digest(copy) == sha256:
                if copy != path:
                    self._share(copy, path)
                return True
        return False

    def make_room(self, needed_bytes: int, state: DeviceState) -> None:
        """See to it that there is room for parts and a margin; kept bundles make way for them.

        Nothing to write needs no room.

        Args:
            needed_bytes: Of the parts that are not here.
            state: Says which bundles are kept.

        Raises:
            DiskFullError: There is too little, with nothing but the current and the
                previous pair left.
            OSError: A kept bundle cannot be deleted.
        """
        if not needed_bytes:
            return
        needed_bytes += ROOM_MARGIN_BYTES
        needed = {pair.bundle for pair in (state.current, state.previous) if pair is not None}
        for pair in reversed(state.kept):
            if self._disk.free_bytes(self.path) >= needed_bytes:
                return
            if pair.bundle not in needed and self._bundle_path(pair.bundle).exists():
                self._delete(self._bundle_path(pair.bundle))
        check_room(needed_bytes, self._disk.free_bytes(self.path), self.path)

    def kept_pairs(self, state: DeviceState) -> tuple[Pair, ...]:
        """Return the older pairs that are still here, the one used last first."""
        return tuple(pair for pair in state.kept if self._is_there(pair))

    def within_limit(self, state: DeviceState) -> DeviceState:
        """Return a state that keeps no more than ``max_kept_bytes`` of older pairs.

        Raises:
            OSError: Something cannot be looked at.
        """
        if not self._max_kept_bytes:
            return replace(state, kept=())
        there = self.kept_pairs(state)
        free: dict[Hashable, int] = {}
        for pair in (state.current, state.previous):
            free |= {} if pair is None else self._files_of(pair)
        n_kept = n_kept_within([self._files_of(p) for p in there], free, self._max_kept_bytes)
        return replace(state, kept=there[:n_kept])

    def prune(self, state: DeviceState) -> None:
        """Delete everything that ``state`` does not name, half-written files included.

        Raises:
            OSError: Something cannot be deleted.
        """
        for folder, names in (
            ("bundles", {pair.bundle for pair in state.pairs}),
            ("plans", {f"{pair.plan}.plan" for pair in state.pairs}),
            ("downloads", set[str]()),
        ):
            for path in sorted(self.path.glob(f"{folder}/*")):
                if path.name not in names:
                    self._delete(path)
        for pattern in (".*", "tuf/tmp*"):  # half written, by a writer that was killed
            for path in sorted(self.path.rglob(pattern)):
                self._disk.remove(path)

    def _set_up(self, model: str, root: bytes | None) -> None:
        """Make what is absent; ``root`` is written if given."""
        if root is not None:
            check_root(root)
        make_folders(self.path, mode=0o700, disk=self._disk)
        with self.writing():
            state = self.load() if self.exists() else DeviceState(model=model)
            if root is not None and self._root_problem():
                digest = hashlib.sha256(root).hexdigest()
                if state.root_sha256 not in {"", digest}:
                    raise StoreError(
                        f"the root of trust in {str(self.path)!r} is damaged, and the one given "
                        f"is another: expected SHA-256 {state.root_sha256}, got {digest}; pass "
                        "the root the store was made with"
                    )
                self._write(self._root_path, root)
                state = replace(state, root_sha256=digest)
                self.save(state)
            elif not self.exists():
                self.save(state)

    def _root_problem(self) -> str:
        """Say what is wrong with the root of trust; empty when nothing is."""
        try:
            data = self._root_path.read_bytes()
        except FileNotFoundError:
            return "has no root of trust"
        expected = self.load().root_sha256 if self.exists() else ""
        found = hashlib.sha256(data).hexdigest()
        if expected and found != expected:
            return f"has a damaged root of trust (expected SHA-256 {expected}, got {found})"
        try:
            check_root(data)
        except ConfigError:
            return "has a damaged root of trust (it is no TUF root metadata)"
        return ""

    def _is_there(self, pair: Pair) -> bool:
        manifest = self._bundle_path(pair.bundle) / MANIFEST_FILE
        return manifest.exists() and self._plan_path(pair.plan).exists()

    def _files_of(self, pair: Pair) -> dict[Hashable, int]:
        """Return the bytes of a pair's files by what identifies each; links are one file."""
        paths = [*self._bundle_path(pair.bundle).rglob("*"), self._plan_path(pair.plan)]
        found = [path.stat() for path in paths if path.is_file()]
        return {(stat.st_dev, stat.st_ino): stat.st_size for stat in found}

    def _delete(self, path: Path) -> None:
        """Delete a file or a folder; of a bundle the manifest first, which makes it complete."""
        if path.is_dir():
            for child in sorted(path.iterdir(), key=lambda child: child.name != MANIFEST_FILE):
                self._delete(child)
            self._disk.remove_folder(path)
        else:
            self._disk.remove(path)

    def _absent(self) -> StoreError:
        return StoreError(
            f"there is no store at {str(self.path)!r}; make one with "
            "Runtime.create, or with `pocketrec device sync --model NAME`"
        )

    @property
    def _state_path(self) -> Path:
        return self.path / "state.json"

    @property
    def _backup_path(self) -> Path:
        return self.path / "state.backup.json"

    @property
    def _root_path(self) -> Path:
        return self.path / "root.json"

    def _bundle_path(self, digest: str) -> Path:
        return self.path / "bundles" / digest

    def _part_path(self, bundle: str, sha256: str) -> Path:
        return self._bundle_path(bundle) / PARTS_FOLDER / sha256

    def _plan_path(self, digest: str) -> Path:
        return self.path / "plans" / f"{digest}.plan"

    def _write(self, path: Path, data: bytes) -> None:
        make_folders(path.parent, disk=self._disk)
        write_atomically(path, data, mode=0o600, disk=self._disk)

    def _write_once(self, path: Path, data: bytes, digest: str) -> None:
        """Write a file that is named by its content, unless it is there undamaged."""
        if path.exists() and file_digest(path) == digest:
            self._disk.flush(path.parent)  # whoever wrote it may have been killed before this
        else:
            self._write(path, data)

    def _share(self, source: Path, target: Path) -> None:
        make_folders(target.parent, disk=self._disk)
        with contextlib.suppress(FileNotFoundError):
            self._disk.remove(target)
        try:
            self._disk.link(source, target)
        except OSError:  # no hard links here
            self._write(target, source.read_bytes())
