# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from pocketrec.files import SYSTEM_DISK, make_folders, write_atomically


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with an old content, alone in its folder."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def fail(*_: object) -> None:
    """Stand in for a system call that fails."""
    raise OSError(28, "no space left on device")


def test_content_is_replaced(path: Path) -> None:
    """The file holds the new content, and nothing else is left in the folder."""
    write_atomically(path, b"new")

    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_is_made(tmp_path: Path) -> None:
    """There need not be an old content."""
    write_atomically(tmp_path / "file", b"")

    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_the_one_asked_for(path: Path, mode: int) -> None:
    """Keys stay private although the old file was open to everybody."""
    path.chmod(0o666)

    write_atomically(path, b"new", mode=mode)

    assert path.stat().st_mode & 0o777 == mode


def test_a_failed_flush_keeps_the_old_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old file as it was, and no temporary file."""
    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_rename_keeps_the_old_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step may fail too."""
    monkeypatch.setattr(Path, "replace", fail)

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupt_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle is no error, yet it cleans up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")

    assert list(path.parent.iterdir()) == [path]


def test_the_content_is_on_disk_before_the_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is flushed, then renamed, then the folder is flushed."""
    steps = []
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def logged_replace(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)

    write_atomically(path, b"new")

    assert steps == ["fsync", "replace", "fsync"]


def test_the_folder_must_exist(tmp_path: Path) -> None:
    """A missing folder is the caller's to make."""
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"new")


class TestFolders:
    def test_are_made_with_all_above(self, tmp_path: Path) -> None:
        """Every one that is absent; the permission bits are for the last."""
        make_folders(tmp_path / "a" / "b" / "c", mode=0o700)
        make_folders(tmp_path / "a" / "b" / "c")

        assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700

    def test_survive_a_power_cut(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each new name is flushed in the folder it was given in."""
        flushed = []
        monkeypatch.setattr(type(SYSTEM_DISK), "flush", lambda _, path: flushed.append(path))

        make_folders(tmp_path / "a" / "b")

        assert flushed == [tmp_path, tmp_path / "a"]

    def test_cannot_be_made_below_a_file(self, path: Path) -> None:
        """The system's error comes through."""
        with pytest.raises(NotADirectoryError):
            make_folders(path / "folder")


class TestDisk:
    def test_does_what_it_says(self, tmp_path: Path) -> None:
        """One call each."""
        first, second, folder = tmp_path / "first", tmp_path / "second", tmp_path / "folder"

        SYSTEM_DISK.append(first, b"a")
        SYSTEM_DISK.append(first, b"b")
        SYSTEM_DISK.link(first, second)
        SYSTEM_DISK.remove(first)
        SYSTEM_DISK.make_folder(folder, 0o700)
        SYSTEM_DISK.rename(second, folder / "third")
        SYSTEM_DISK.flush(folder)

        assert (folder / "third").read_bytes() == b"ab"
        assert (folder / "third").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]
        SYSTEM_DISK.remove(folder / "third")
        SYSTEM_DISK.remove_folder(folder)
        assert SYSTEM_DISK.free_bytes(tmp_path) > 0

    def test_never_overwrites(self, path: Path) -> None:
        """A new file is new."""
        with pytest.raises(FileExistsError):
            SYSTEM_DISK.write(path, b"new", 0o600)
