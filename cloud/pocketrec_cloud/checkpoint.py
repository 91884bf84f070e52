# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: safetensors with the model's configuration in their header."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pocketrec.errors import ConfigError, IncompatibleArtifactError, MalformedArtifactError
from pocketrec.files import write_atomically
from pocketrec_cloud.backbones.registry import KINDS, make_backbone
from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_cloud.compression.layout import layout_fields, layout_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pocketrec_cloud.backbones.base import Backbone, BackboneShape

__all__ = [
    "TABLE",
    "backbone_of",
    "backbone_state",
    "load_backbone",
    "read_tensors",
    "save_backbone",
    "table_entry",
    "write_tensors",
]

TABLE = "item_table"
"""The header entry with a table's layout, in files of models with codebooks."""


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, object]) -> None:
    """Write tensors and a JSON-able header, whole or not at all.

    Args:
        path: Where to; replaced atomically.
        tensors: Named tensors of any dtype.
        metadata: Values that JSON can hold.
    """
    header = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata=header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Read what ``write_tensors`` wrote.

    Args:
        path: A safetensors file.

    Returns:
        The tensors and the header.

    Raises:
        MalformedArtifactError: The file is not safetensors, or its header not ours.
        OSError: The file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            header = file.metadata() or {}
        return tensors, {key: json.loads(value) for key, value in header.items()}
    except (SafetensorError, ValueError) as error:
        raise MalformedArtifactError(
            f"expected a pocketrec checkpoint in safetensors format, found {error}; "
            "train again or name another file",
            field=str(path),
        ) from error


def save_backbone(
    path: Path, model: Backbone, item_ids: tuple[str, ...], metadata: dict[str, object]
) -> None:
    """Write a model with everything needed to use it again.

    Args:
        path: Where to; replaced atomically.
        model: The backbone.
        item_ids: External ids in the order of their indices, V of them.
        metadata: Further facts to keep, such as the validation metric.
    """
    tensors, header = backbone_state(model, item_ids)
    write_tensors(path, tensors, {**header, **metadata})


def backbone_state(
    model: Backbone, item_ids: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return the tensors and the header entries from which ``backbone_of`` makes a model.

    Args:
        model: The backbone.
        item_ids: External ids in the order of their indices, V of them.
    """
    header: dict[str, object] = {
        "kind": model.config.kind,
        "config": asdict(model.config),
        "item_ids": list(item_ids),
        **table_entry(model),
    }
    return dict(model.state_dict()), header


def load_backbone(path: Path) -> tuple[Backbone, tuple[str, ...], dict[str, object]]:
    """Read a model written by ``save_backbone``.

    Args:
        path: A checkpoint.

    Returns:
        The backbone in evaluation mode, its external item ids, and the whole header.

    Raises:
        MalformedArtifactError: The file is not such a checkpoint.
        IncompatibleArtifactError: It holds another kind of backbone, or other tensors.
    """
    tensors, header = read_tensors(path)
    return *backbone_of(tensors, header, path), header


def backbone_of(
    tensors: dict[str, Tensor], header: dict[str, object], path: Path
) -> tuple[Backbone, tuple[str, ...]]:
    """Return the model, in evaluation mode, and the item ids of what ``backbone_state`` gave.

    Args:
        tensors: By name.
        header: With its entries, and possibly others.
        path: Where they are from.

    Raises:
        MalformedArtifactError: An entry is absent or impossible.
        IncompatibleArtifactError: It is another kind of backbone, or has other tensors.
    """
    if header.get("kind") not in KINDS:
        raise IncompatibleArtifactError(
            f"{path}: expected a backbone of a kind in {sorted(KINDS)}, found "
            f"{header.get('kind')!r}"
        )
    config, item_ids = _read_header(header, path)
    model = make_backbone(config)
    if TABLE in header:
        model.item_embedding = _empty_table(header[TABLE], config, path)
    _load_state(model, tensors, path)
    return model.eval(), item_ids


def table_entry(model: Backbone) -> dict[str, object]:
    """Return the header entry on a table of codebooks; none where items have rows of their own.

    Args:
        model: The backbone.
    """
    table = model.item_embedding
    if not isinstance(table, CodebookEmbedding):
        return {}
    return {TABLE: layout_fields(table.layout)}


def _empty_table(fields: object, config: BackboneShape, path: Path) -> CodebookEmbedding:
    try:
        layout = layout_of(fields)
    except ConfigError as error:
        raise MalformedArtifactError(f"{TABLE}: {error}", field=str(path)) from error
    if layout.embedding_dim != config.embedding_dim:
        raise MalformedArtifactError(
            f"{TABLE}: expected {config.embedding_dim} columns, found {layout.embedding_dim}",
            field=str(path),
        )
    return CodebookEmbedding.empty(layout, config.n_items)


def _read_header(header: dict[str, object], path: Path) -> tuple[BackboneShape, tuple[str, ...]]:
    """Return the shape and the catalogue, which must be of one size."""
    fields, ids = header.get("config"), header.get("item_ids")
    if not isinstance(fields, dict) or not isinstance(ids, list):
        raise MalformedArtifactError(
            "expected entries config and item_ids; train again or name another file",
            field=str(path),
        )
    try:
        config = KINDS[str(header["kind"])].shape(**fields)
    except (TypeError, ValueError) as error:
        raise MalformedArtifactError(f"config: {error}", field=str(path)) from error
    if len(ids) != config.n_items or not all(isinstance(item_id, str) for item_id in ids):
        raise MalformedArtifactError(
            f"item_ids: expected {config.n_items} texts, found {len(ids)} entries",
            field=str(path),
        )
    return config, tuple(ids)


def _load_state(model: Backbone, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise IncompatibleArtifactError(f"{path}: {error}") from error
    if isinstance(model.item_embedding, CodebookEmbedding):
        try:
            model.item_embedding.check()
        except ConfigError as error:
            raise MalformedArtifactError(str(error), field=str(path)) from error
