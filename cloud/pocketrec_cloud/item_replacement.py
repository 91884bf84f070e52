# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle that differs from another in its item table alone.

Weights, graphs and default plan stay as they are, byte for byte: devices share those parts,
and plans, which are bound to the weights, stay valid. What depends on item rows is made
anew: test vectors, the extractor's vectors and the model card. Every graph is compared with
the reference before anything is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pocketrec import __version__
from pocketrec.errors import ConfigError, IncompatibleArtifactError, MissingExtraError
from pocketrec.files import write_atomically
from pocketrec_cloud.bundling import BUNDLE_FOLDER, CASES, FLOAT_TWIN, PLANNER, SENSITIVITY
from pocketrec_cloud.exports import EXPORTS
from pocketrec_cloud.extractor_proving import make_extract_vectors
from pocketrec_cloud.graph_checks import check_functions
from pocketrec_cloud.item_facts import table_facts
from pocketrec_cloud.proving import reference_vectors
from pocketrec_quantization.bundle import (
    CARD,
    EXTRACT,
    EXTRACT_VECTORS,
    GRAPH_PARTS,
    ITEMS,
    PROGRAM,
    VECTORS,
    BundleFolder,
    ItemTableInfo,
    write_bundle,
)
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.manifest import schema_minor_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pocketrec_quantization.item_table import ItemTable
    from pocketrec_quantization.vectors import TestVectors

