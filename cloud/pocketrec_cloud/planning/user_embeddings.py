# SPDX-License-Identifier: Apache-2.0
"""A file of user embeddings: Parquet with the columns ``subject`` and ``embedding``.

``subject`` is text, the pseudonym that a plan is for, each one once; ``embedding`` is a list
of D float32, what the bundle's extractor makes of that subject's history. Other columns are
ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pocketrec.errors import DataError
from pocketrec.files import write_atomically
from pocketrec_quantization.limits import MAX_SUBJECT_LENGTH

__all__ = ["UserEmbeddingFile", "write_user_embeddings"]

_SUBJECT, _EMBEDDING = "subject", "embedding"


def write_user_embeddings(
    path: Path, subjects: Sequence[str], embeddings: NDArray[np.float32], *, group: int = 65_536
) -> None:
    """Write a file of user embeddings, whole or not at all.

    Args:
        path: The file.
        subjects: U pseudonyms.
        embeddings: (U, D) float32.
        group: Users of a row group: what a reader takes into memory at once.

    Raises:
        OSError: The file cannot be written.
    """
    flat = pa.array(np.ascontiguousarray(embeddings, np.float32).ravel())
    columns = {
        _SUBJECT: pa.array(subjects, pa.string()),
        _EMBEDDING: pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=group)
    write_atomically(path, sink.getvalue().to_pybytes())


@dataclass(frozen=True, slots=True)
class UserEmbeddingFile:
    """A file whose columns were checked.

    Attributes:
        path: Where it lies.
        n_users: U.
        starts: First user of every row group, and U.
    """

    path: Path
    n_users: int
    starts: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> UserEmbeddingFile:
        """Look at a file's columns and subjects, but not at its embeddings.

        Raises:
            DataError: It is no sound Parquet file, a column is absent or of another type, or a
                subject is empty, too long, or there twice.
            OSError: The file cannot be read.
        """
        with path.open("rb"):  # what the system refuses; for PyArrow damage is an OSError too
            pass
        try:
            with pq.ParquetFile(path) as file:
                _check_schema(path, file.schema_arrow)
                subjects = file.read(columns=[_SUBJECT])[_SUBJECT]
                groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"expected a sound Parquet file: {error}", path=str(path)) from error
        _check_subjects(path, subjects)
        return cls(path, len(subjects), tuple(np.cumsum([0, *groups]).tolist()))

    def read(self, start: int, stop: int) -> tuple[list[str], NDArray[np.float32]]:
        """Return some users: their subjects, and (B, D) float32.

        Args:
            start: The first one, from 0.
            stop: The one after the last.

        Raises:
            DataError: The file is damaged, or an embedding is absent or of another length
                than the others.
            OSError: The file cannot be read.
        """
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        try:
            with pq.ParquetFile(self.path) as file:
                groups = list(range(first, last))
                table = file.read_row_groups(groups, columns=[_SUBJECT, _EMBEDDING])
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"expected a sound Parquet file: {error}", path=str(self.path)
            ) from error
        rows = table.slice(start - self.starts[first], stop - start)
        return rows[_SUBJECT].to_pylist(), self._matrix(rows[_EMBEDDING], start)

    def _matrix(self, column: Any, start: int) -> NDArray[np.float32]:
        """Return (B, D) float32."""
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(~(lengths == lengths[0])) if len(lengths) else lengths
        values = pc.list_flatten(column)
        if len(wrong) or values.null_count:
            row = start + int(wrong[0]) + 1 if len(wrong) else None
            raise DataError(
                "expected embeddings of one length, without nulls", path=str(self.path), line=row
            )
        flat: NDArray[np.float32] = values.to_numpy()
        return flat.reshape(len(column), -1)


def _check_schema(path: Path, schema: Any) -> None:
    def type_of(name: str) -> Any:
        if name not in schema.names:
            raise DataError(
                f"expected the columns {_SUBJECT!r} and {_EMBEDDING!r}, found "
                f"{', '.join(schema.names)}",
                path=str(path),
            )
        return schema.field(name).type

    subject, embedding = type_of(_SUBJECT), type_of(_EMBEDDING)
    if not (pa.types.is_string(subject) or pa.types.is_large_string(subject)):
        raise DataError(f"expected text in {_SUBJECT!r}, found {subject}", path=str(path))
    is_list = pa.types.is_fixed_size_list(embedding) or pa.types.is_list(embedding)
    if not is_list or not pa.types.is_float32(embedding.value_type):
        raise DataError(
            f"expected lists of float32 in {_EMBEDDING!r}, found {embedding}", path=str(path)
        )


def _check_subjects(path: Path, subjects: Any) -> None:
    if not len(subjects):
        raise DataError("expected at least one user, found none", path=str(path))
    lengths = pc.fill_null(pc.utf8_length(subjects), 0)
    is_wrong = pc.or_(pc.equal(lengths, 0), pc.greater(lengths, MAX_SUBJECT_LENGTH))
    row = pc.index(is_wrong, value=True).as_py()
    if row >= 0:
        raise DataError(
            f"expected a subject of 1 to {MAX_SUBJECT_LENGTH} characters",
            path=str(path),
            line=row + 1,
        )
    if pc.count_distinct(subjects).as_py() != len(subjects):
        raise DataError("expected every subject once, found one twice", path=str(path))
