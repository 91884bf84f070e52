# SPDX-License-Identifier: Apache-2.0
"""The device's folder: bundles, plans and the state that says which of them run.

::

    STORE/
      state.json            what runs now and before, floors, token (state.py)
      state.backup.json     the same content, written before it; read if state.json is damaged
      root.json             the TUF root of trust the app was shipped with
      bundles/<digest>/     manifest.pb and parts/<sha256>; complete once manifest.pb is there
      plans/<sha256>.plan
      downloads/<sha256>.part     parts on their way, resumed by length
      tuf/                  verified TUF metadata
      lock                  held by the one writer

Nothing is changed in place. A file appears whole or not at all (temporary file, fsync,
rename, fsync of the folder), artifacts before the state that names them, and only files
that no state names are deleted. So at every instant, also after a power cut, the state
on disk names artifacts that are complete. Parts that two bundles share are hard links
to one file where the file system has them.

``on_step`` is called before every change on disk with the name of the step; it exists
so that tests can cut the power there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pocketrec.errors import IntegrityError, MalformedArtifactError, StoreError
from pocketrec.files import write_atomically
from pocketrec_device.downloads import Downloads, StepHook, file_digest, no_step
from pocketrec_device.lock import writer_lock
from pocketrec_device.state import DeviceState, decode_state, encode_state
from pocketrec_device.updater import check_root
from pocketrec_quantization.bundle import MANIFEST_FILE, PARTS_FOLDER, BundleFolder
from pocketrec_quantization.checks import check_name

__all__ = ["Store"]


class Store:
    """One store folder. Reading needs no lock; every change is made inside ``writing``.

    Args:
        path: The folder.
        on_step: Called before each change on disk, with the step's name.

    Attributes:
        downloads: Parts on their way.
    """

    def __init__(self, path: str | Path, *, on_step: StepHook = no_step) -> None:
        self.path = Path(path)
        self.downloads = Downloads(self.path / "downloads", on_step=on_step)
        self._on_step = on_step

    @property
    def tuf_folder(self) -> Path:
        """Where verified TUF metadata is kept."""
        return self.path / "tuf"

    def create(self, model: str, root: bytes | None) -> None:
        """Make the folder, or leave it as it is when it already follows ``model``.

        Args:
            model: The model line to follow.
            root: TUF root metadata; kept only if the store has none yet.

        Raises:
            ConfigError: ``model`` is no name, or ``root`` is no TUF root metadata.
            StoreError: The folder follows another model, or cannot be read.
            StoreLockedError: Another writer is at work.
            OSError: The folder cannot be written.
        """
        check_name(model, field="model")
        if not self.exists() or (root is not None and not self._root_path.exists()):
            if root is not None:
                check_root(root)
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.writing():
                if root is not None and not self._root_path.exists():
                    self._write(self._root_path, root)
                if not self.exists():
                    self.save(DeviceState(model=model))
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
            StoreError: There is no such folder.
        """
        if not self.path.is_dir():
            raise self._absent()
        with writer_lock(self.path / "lock"):
            yield

    def load(self) -> DeviceState:
        """Return the state, from the backup when the first copy is damaged.

        Raises:
            StoreError: There is no state, or both copies are damaged.
        """
        if not self.exists():
            raise self._absent()
        problems = []
        for path in (self._state_path, self._backup_path):
            try:
                return decode_state(path.read_bytes())
            except (MalformedArtifactError, OSError) as exc:
                problems.append(f"{path.name}: {exc}")
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
            StoreError: The store was created without one.
        """
        if not self._root_path.exists():
            raise StoreError(
                f"the store at {str(self.path)!r} has no root of trust; pass root= and model= to "
                "Runtime.create, or --root and --model to the command"
            )
        return self._root_path.read_bytes()

    def open_bundle(self, digest: str) -> BundleFolder:
        """Return an installed bundle; its parts are verified as they are read.

        Raises:
            StoreError: It is not there.
            IntegrityError: Its manifest is not the one the digest names.
            ArtifactError: Its manifest cannot be read.
        """
        folder = self._bundle_path(digest)
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
            IntegrityError: Its content has changed.
        """
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
        self._write_once(self._bundle_path(digest) / MANIFEST_FILE, data, digest)
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

    def prune(self, state: DeviceState) -> None:
        """Delete everything that ``state`` does not name, half-written files included.

        Raises:
            OSError: Something cannot be deleted.
        """
        self._on_step("prune")
        pairs = [pair for pair in (state.current, state.previous) if pair is not None]
        for folder, names in (
            ("bundles", {pair.bundle for pair in pairs}),
            ("plans", {f"{pair.plan}.plan" for pair in pairs}),
            ("downloads", set[str]()),
        ):
            for path in self.path.glob(f"{folder}/*"):
                if path.name not in names:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for half_written in self.path.rglob(".*"):  # by a writer that was killed
            half_written.unlink()

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
        path.parent.mkdir(parents=True, exist_ok=True)
        self._on_step(f"write {path.name}")
        write_atomically(path, data, mode=0o600)

    def _write_once(self, path: Path, data: bytes, digest: str) -> None:
        """Write a file that is named by its content, unless it is there undamaged."""
        if not path.exists() or file_digest(path) != digest:
            self._write(path, data)

    def _share(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._on_step(f"share {target.name}")
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # no hard links here
            write_atomically(target, source.read_bytes(), mode=0o600)
