# SPDX-License-Identifier: Apache-2.0
"""Disks that fail: at one operation, and with what such a failure costs.

A ``CutDisk`` ends everything at one operation, as a killed process or a lost battery does,
and knows what would be left. A ``RefusingDisk`` goes on, but the system refuses.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from pocketrec.files import SYSTEM_DISK

__all__ = ["CountingDisk", "Cut", "CutDisk", "ExitingDisk", "RefusingDisk", "Survivors"]


class Cut(BaseException):  # nothing that catches errors may catch it
    """The process is no more."""


class Survivors(StrEnum):
    """What is on the disk after a cut."""

    EVERYTHING = "everything"  # the process was killed: the system wrote what it had
    FLUSHED = "flushed"  # the power failed: what was not flushed is gone, names and contents
    NAMES = "names"  # the power failed: names were written in time, contents were not


class CountingDisk:
    """Passes every change on to the system's disk, and counts them.

    Attributes:
        n_operations: How many changes there were.
        n_free_bytes: How much room it claims to have.
        log: What they were.
    """

    def __init__(self) -> None:
        self.n_operations = 0
        self.n_free_bytes = 2**40
        self.log: list[str] = []

    def write(self, path: Path, content: bytes, mode: int) -> None:
        """See ``Disk.write``."""
        with self._operation("write", path, content):
            SYSTEM_DISK.write(path, content, mode)

    def append(self, path: Path, content: bytes) -> None:
        """See ``Disk.append``."""
        with self._operation("append", path, content):
            SYSTEM_DISK.append(path, content)

    def flush(self, path: Path) -> None:
        """See ``Disk.flush``."""
        with self._operation("flush", path):
            pass  # the model below stands in for the medium; no need to wear the real one

    def rename(self, source: Path, target: Path) -> None:
        """See ``Disk.rename``."""
        with self._operation("rename", target):
            SYSTEM_DISK.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        """See ``Disk.link``."""
        with self._operation("link", target):
            SYSTEM_DISK.link(source, target)

    def remove(self, path: Path) -> None:
        """See ``Disk.remove``."""
        with self._operation("remove", path):
            SYSTEM_DISK.remove(path)

    def make_folder(self, path: Path, mode: int) -> None:
        """See ``Disk.make_folder``."""
        with self._operation("make_folder", path):
            SYSTEM_DISK.make_folder(path, mode)

    def remove_folder(self, path: Path) -> None:
        """See ``Disk.remove_folder``."""
        with self._operation("remove_folder", path):
            SYSTEM_DISK.remove_folder(path)

    def free_bytes(self, folder: Path) -> int:
        """See ``Disk.free_bytes``."""
        return self.n_free_bytes

    @contextmanager
    def _operation(self, name: str, path: Path, content: bytes = b"") -> Iterator[None]:
        self.n_operations += 1
        self.log.append(f"{name} {path.name}")
        self._before(name, path, content)
        yield

    def _before(self, name: str, path: Path, content: bytes) -> None:
        """Fail, if this is the operation to fail at."""


class RefusingDisk(CountingDisk):
    """The system refuses one operation, and afterwards whatever such a disk cannot do.

    Args:
        fatal: Number of the first operation that fails, from 1; may be set later.
        code: ``ENOSPC`` fails what needs room, other codes fail everything.
    """

    def __init__(self, fatal: int, code: int) -> None:
        super().__init__()
        self.fatal = fatal
        self._code = code

    @property
    def has_failed(self) -> bool:
        """Whether there were operations enough."""
        return self.n_operations >= self.fatal

    def _before(self, name: str, path: Path, content: bytes) -> None:
        needs_room = name in {"write", "append", "make_folder", "link"}
        is_later = self.n_operations > self.fatal
        if self.has_failed and (needs_room or not is_later or self._code != errno.ENOSPC):
            raise OSError(self._code, os.strerror(self._code), str(path))


class ExitingDisk(CountingDisk):
    """The process ends at one operation, without a chance to clean up.

    Args:
        fatal: Number of the operation, from 1.
        status: Exit status of the process.
    """

    def __init__(self, fatal: int, status: int) -> None:
        super().__init__()
        self._fatal = fatal
        self._status = status

    def flush(self, path: Path) -> None:
        """See ``Disk.flush``."""
        super().flush(path)
        SYSTEM_DISK.flush(path)

    def _before(self, name: str, path: Path, content: bytes) -> None:
        if self.n_operations == self._fatal:
            _tear(name, path, content)
            os._exit(self._status)


@dataclass
class _File:
    """A file and what of it is on the medium."""

    flushed: bytes = b""


@dataclass
class _Folder:
    """A folder as it is, and what of it is on the medium."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    flushed: dict[str, _Entry] = field(default_factory=dict)


