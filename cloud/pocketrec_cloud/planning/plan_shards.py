# SPDX-License-Identifier: Apache-2.0
"""Unsigned plans of many users in one Parquet file, and one of them as a ``Plan``.

A row holds what differs between users; what does not is the file's metadata. Nothing is
signed here: a server's director signs what it sends, when it sends it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pocketrec.errors import DataError
from pocketrec_quantization.bitpack import unpack_codes
from pocketrec_quantization.checks import reading
from pocketrec_quantization.layer_text import layers_from_text, layers_to_text
from pocketrec_quantization.layers import LayerTable, total_channels
from pocketrec_quantization.levels import LevelTable
from pocketrec_quantization.plan import Plan, model_id

__all__ = ["PlanShard", "ShardHeader", "shard_to_bytes"]

_KEY = b"pocketrec.plans"
_SCHEMA = "pocketrec.plans/1"
_SUBJECT, _CODES, _BUDGET, _PLANNER = "subject", "codes", "budget_bytes", "planner"
_COLUMNS = (_SUBJECT, _CODES, _BUDGET, _PLANNER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHeader:
    """What all plans of a shard have in common.

    Attributes:
        model_digest: 32 bytes, SHA-256 of the frozen part.
        layers: The model's layers.
        levels: What the codes mean in bits.
        planner: The planner's name.
        budget_bytes: What each plan stays within.
    """

    model_digest: bytes
    layers: LayerTable
    levels: LevelTable
    planner: str
    budget_bytes: int


def shard_to_bytes(header: ShardHeader, subjects: Sequence[str], codes: NDArray[np.uint8]) -> bytes:
    """Return a shard's file; equal arguments give equal bytes.

    Args:
        header: What the plans have in common.
        subjects: B pseudonyms.
        codes: (B, C_total) uint8, codes 1..3.
    """
    n_users = len(subjects)
    facts = {
        "schema": _SCHEMA,
        "model_digest": header.model_digest.hex(),
        "levels": list(header.levels.bits),
        "layers": layers_to_text(header.layers),
    }
    packed = _packed(codes)
    names = pa.DictionaryArray.from_arrays(np.zeros(n_users, np.int32), [header.planner])
    table = pa.table(
        {
            _SUBJECT: pa.array(subjects, pa.string()),
            _CODES: pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(packed.shape[1]), n_users, [None, pa.py_buffer(packed)]
            ),
            _BUDGET: pa.array(np.full(n_users, header.budget_bytes, np.int64)),
            _PLANNER: names,
        }
    ).replace_schema_metadata({_KEY: json.dumps(facts)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


class PlanShard:
    """One file of plans, read whole.

    Args:
        path: The file.

    Raises:
        DataError: It is no shard of plans.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb"):  # what the system refuses; for PyArrow damage is an OSError too
            pass
        try:
            table = pq.read_table(path)
            facts = json.loads((table.schema.metadata or {})[_KEY])
            if facts["schema"] != _SCHEMA or not set(_COLUMNS) <= set(table.column_names):
                raise DataError(f"expected {_SCHEMA} with {', '.join(_COLUMNS)}", path=str(path))
            with reading("layers"):
                self.layers = layers_from_text(facts["layers"])
                self.levels = LevelTable(tuple(facts["levels"]))
            self.model_digest = bytes.fromhex(facts["model_digest"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"expected a shard of plans: {error}", path=str(path)) from error
        self._columns = {name: table[name].to_pylist() for name in _COLUMNS}

    @property
    def subjects(self) -> Sequence[str]:
        """Whom its plans are for, in order."""
        subjects: Sequence[str] = self._columns[_SUBJECT]
        return subjects

    def codes(self) -> NDArray[np.uint8]:
        """Return (B, C_total) uint8, the codes of all plans.

        Raises:
            MalformedArtifactError: Codes have another length, or bits after the last one.
        """
        n_channels = total_channels(self.layers)
        rows = [unpack_codes(row, n_channels) for row in self._columns[_CODES]]
        return np.array(rows, np.uint8).reshape(len(rows), n_channels)

    def plan(self, row: int, *, issued_at_s: int, expires_at_s: int = 0) -> Plan:
        """Return one row as an unsigned plan of version 0.

        Whoever delivers it puts a version above the device's and their key id, and signs it:
        ``encode_plan(replace(plan, version=..., key_id=...), key.sign)``.

        Args:
            row: From 0.
            issued_at_s: Unix seconds.
            expires_at_s: Unix seconds; 0 = never.

        Raises:
            MalformedArtifactError: The row's codes are none.
            ConfigError: Another field of the row, or a time, is out of bounds.
        """
        column = self._columns
        return Plan(
            model_id=model_id(self.model_digest),
            levels=self.levels,
            layers=self.layers,
            codes=unpack_codes(column[_CODES][row], total_channels(self.layers)),
            budget_bytes=column[_BUDGET][row],
            subject=column[_SUBJECT][row],
            planner=column[_PLANNER][row],
            version=0,
            issued_at_s=issued_at_s,
            expires_at_s=expires_at_s,
            key_id=b"",
        )


def _packed(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (B, ceil(C / 4)) uint8: every row as ``pack_codes`` would."""
    n_users, n_channels = codes.shape
    quads = np.pad(codes, ((0, 0), (0, -n_channels % 4))).reshape(n_users, -1, 4)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(
        quads << np.array([0, 2, 4, 6], np.uint8), axis=2
    )
    return packed
