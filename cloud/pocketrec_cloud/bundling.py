# SPDX-License-Identifier: Apache-2.0
"""Turns a trained backbone into everything that is published or measured.

The output folder holds ``bundle/``, which is what devices get, and files that stay behind:
``sensitivity.safetensors`` and, if there is a personal planner, ``planner.safetensors`` for
the server, ``float.safetensors``, the float control of benchmarks, and
``cases.safetensors``, the held-out users.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec import __version__
from pocketrec.files import write_atomically
from pocketrec_cloud.calibration import collect_statistics, measure_sensitivity
from pocketrec_cloud.compression.item_tables import item_table
from pocketrec_cloud.executorch_program import export_executorch
from pocketrec_cloud.export import coded_names, device_form, with_weights
from pocketrec_cloud.exports import EXPORTS
from pocketrec_cloud.extractor_proving import make_extract_vectors, measure_rows
from pocketrec_cloud.graph_checks import check_functions
from pocketrec_cloud.item_facts import table_facts
from pocketrec_cloud.onnx_graphs import write_extract_graph, write_graphs
from pocketrec_cloud.proving import make_vectors
from pocketrec_quantization.budget import budget_bytes, coded_bytes, effective_bits
from pocketrec_quantization.bundle import (
    CARD,
    DEFAULT_PLAN,
    EXTRACT,
    EXTRACT_VECTORS,
    FROZEN,
    GRAPH_PARTS,
    ITEMS,
    PROGRAM,
    VECTORS,
    BundleFolder,
    write_bundle,
)
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.manifest import (
    BackboneConfig,
    ExtractorInfo,
    ItemTableInfo,
    Manifest,
    schema_minor_of,
)
from pocketrec_quantization.personal_fit import check_planner_fits
from pocketrec_quantization.plan import Plan, encode_plan, model_id
from pocketrec_quantization.planners import GlobalPlanner, sensitivity_to_bytes
from pocketrec_quantization.quantizer import freeze_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.extractor import Extractor
    from pocketrec_quantization.extractor import Extractor as DeviceExtractor
    from pocketrec_quantization.item_table import ItemTable
    from pocketrec_quantization.personal import PersonalPlanner

__all__ = [
    "BUNDLE_FOLDER",
    "CASES",
    "FLOAT_TWIN",
    "PLANNER",
    "SENSITIVITY",
    "BuildConfig",
    "build_bundle",
    "freeze_backbone",
]

BUNDLE_FOLDER = "bundle"
SENSITIVITY = "sensitivity.safetensors"
PLANNER = "planner.safetensors"
FLOAT_TWIN = "float.safetensors"
CASES = "cases.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What the bundle is called and how its default plan is made.

    Attributes:
        model_name: Model line; one line has one current bundle.
        version: Of the bundle; only ever goes up.
        created_at_s: Unix seconds.
        average_bits: Of the default plan, bits per coded weight, scales apart.
        license: Terms of the weights, an SPDX identifier or free text.
        has_program: Whether to add an ExecuTorch program.
        extract_window: How many events an extractor looks back at most.
        max_cases: Held-out users to keep for benchmarks.
        seed: Seed of every sample drawn.
    """

    model_name: str
    version: int
    created_at_s: int
    average_bits: float = 3.0
    license: str = ""
    has_program: bool = False
    extract_window: int = 200
    max_cases: int = 10_000
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Quantized:
    """The backbone, split into what is coded and what is not."""

    model: Backbone
    frozen: FrozenModel
    weights: dict[str, NDArray[np.float32]]
    items: ItemTable
    config: BackboneConfig
    extractor: DeviceExtractor | None


def freeze_backbone(model: Backbone) -> FrozenModel:
    """Return the frozen part that a bundle of this model has: what planners are bound to.

    Args:
        model: A trained backbone.

    Raises:
        QuantizationError: A weight is not finite.
    """
    return _freeze(device_form(model))[0]


