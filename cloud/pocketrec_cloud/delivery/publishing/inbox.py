# SPDX-License-Identifier: Apache-2.0
"""Files that a publisher is sending, in a temporary folder that goes when the call ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pocketrec.errors import RejectedError
from pocketrec_quantization.bundle import PARTS_FOLDER
from pocketrec_quantization.limits import MAX_PARTS
from pocketrec_quantization.plan import DIGEST_BYTES

if TYPE_CHECKING:
    from hashlib import _Hash

    from pocketrec_proto.v1 import admin_service_pb2 as pb

__all__ = ["MAX_PIECE_BYTES", "Inbox", "open_inbox"]

MAX_PIECE_BYTES = 2**20
_MAX_FILES = MAX_PARTS + 3  # manifest, sensitivities, planner
_INVALID = "INVALID_ARGUMENT"


class Inbox:
    """Collects files piece by piece; not to be shared between threads.

    Whole files lie in the folder ``parts`` under the hex of their SHA-256, as in a bundle.

    Args:
        folder: Empty.
        max_bytes: Of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._hashes: dict[bytes, tuple[_Hash, int]] = {}
        (folder / PARTS_FOLDER).mkdir()

    def add(self, piece: pb.FilePiece) -> None:
        """Append a piece to its file.

        Raises:
            RejectedError: It is too large, does not follow the one before, or is one too many.
            OSError: It cannot be written.
        """
        if len(piece.sha256) != DIGEST_BYTES or len(piece.content) > MAX_PIECE_BYTES:
            raise RejectedError(
                f"expected a sha256 of {DIGEST_BYTES} bytes and at most {MAX_PIECE_BYTES} bytes "
                f"of content, got {len(piece.sha256)} and {len(piece.content)}",
                code=_INVALID,
            )
        digest, n_bytes = self._hashes.get(piece.sha256, (hashlib.sha256(), 0))
        if piece.offset_bytes != n_bytes:
            raise RejectedError(
                f"file {piece.sha256.hex()}: expected the piece at byte {n_bytes}, got the one at "
                f"byte {piece.offset_bytes}; send a file's pieces in order",
                code=_INVALID,
            )
        self._n_bytes += len(piece.content)
        if self._n_bytes > self._max_bytes or len(self._hashes) >= _MAX_FILES:
            raise RejectedError(
                f"expected at most {_MAX_FILES} files of {self._max_bytes} bytes together",
                code="RESOURCE_EXHAUSTED",
            )
        with self._path(piece.sha256).open("ab") as file:
            file.write(piece.content)
        digest.update(piece.content)
        self._hashes[piece.sha256] = (digest, n_bytes + len(piece.content))

    def holds(self, sha256: bytes) -> bool:
        """Whether a file came, whole.

        Raises:
            RejectedError: What came is not what its name says.
        """
        if sha256 not in self._hashes:
            return False
        digest, n_bytes = self._hashes[sha256]
        if digest.digest() != sha256:
            raise RejectedError(
                f"file {sha256.hex()}: the {n_bytes} bytes that came have SHA-256 "
                f"{digest.hexdigest()}; send it again",
                code=_INVALID,
            )
        return True

    def read(self, sha256: bytes, field: str) -> bytes:
        """Return a file's content.

        Args:
            sha256: Of the content.
            field: What the order calls it.

        Raises:
            RejectedError: It did not come, or is not what its name says.
            OSError: It cannot be read.
        """
        if not self.holds(sha256):
            raise RejectedError(f"{field}: the file {sha256.hex()} was not sent", code=_INVALID)
        return self._path(sha256).read_bytes()

    def _path(self, sha256: bytes) -> Path:
        return self.folder / PARTS_FOLDER / sha256.hex()


@contextmanager
def open_inbox(max_bytes: int) -> Iterator[Inbox]:
    """Lend an inbox; what it holds is gone after the block.

    Args:
        max_bytes: Of all files together.
    """
    with TemporaryDirectory(prefix="pocketrec-publish-") as folder:
        yield Inbox(Path(folder), max_bytes)
