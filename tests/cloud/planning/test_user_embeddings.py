# SPDX-License-Identifier: Apache-2.0
"""What the file of user embeddings may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.quantization.hypernetwork_samples import random_users

from pocketrec.errors import DataError
from pocketrec_cloud.planning.user_embeddings import UserEmbeddingFile, write_user_embeddings

F32 = pa.float32()


def write(path: Path, subjects: list[Any], embeddings: Any, kind: Any = None) -> Path:
    """Write two columns as they are."""
    columns = {
        "subject": pa.array(subjects),
        "embedding": pa.array(embeddings, kind or pa.list_(F32)),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(("start", "stop"), [(0, 20), (0, 1), (4, 5), (3, 13), (19, 20), (5, 10)])
def test_any_part_of_it_can_be_read(tmp_path: Path, start: int, stop: int) -> None:
    """Across row groups, and at their borders."""
    subjects, users = [f"u{n}" for n in range(20)], random_users(20)
    write_user_embeddings(tmp_path / "users.parquet", subjects, users, group=5)

    file = UserEmbeddingFile.open(tmp_path / "users.parquet")
    found_subjects, found = file.read(start, stop)

    assert file.n_users == 20
    assert found_subjects == subjects[start:stop]
    np.testing.assert_array_equal(found, users[start:stop])


def test_lists_of_any_length_will_do_if_they_are_alike(tmp_path: Path) -> None:
    """Not every writer knows lists of a fixed size."""
    path = write(tmp_path / "u.parquet", ["a", "b"], [[1.0, 2.0], [3.0, 4.0]])

    assert UserEmbeddingFile.open(path).read(0, 2)[1].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("embeddings", "line"), [([[1.0], [2.0, 3.0]], 2), ([[1.0], None], 2), ([[1.0], [None]], None)]
)
def test_embeddings_have_one_length(tmp_path: Path, embeddings: Any, line: int | None) -> None:
    """The error names the row."""
    path = write(tmp_path / "u.parquet", ["a", "b"], embeddings)

    with pytest.raises(DataError, match="embeddings of one length") as error:
        UserEmbeddingFile.open(path).read(0, 2)

    assert error.value.line == line


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        (["a", ""], "subject of 1 to 128"),
        (["a", None], "subject of 1 to 128"),
        (["a", "x" * 129], "subject of 1 to 128"),
        (["a", "a"], "every subject once"),
        ([], "at least one user"),
        ([1, 2], "expected text in 'subject'"),
    ],
)
def test_subjects_are_pseudonyms(tmp_path: Path, subjects: list[Any], message: str) -> None:
    """Text, there once."""
    kind = None if subjects else pa.string()
    columns = {
        "subject": pa.array(subjects, kind),
        "embedding": pa.array([[1.0]] * len(subjects), pa.list_(F32)),
    }
    pq.write_table(pa.table(columns), tmp_path / "u.parquet")

    with pytest.raises(DataError, match=message):
        UserEmbeddingFile.open(tmp_path / "u.parquet")


def test_embeddings_are_float32(tmp_path: Path) -> None:
    """Nothing is converted behind one's back."""
    path = write(tmp_path / "u.parquet", ["a"], [[1.0]], pa.list_(pa.float64()))

    with pytest.raises(DataError, match="lists of float32"):
        UserEmbeddingFile.open(path)


def test_both_columns_are_needed(tmp_path: Path) -> None:
    """The error names those that are there."""
    pq.write_table(pa.table({"subject": ["a"], "z": [[1.0]]}), tmp_path / "u.parquet")

    with pytest.raises(DataError, match="found subject, z"):
        UserEmbeddingFile.open(tmp_path / "u.parquet")


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """Whatever it is; a file that is not there is the system's error."""
    (tmp_path / "u.parquet").write_bytes(b"PAR1 and no more")

    with pytest.raises(DataError, match="sound Parquet"):
        UserEmbeddingFile.open(tmp_path / "u.parquet")
    with pytest.raises(FileNotFoundError):
        UserEmbeddingFile.open(tmp_path / "none.parquet")