def build_bundle(
    model: Backbone,
    item_ids: tuple[str, ...],
    split: LeaveOneOut,
    *,
    out: Path,
    config: BuildConfig,
    facts: Mapping[str, object],
    extractor: Extractor | None = None,
    planner: PersonalPlanner | None = None,
) -> BundleFolder:
    """Quantize, plan, export, check and write.

    Args:
        model: A trained backbone.
        item_ids: V external ids in the order of the item indices.
        split: The interactions it was trained on; training events calibrate, test
            events become evaluation cases.
        out: Folder for the bundle and the files beside it.
        config: Names and budgets.
        facts: Entries for the model card, such as measured quality.
        extractor: Makes user embeddings on devices, from what this backbone reads.
        planner: Plans by them on the server; trained with what ``freeze_backbone`` returns.

    Returns:
        The bundle, verified.

    Raises:
        QuantizationError: An exported graph disagrees with the reference executor, or the
            model has what no device computes.
        IncompatibleArtifactError: The planner is for another model, or there is no
            extractor to go with it.
        InfeasibleBudgetError: ``average_bits`` is below the smallest plan.
        MissingExtraError: A program is wanted but executorch is not installed.
    """
    device_extractor = None if extractor is None else extractor.reference()
    quantized = _quantize(device_form(model), item_ids, config.version, device_extractor)
    frozen, manifest = quantized.frozen, _manifest(quantized, config)
    if planner is not None:
        check_planner_fits(planner, manifest, frozen.digest)
    statistics = collect_statistics(quantized.model, split.train_sequences(), seed=config.seed)
    sensitivity = measure_sensitivity(quantized.weights, frozen, statistics)
    plan = _default_plan(frozen, sensitivity, config)
    parts = _parts(quantized, plan, config)
    extract_parts, extract_facts = _extract_parts(quantized, config)
    parts |= extract_parts
    extract_facts["item_table"] = table_facts(quantized.items)
    parts[CARD] = _card(config, plan, parts, {**extract_facts, **facts})
    beside = {
        SENSITIVITY: sensitivity_to_bytes(sensitivity),
        CASES: _evaluation_cases(split, config).to_bytes(),
        FLOAT_TWIN: _float_twin(quantized).to_bytes(),
    } | ({} if planner is None else {PLANNER: planner.to_bytes()})
    out.mkdir(parents=True, exist_ok=True)
    for name, content in beside.items():
        write_atomically(out / name, content)
    write_bundle(out / BUNDLE_FOLDER, manifest, parts)
    bundle = BundleFolder.open(out / BUNDLE_FOLDER)
    bundle.verify()
    return bundle


def _parts(quantized: _Quantized, plan: Plan, config: BuildConfig) -> dict[str, bytes]:
    """Return every part but the card, each export proven against the reference."""
    model, frozen = quantized.model, quantized.frozen
    vectors = make_vectors(
        model, frozen, quantized.items, plan, config=quantized.config, seed=config.seed
    )
    weights = frozen.adapt(plan.widths)
    exports = EXPORTS[quantized.config.kind]
    graphs = write_graphs(frozen.dense, quantized.config)
    functions = exports.graphs(graphs, weights, frozen.dense, quantized.config)
    check_functions(functions, quantized.items, vectors)
    parts = {
        FROZEN: frozen.to_bytes(),
        ITEMS: quantized.items.to_bytes(),
        DEFAULT_PLAN: encode_plan(plan, None),
        VECTORS: vectors.to_bytes(),
        **{GRAPH_PARTS[name]: graph for name, graph in graphs.items()},
    }
    if config.has_program:
        program = export_executorch(with_weights(model, weights))
        on_executorch = exports.program(program, frozen.dense, quantized.config)
        check_functions(on_executorch, quantized.items, vectors)
        parts[PROGRAM] = program
    return parts


def _float_twin(quantized: _Quantized) -> FloatTwin:
    return FloatTwin(weights=quantized.weights, item_embeddings=_embeddings(quantized.model))


