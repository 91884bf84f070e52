# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pocketrec.errors import (
    DiskFullError,
    IntegrityError,
    StoreAccessError,
    StoreError,
    StoreLockedError,
    StoreReadOnlyError,
)
from pocketrec_device.store import Store
from pocketrec_device.store_access import check_room, store_access

FOLDER = Path("/data/store")


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "error"),
        [
            (errno.ENOSPC, DiskFullError),
            (errno.EDQUOT, DiskFullError),
            (errno.EROFS, StoreReadOnlyError),
            (errno.EACCES, StoreReadOnlyError),
            (errno.EPERM, StoreReadOnlyError),
            (errno.EIO, StoreAccessError),
            (errno.EMFILE, StoreAccessError),
        ],
    )
    @pytest.mark.parametrize("name", [None, "/data/store/state.json", "/data"])
    def test_are_named(self, code: int, error: type[StoreError], name: str | None) -> None:
        """What the system said is kept, and what to do is added."""
        said = os.strerror(code)
        with (
            pytest.raises(error, match=rf"'/data/store'.*{said!r}.*(try again|check)") as caught,
            store_access(FOLDER),
        ):
            raise OSError(code, said, name)

        assert type(caught.value) is error
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == code
        assert isinstance(caught.value.__cause__, OSError)

    @pytest.mark.parametrize(
        "other",
        [
            FileNotFoundError(errno.ENOENT, "no such file", "/packaged/bundle/manifest.pb"),
            StoreLockedError("locked"),
            IntegrityError("damaged"),
            DiskFullError("full", needed_bytes=2, free_bytes=1),
        ],
    )
    def test_about_other_things_stay_as_they_are(self, other: Exception) -> None:
        """A packaged bundle is not the store, and what has a name keeps it."""
        with pytest.raises(type(other)) as caught, store_access(FOLDER):
            raise other

        assert caught.value is other


class TestRoom:
    def test_is_enough_when_it_is_just_enough(self) -> None:
        """The margin is in the number already."""
        check_room(10, 10, FOLDER)

    def test_names_both_numbers(self) -> None:
        """Needed and free, for people and for programs."""
        with pytest.raises(DiskFullError, match=r"expected 10 bytes free.*there are 7; free 3"):
            check_room(10, 7, FOLDER)
        with pytest.raises(DiskFullError) as caught:
            check_room(10, 7, FOLDER)

        assert (caught.value.needed_bytes, caught.value.free_bytes) == (10, 7)


class TestStore:
    def test_that_may_not_be_read_is_not_called_damaged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody is told to delete a store over a permission."""
        store = Store(tmp_path / "device")
        store.create("demo", None)

        def refuse(path: Path) -> bytes:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(StoreReadOnlyError, match="permissions"):
            store.load()

    def test_that_is_a_file_is_named(self, tmp_path: Path) -> None:
        """Whatever the system says, it is about the store."""
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreAccessError, match="file/device"):
            Store(tmp_path / "file" / "device").create("demo", None)