__all__ = ["ReplacementConfig", "replace_items"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementConfig:
    """What the new bundle is called.

    Attributes:
        created_at_s: Unix seconds.
        version: Of the bundle; None = one above the old one's.
        table_version: Of the item table; None = its own if that is above the old one's,
            else one above the old one's.
        seed: Seed of generated histories and candidates.
    """

    created_at_s: int
    version: int | None = None
    table_version: int | None = None
    seed: int = 0


def replace_items(
    bundle: BundleFolder, items: ItemTable, *, out: Path, config: ReplacementConfig
) -> BundleFolder:
    """Write a bundle with another item table, and the files that lie beside a bundle.

    Sensitivities and planner depend on the weights and are copied. Evaluation cases are
    told in the new item indices; events and targets on items that are gone are left out.
    The float twin is copied when the items are the same.

    Args:
        bundle: What is published now.
        items: The new table, for embeddings of the same space.
        out: Folder for the bundle and the files beside it.
        config: Versions and seed.

    Returns:
        The new bundle, verified.

    Raises:
        ConfigError: A version does not go up, or ``out`` holds the old bundle.
        IncompatibleArtifactError: The table has embeddings of another dimension.
        QuantizationError: A graph disagrees with the reference.
        MissingExtraError: The bundle has a program, but executorch is not installed.
        ArtifactError: The old bundle or a file beside it is damaged.
        OSError: A file cannot be read or written.
    """
    bundle.verify()
    old = bundle.manifest
    if out.resolve() in {bundle.path.parent.resolve(), bundle.path.resolve().parent}:
        raise ConfigError(
            f"out: expected another folder than {bundle.path.parent}, which holds the old bundle "
            "and the files beside it"
        )
    if items.embedding_dim != old.backbone.embedding_dim:
        raise IncompatibleArtifactError(
            f"expected item embeddings of {old.backbone.embedding_dim} dimensions as in the "
            f"bundle, got {items.embedding_dim}; make the table from this model's embeddings"
        )
    items = replace(items, version=_table_version(items, old.items.version, config))
    version = old.version + 1 if config.version is None else config.version
    _check_above(version, old.version, "version")
    info = ItemTableInfo.of(items)
    manifest = replace(
        old,
        version=version,
        created_at_s=config.created_at_s,
        items=info,
        parts=(),
        producer=f"pocketrec {__version__}",
        schema_minor=schema_minor_of(old.backbone, old.extractor, info),
    )
    parts = _parts(bundle, items, version, config.seed)
    beside = _files_beside(bundle, items)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in beside.items():
        write_atomically(out / name, content)
    write_bundle(out / BUNDLE_FOLDER, manifest, parts)
    made = BundleFolder.open(out / BUNDLE_FOLDER)
    made.verify()
    return made


def _table_version(items: ItemTable, old: int, config: ReplacementConfig) -> int:
    if config.table_version is None:
        return max(items.version, old + 1)
    _check_above(config.table_version, old, "table_version")
    return config.table_version


def _check_above(version: int, old: int, field: str) -> None:
    if version <= old:
        raise ConfigError(f"{field}: expected above {old}, which devices have, got {version}")


def _parts(bundle: BundleFolder, items: ItemTable, version: int, seed: int) -> dict[str, bytes]:
    parts = {part.name: bundle.read(part.name) for part in bundle.manifest.parts}
    parts[ITEMS] = items.to_bytes()
    vectors = reference_vectors(
        bundle.read_frozen(),
        items,
        bundle.read_default_plan(),
        config=bundle.manifest.backbone,
        seed=seed,
    )
    _check_exports(bundle, parts, items, vectors)
    parts[VECTORS] = vectors.to_bytes()
    if bundle.manifest.extractor is not None:
        parts[EXTRACT_VECTORS] = make_extract_vectors(
            bundle.read_extractor(),
            parts[EXTRACT],
            items,
            window=bundle.manifest.extractor.window,
            seed=seed,
        ).to_bytes()
    if CARD in parts:
        parts[CARD] = _card(parts, items, version)
    return parts


def _check_exports(
    bundle: BundleFolder, parts: dict[str, bytes], items: ItemTable, vectors: TestVectors
) -> None:
    frozen, backbone = bundle.read_frozen(), bundle.manifest.backbone
    weights = frozen.adapt(bundle.read_default_plan().widths)
    exports = EXPORTS[backbone.kind]
    graphs = {name: parts[part] for name, part in GRAPH_PARTS.items() if part in parts}
    if graphs:
        check_functions(exports.graphs(graphs, weights, frozen.dense, backbone), items, vectors)
    if PROGRAM not in parts:
        return
    try:
        program = exports.program(parts[PROGRAM], frozen.dense, backbone)
    except ImportError as error:
        raise MissingExtraError(
            "the bundle has a program to check, which needs the extra: "
            "pip install 'pocketrec[cloud,executorch]'"
        ) from error
    check_functions(program, items, vectors)


def _card(parts: dict[str, bytes], items: ItemTable, version: int) -> bytes:
    """Return the card with what is known of the new table, and nothing measured on the old."""
    try:
        card = json.loads(parts[CARD])
    except ValueError:
        card = {}
    if not isinstance(card, dict):
        card = {}
    if isinstance(card.get("extractor"), dict):
        card["extractor"].pop("int8_rows", None)
    card |= {
        "version": version,
        "item_table": table_facts(items),
        "part_bytes": {name: len(parts[name]) for name in sorted(parts) if name != CARD},
    }
    return json.dumps(card, indent=2, sort_keys=True).encode()


def _files_beside(bundle: BundleFolder, items: ItemTable) -> dict[str, bytes]:
    folder, old = bundle.path.parent, bundle.read_items()
    copied = [SENSITIVITY, PLANNER]
    if items.item_ids == old.item_ids:
        copied.append(FLOAT_TWIN)
    files = {name: (folder / name).read_bytes() for name in copied if (folder / name).exists()}
    if (folder / CASES).exists():
        cases = EvaluationCases.from_bytes((folder / CASES).read_bytes())
        retold = _retold(cases, items.indices_of(old.item_ids), items.n_items)
        if retold is not None:
            files[CASES] = retold.to_bytes()
    return files


def _retold(
    cases: EvaluationCases, new_indices: NDArray[np.intp], n_items: int
) -> EvaluationCases | None:
    """Return cases in other item indices; None if nothing of them is left.

    Args:
        cases: In the old indices.
        new_indices: (V,) intp, by old index less 1; 0 where an item is gone.
        n_items: V of the new table.

    Raises:
        IncompatibleArtifactError: The cases are over another number of items.
    """
    if cases.n_items != len(new_indices):
        raise IncompatibleArtifactError(
            f"{CASES}: expected cases over the bundle's {len(new_indices)} items, found "
            f"{cases.n_items}; keep the files of one build together"
        )
    histories, targets = [], []
    for number, old_target in enumerate(cases.targets.tolist()):
        history, target = new_indices[cases.history(number) - 1], new_indices[old_target - 1]
        history = history[history > 0]
        if target and len(history):
            histories.append(history.astype(np.int32))
            targets.append(target)
    if not targets:
        return None
    return EvaluationCases(
        items=np.concatenate(histories),
        offsets=np.cumsum([0, *map(len, histories)], dtype=np.int64),
        targets=np.array(targets, np.int32),
        n_items=n_items,
    )