def _extract_parts(
    quantized: _Quantized, config: BuildConfig
) -> tuple[dict[str, bytes], dict[str, object]]:
    """Return the extractor's parts, proven, and what the card says of it; nothing without one."""
    extractor, items = quantized.extractor, quantized.items
    if extractor is None:
        return {}, {}
    graph = write_extract_graph(extractor)
    sample = {"window": config.extract_window, "seed": config.seed}
    vectors = make_extract_vectors(extractor, graph, items, **sample)
    effect = measure_rows(extractor, _embeddings(quantized.model), items, **sample)
    parts = {EXTRACT: graph, EXTRACT_VECTORS: vectors.to_bytes()}
    return parts, {"extractor": {"window": config.extract_window, "int8_rows": asdict(effect)}}


def _quantize(
    model: Backbone, item_ids: tuple[str, ...], version: int, extractor: DeviceExtractor | None
) -> _Quantized:
    frozen, weights = _freeze(model)
    return _Quantized(
        model=model,
        frozen=frozen,
        weights=weights,
        items=item_table(model.item_embedding, item_ids, version),
        config=model.config.architecture(),
        extractor=extractor,
    )


def _freeze(model: Backbone) -> tuple[FrozenModel, dict[str, NDArray[np.float32]]]:
    """Return the frozen part of a model in device form, and the float weights it codes."""
    arrays = {
        name: np.ascontiguousarray(value.detach().numpy())
        for name, value in model.named_parameters()
        if not name.startswith("item_embedding.")
    }
    names = coded_names(model)
    weights = {f"{name}.weight": arrays.pop(f"{name}.weight") for name in names}
    frozen = FrozenModel(
        matrices={name: freeze_matrix(weights[f"{name}.weight"]) for name in names}, dense=arrays
    )
    return frozen, weights


def _embeddings(model: Backbone) -> NDArray[np.float32]:
    table: NDArray[np.float32] = model.item_embedding.weight.detach().numpy()
    return np.ascontiguousarray(table)


def _default_plan(
    frozen: FrozenModel, sensitivity: NDArray[np.float64], config: BuildConfig
) -> Plan:
    budget = budget_bytes(frozen.layers, config.average_bits)
    planner = GlobalPlanner(frozen.layers, sensitivity)
    return Plan(
        model_id=model_id(frozen.digest),
        levels=DEFAULT_LEVELS,
        layers=frozen.layers,
        codes=planner.plan([None], budget)[0],
        budget_bytes=budget,
        subject="",
        planner=planner.name,
        version=0,
        issued_at_s=config.created_at_s,
        expires_at_s=0,
        key_id=b"",
    )


def _evaluation_cases(split: LeaveOneOut, config: BuildConfig) -> EvaluationCases:
    users = split.users
    if users.shape[0] > config.max_cases:
        rng = np.random.default_rng(config.seed)
        users = np.sort(rng.choice(users, config.max_cases, replace=False))
    histories = [split.history(int(u), "test") for u in users]
    return EvaluationCases(
        items=np.concatenate(histories),
        offsets=np.concatenate([[0], np.cumsum([h.shape[0] for h in histories])]).astype(np.int64),
        targets=np.array([split.target(int(u), "test") for u in users], dtype=np.int32),
        n_items=split.dataset.n_items,
    )


def _card(
    config: BuildConfig, plan: Plan, parts: Mapping[str, bytes], facts: Mapping[str, object]
) -> bytes:
    sizes = {name: len(content) for name, content in sorted(parts.items())}
    card = {
        "model_name": config.model_name,
        "version": config.version,
        "default_plan": {
            "planner": plan.planner,
            "coded_bytes": coded_bytes(plan.layers, plan.widths),
            "effective_bits": effective_bits(plan.layers, plan.widths),
        },
        "part_bytes": sizes,
        **facts,
    }
    return json.dumps(card, indent=2, sort_keys=True).encode()


def _manifest(quantized: _Quantized, config: BuildConfig) -> Manifest:
    items, extractor = ItemTableInfo.of(quantized.items), None
    if quantized.extractor is not None:
        extractor = ExtractorInfo(kind="gru", window=config.extract_window)
    return Manifest(
        model_name=config.model_name,
        version=config.version,
        created_at_s=config.created_at_s,
        backbone=quantized.config,
        items=items,
        layers=quantized.frozen.layers,
        license=config.license,
        producer=f"pocketrec {__version__}",
        extractor=extractor,
        schema_minor=schema_minor_of(quantized.config, extractor, items),
    )
