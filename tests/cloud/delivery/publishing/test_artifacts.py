# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketrec.errors import ConfigError, StoreAccessError
from pocketrec_cloud.delivery.publishing.artifacts import (
    ArtifactStore,
    BucketArtifacts,
    FolderArtifacts,
    is_bucket_url,
    open_artifacts,
)

NAME = "metadata/timestamp.json"


@pytest.fixture(params=["folder", "bucket"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty store of each kind."""
    if request.param == "folder":
        return open_artifacts(tmp_path / "not" / "made" / "yet")
    return open_artifacts(request.getfixturevalue("bucket"))


class TestContract:
    """What every kind of store promises."""

    def test_what_was_written_is_read(self, artifacts: ArtifactStore) -> None:
        """Content and length come back."""
        artifacts.write(NAME, b"content")

        assert artifacts.read(NAME) == b"content"
        assert artifacts.size_bytes(NAME) == 7

    def test_file_is_replaced_whole(self, artifacts: ArtifactStore) -> None:
        """A shorter content leaves nothing of a longer one."""
        artifacts.write(NAME, b"a longer content")
        artifacts.write(NAME, b"short")

        assert artifacts.read(NAME) == b"short"

    def test_empty_file_is_a_file(self, artifacts: ArtifactStore) -> None:
        """Zero bytes are content, too."""
        artifacts.write(NAME, b"")

        assert artifacts.size_bytes(NAME) == 0
        assert artifacts.read(NAME) == b""
        assert artifacts.read_range(NAME, 0, 0) == b""

    def test_absent_file_is_told_apart(self, artifacts: ArtifactStore) -> None:
        """What is not there raises, or is None, and lists are empty."""
        with pytest.raises(FileNotFoundError):
            artifacts.read(NAME)
        with pytest.raises(FileNotFoundError):
            artifacts.read_range(NAME, 0, 1)
        assert artifacts.size_bytes(NAME) is None
        assert artifacts.stamp(NAME) == ()
        assert artifacts.names("metadata") == []

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [(0, 4, b"0123"), (3, 2, b"34"), (8, 5, b"89"), (9, 1, b"9"), (4, 0, b"")],
    )
    def test_piece_is_read(
        self, offset: int, length: int, expected: bytes, artifacts: ArtifactStore
    ) -> None:
        """A piece ends where the file does."""
        artifacts.write(NAME, b"0123456789")

        assert artifacts.read_range(NAME, offset, length) == expected

    def test_names_are_those_directly_below(self, artifacts: ArtifactStore) -> None:
        """Other folders, and folders below, do not count."""
        for name in ("metadata/b", "metadata/a", "metadata/deep/c", "targets/d"):
            artifacts.write(name, b"x")

        assert artifacts.names("metadata") == ["a", "b"]

    def test_folder_is_no_file(self, artifacts: ArtifactStore) -> None:
        """What only has files below it has no content."""
        artifacts.write(NAME, b"content")

        with pytest.raises(OSError, match="metadata"):
            artifacts.read("metadata")

    def test_stamp_changes_with_the_content(self, artifacts: ArtifactStore) -> None:
        """Who wrote a file sees at once that it is another one."""
        artifacts.write(NAME, b"1")
        first = artifacts.stamp(NAME)
        again = artifacts.stamp(NAME)
        artifacts.write(NAME, b"2")

        assert first == again != ()
        assert artifacts.stamp(NAME) not in {first, ()}

    @pytest.mark.parametrize(
        "name", ["", "/etc", "../up", "a/../b", "a//b", ".hidden", "a/", "a\\b"]
    )
    def test_what_is_no_name_is_refused(self, name: str, artifacts: ArtifactStore) -> None:
        """No name leads out of the store."""
        for method in (artifacts.read, artifacts.size_bytes, artifacts.stamp, artifacts.names):
            with pytest.raises(ConfigError, match="relative name"):
                method(name)
        with pytest.raises(ConfigError, match="relative name"):
            artifacts.write(name, b"")

    def test_threads_share_it(self, artifacts: ArtifactStore) -> None:
        """Readers beside a writer see one of its contents, whole."""
        contents = [bytes([number]) * 5000 for number in range(8)]
        artifacts.write(NAME, contents[0])

        with ThreadPoolExecutor(4) as pool:
            reads = [pool.submit(artifacts.read, NAME) for _ in range(8)]
            for content in contents:
                artifacts.write(NAME, content)
            seen = {read.result() for read in reads}

        assert seen <= set(contents)
        assert artifacts.read(NAME) == contents[-1]


class TestFolder:
    def test_interrupted_write_leaves_no_name(self, tmp_path: Path) -> None:
        """A temporary file that a power cut left behind is nobody's content."""
        artifacts = FolderArtifacts(tmp_path)
        artifacts.write("targets/a", b"x")
        (tmp_path / "targets" / ".b.0123abcd").write_bytes(b"half")

        assert artifacts.names("targets") == ["a"]

    def test_url_is_the_path(self, tmp_path: Path) -> None:
        """Messages name the folder."""
        assert open_artifacts(str(tmp_path)).url == str(tmp_path)


@dataclass
class Seconds:
    """A clock that stands still."""

    now_s: float = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


class TestBucket:
    def test_stamp_of_another_writer_is_seen_in_time(self, bucket: str) -> None:
        """A stamp is asked for again once its time is over, and not before."""
        clock = Seconds()
        writer = open_artifacts(bucket)
        assert isinstance(writer, BucketArtifacts)
        reader = BucketArtifacts(
            writer._filesystem, bucket.removeprefix("s3://"), url=bucket, clock=clock
        )
        writer.write(NAME, b"1")
        first = reader.stamp(NAME)
        writer.write(NAME, b"2")

        assert reader.stamp(NAME) == first
        clock.now_s += 1.0
        assert reader.stamp(NAME) != first

    def test_absent_bucket_is_named(self, bucket: str) -> None:
        """A write says what is missing."""
        with pytest.raises(StoreAccessError, match="no such bucket"):
            open_artifacts("s3://no-such-bucket/store").write(NAME, b"x")

    def test_refused_credentials_are_a_store_error(self, bucket: str) -> None:
        """What the library raises becomes an error of ours that names the file."""
        artifacts = open_artifacts(bucket)
        assert isinstance(artifacts, BucketArtifacts)
        refusing = BucketArtifacts(_Refusing(), "bucket/store", url=bucket)

        with pytest.raises(StoreAccessError, match=r"timestamp\.json: the bucket does not answer"):
            refusing.read(NAME)

    @pytest.mark.parametrize("store", ["s3://", "s3:///prefix", "gs://bucket", "https://host/x"])
    def test_other_urls_are_refused(self, store: str) -> None:
        """The message says what is expected."""
        with pytest.raises(ConfigError, match="s3://BUCKET/PREFIX"):
            open_artifacts(store)

    def test_urls_are_told_from_folders(self, tmp_path: Path) -> None:
        """A path is a folder, whatever it is called."""
        assert is_bucket_url("s3://bucket")
        assert not is_bucket_url(tmp_path / "s3")


class _Refusing:
    """A file system that lets nobody in."""

    def cat_file(self, path: str) -> bytes:
        """Refuse."""
        raise PermissionError(13, "Access Denied")
