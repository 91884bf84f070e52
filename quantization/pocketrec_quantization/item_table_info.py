# SPDX-License-Identifier: Apache-2.0
"""What a manifest says about the item table: its size, its version and its codebooks.

A table of one plain codebook names none, as in the first version of manifests.
``docs/format.md`` §7.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_proto.v1 import artifacts_pb2
from pocketrec_quantization.checks import check_integer
from pocketrec_quantization.codebook import ROW_WIDTHS
from pocketrec_quantization.item_table import ROW_BITS
from pocketrec_quantization.limits import MAX_CODEBOOKS, MAX_ITEMS, MAX_LAYER_SIDE

if TYPE_CHECKING:
    from pocketrec_quantization.item_table import ItemTable

__all__ = ["CodebookInfo", "ItemTableInfo", "items_from_proto", "items_to_proto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookInfo:
    """One codebook of a table.

    Args:
        n_rows: K, row 0 counted.
        bits: Of a code, 4 or 8.
        begin: Its first column.
        width: How many columns it covers.

    Raises:
        ConfigError: A field is outside its range.
    """

    n_rows: int
    bits: int
    begin: int
    width: int

    def __post_init__(self) -> None:
        check_integer(self.n_rows, field="codebook.n_rows", minimum=2, maximum=MAX_ITEMS + 1)
        if self.bits not in ROW_WIDTHS:
            raise ConfigError(f"codebook.bits: expected one of {ROW_WIDTHS}, got {self.bits!r:.80}")
        check_integer(self.width, field="codebook.width", minimum=1, maximum=MAX_LAYER_SIDE)
        check_integer(self.begin, field="codebook.begin", maximum=MAX_LAYER_SIDE - self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTableInfo:
    """What the manifest says about the item table.

    Args:
        n_items: V.
        n_rows: K of all codebooks together, their rows 0 counted; V + 1 when there is one
            and nothing is shared.
        row_bits: 8; where codebooks are named, their own widths count.
        version: Of the item table.
        codebooks: All of them; none for one of 8 bits with a scale per row.

    Raises:
        ConfigError: A field is outside its range, or they contradict each other.
    """

    n_items: int
    n_rows: int
    row_bits: int
    version: int
    codebooks: tuple[CodebookInfo, ...] = ()

    def __post_init__(self) -> None:
        check_integer(self.n_items, field="n_items", minimum=1, maximum=MAX_ITEMS)
        check_integer(self.n_rows, field="n_rows", minimum=2, maximum=MAX_ITEMS + 1)
        check_integer(self.row_bits, field="row_bits", minimum=ROW_BITS, maximum=ROW_BITS)
        check_integer(self.version, field="items.version")
        if len(self.codebooks) > MAX_CODEBOOKS:
            raise ConfigError(
                f"codebooks: expected at most {MAX_CODEBOOKS}, got {len(self.codebooks)}"
            )
        n_rows = sum(codebook.n_rows for codebook in self.codebooks)
        if self.codebooks and n_rows != self.n_rows:
            raise ConfigError(f"n_rows: expected {n_rows} as in the codebooks, got {self.n_rows}")

    @classmethod
    def of(cls, table: ItemTable) -> ItemTableInfo:
        """Return what a manifest must say about a table."""
        return cls(
            n_items=table.n_items,
            n_rows=table.n_rows,
            row_bits=ROW_BITS,
            version=table.version,
            codebooks=()
            if table.is_plain
            else tuple(
                CodebookInfo(n_rows=each.n_rows, bits=each.bits, begin=each.begin, width=each.width)
                for each in table.codebooks
            ),
        )


def items_to_proto(items: ItemTableInfo) -> artifacts_pb2.ItemTableInfo:
    """Return the message of a manifest."""
    return artifacts_pb2.ItemTableInfo(
        n_items=items.n_items,
        n_rows=items.n_rows,
        row_bits=items.row_bits,
        version=items.version,
        codebooks=[
            artifacts_pb2.Codebook(
                n_rows=each.n_rows, bits=each.bits, begin=each.begin, width=each.width
            )
            for each in items.codebooks
        ],
    )


def items_from_proto(message: artifacts_pb2.ItemTableInfo) -> ItemTableInfo:
    """Read the message of a manifest.

    Raises:
        ConfigError: A field is outside its range.
    """
    if len(message.codebooks) > MAX_CODEBOOKS:
        raise ConfigError(
            f"codebooks: expected at most {MAX_CODEBOOKS}, got {len(message.codebooks)}"
        )
    return ItemTableInfo(
        n_items=message.n_items,
        n_rows=message.n_rows,
        row_bits=message.row_bits,
        version=message.version,
        codebooks=tuple(
            CodebookInfo(n_rows=each.n_rows, bits=each.bits, begin=each.begin, width=each.width)
            for each in message.codebooks
        ),
    )
