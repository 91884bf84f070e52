# SPDX-License-Identifier: Apache-2.0
"""The sizes that every reader refuses to go beyond, in one table.

A reader compares a declared size with these before it allocates anything.
``docs/format.md`` lists the same numbers; a test keeps the two equal.
Source: our choice.
"""

from __future__ import annotations

__all__ = [
    "MAX_ASSIGNMENT_BYTES",
    "MAX_CODEBOOKS",
    "MAX_DEVICE_ID_LENGTH",
    "MAX_DIMENSION",
    "MAX_INTEGER",
    "MAX_ITEMS",
    "MAX_ITEM_ID_BYTES",
    "MAX_LAYERS",
    "MAX_LAYER_SIDE",
    "MAX_MANIFEST_BYTES",
    "MAX_NAME_LENGTH",
    "MAX_PARTS",
    "MAX_PART_BYTES",
    "MAX_PLAN_BYTES",
    "MAX_RANK",
    "MAX_SUBJECT_LENGTH",
    "MAX_TENSORS",
    "MAX_TENSOR_HEADER_BYTES",
    "MAX_TEXT_LENGTH",
    "MAX_TOTAL_CHANNELS",
    "MAX_VECTOR_CASES",
    "MAX_WITHDRAWN",
]

MAX_INTEGER = 2**53 - 1
"""Versions, times and budgets: exact in JSON numbers and in signed 64 bits."""

MAX_NAME_LENGTH = 64
"""Characters of the name of a layer, part, tensor owner, planner or model."""

MAX_SUBJECT_LENGTH = 128
"""Characters of a plan's subject."""

MAX_TEXT_LENGTH = 1024
"""Characters of free text: license and producer."""

MAX_LAYERS = 1024
"""Coded matrices of one model."""

MAX_LAYER_SIDE = 2**16
"""Output channels of one matrix, and elements of one channel."""

MAX_TOTAL_CHANNELS = 2**20
"""Channels of one model: codes take at most 256 KiB."""

MAX_PLAN_BYTES = 2**19
"""A plan container: header (64 KiB), codes (256 KiB) and signature fit with room."""

MAX_MANIFEST_BYTES = 2**20
"""manifest.pb of a bundle."""

MAX_PARTS = 64
"""Parts of one bundle."""

MAX_PART_BYTES = 2**31
"""One part of a bundle."""

MAX_TENSOR_HEADER_BYTES = 2**20
"""The JSON header of a tensor file."""

MAX_TENSORS = 8192
"""Tensors of one tensor file."""

MAX_RANK = 4
"""Dimensions of one tensor."""

MAX_DIMENSION = 2**31 - 1
"""Entries along one dimension of a tensor."""

MAX_ITEMS = 2**24
"""Items of a catalogue; its codebooks have at most one row more together."""

MAX_CODEBOOKS = 256
"""Codebooks of one item table."""

MAX_ITEM_ID_BYTES = 256
"""UTF-8 bytes of one item id."""

MAX_VECTOR_CASES = 64
"""Cases of the test vectors part."""

MAX_DEVICE_ID_LENGTH = 64
"""Characters of a device's id."""

MAX_WITHDRAWN = 64
"""Bundles that one assignment takes back."""

MAX_ASSIGNMENT_BYTES = 2**12
"""An assignment container: header and signature fit with room."""