_Entry: TypeAlias = _File | _Folder


class CutDisk(CountingDisk):
    """Ends everything at one operation, and tells what a restart would find.

    Args:
        folder: The store; what is in it now is on the medium.
        fatal: Number of the operation, from 1; a write is torn in the middle.
    """

    def __init__(self, folder: Path, fatal: int) -> None:
        super().__init__()
        self._folder = folder
        self._fatal = fatal
        self._model = _Folder()
        if folder.exists():
            self._model.entries[folder.name] = _model_of(folder)
        self._model.flushed |= self._model.entries

    @property
    def was_cut(self) -> bool:
        """Whether there were operations enough."""
        return self.n_operations >= self._fatal

    def write(self, path: Path, content: bytes, mode: int) -> None:
        """See ``Disk.write``."""
        super().write(path, content, mode)
        self._parent(path).entries[path.name] = _File()

    def append(self, path: Path, content: bytes) -> None:
        """See ``Disk.append``."""
        super().append(path, content)
        self._parent(path).entries.setdefault(path.name, _File())

    def flush(self, path: Path) -> None:
        """See ``Disk.flush``."""
        super().flush(path)
        if path == self._folder.parent:
            entry: _Entry = self._model
        else:
            entry = self._parent(path).entries[path.name]
        if isinstance(entry, _File):
            entry.flushed = path.read_bytes()
        else:
            entry.flushed = dict(entry.entries)

    def rename(self, source: Path, target: Path) -> None:
        """See ``Disk.rename``."""
        super().rename(source, target)
        self._parent(target).entries[target.name] = self._parent(source).entries.pop(source.name)

    def link(self, source: Path, target: Path) -> None:
        """See ``Disk.link``."""
        super().link(source, target)
        self._parent(target).entries[target.name] = self._parent(source).entries[source.name]

    def remove(self, path: Path) -> None:
        """See ``Disk.remove``."""
        super().remove(path)
        self._parent(path).entries.pop(path.name, None)  # the model knows only what it saw

    def make_folder(self, path: Path, mode: int) -> None:
        """See ``Disk.make_folder``."""
        super().make_folder(path, mode)
        self._parent(path).entries[path.name] = _Folder()

    def remove_folder(self, path: Path) -> None:
        """See ``Disk.remove_folder``."""
        super().remove_folder(path)
        del self._parent(path).entries[path.name]

    def restart(self, survivors: Survivors, folder: Path) -> Path:
        """Return a new folder that holds what survives."""
        if survivors is Survivors.EVERYTHING:
            if self._folder.exists():
                shutil.copytree(self._folder, folder, symlinks=True)
            return folder
        root = self._model.flushed if survivors is Survivors.FLUSHED else self._model.entries
        if self._folder.name in root:
            _write_out(root[self._folder.name], folder, survivors)
        return folder

    def _before(self, name: str, path: Path, content: bytes) -> None:
        if self.n_operations == self._fatal:
            _tear(name, path, content)
        if self.was_cut:
            raise Cut

    def _parent(self, path: Path) -> _Folder:
        entry = self._model
        for name in path.relative_to(self._folder.parent).parts[:-1]:
            child = entry.entries[name]
            assert isinstance(child, _Folder)
            entry = child
        return entry


def _tear(name: str, path: Path, content: bytes) -> None:
    """Write the first half of what an operation was about to write."""
    if name in {"write", "append"}:
        SYSTEM_DISK.append(path, content[: len(content) // 2])


def _model_of(folder: Path) -> _Folder:
    entries: dict[str, _Entry] = {}
    for path in folder.iterdir():
        if not path.is_symlink():  # python-tuf makes one, for others to look at
            entries[path.name] = _model_of(path) if path.is_dir() else _File(path.read_bytes())
    return _Folder(entries, dict(entries))


def _write_out(entry: _Entry, path: Path, survivors: Survivors) -> None:
    if isinstance(entry, _File):
        path.write_bytes(entry.flushed)
        return
    path.mkdir()
    kept = entry.flushed if survivors is Survivors.FLUSHED else entry.entries
    for name, child in kept.items():
        _write_out(child, path / name, survivors)
