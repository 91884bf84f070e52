# SPDX-License-Identifier: Apache-2.0
"""The commands that look into artifacts: ``bundle inspect|verify``, ``plan show|diff``.

They need nothing but NumPy, so they run wherever an artifact lies.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from pocketrec.cli import ExitCode
from pocketrec.console import emit, json_option
from pocketrec.errors import MalformedArtifactError
from pocketrec.files import write_atomically
from pocketrec_quantization.backbone import coded_layers, layer_feeds
from pocketrec_quantization.budget import coded_bytes, effective_bits
from pocketrec_quantization.bundle import ITEMS, VECTORS, BundleFolder
from pocketrec_quantization.checks import reading
from pocketrec_quantization.container import PLAN_MAGIC
from pocketrec_quantization.folding import resident_bytes
from pocketrec_quantization.item_table_file import table_bytes
from pocketrec_quantization.layers import split_by_layer, total_channels, total_weights
from pocketrec_quantization.levels import count_widths
from pocketrec_quantization.limits import MAX_PLAN_BYTES
from pocketrec_quantization.plan import Plan, decode_plan, plan_sizes
from pocketrec_quantization.plan_json import diff_plans, plan_from_json, plan_to_json
from pocketrec_quantization.plots import plot_bits
from pocketrec_quantization.references import reference_of
from pocketrec_quantization.tables import draw_bundle, draw_difference, draw_plan, draw_verdict

__all__ = ["bundle_inspect", "bundle_verify", "plan_diff", "plan_show"]

_BUNDLE = click.Path(exists=True, file_okay=False, path_type=Path)
_PLAN = click.Path(exists=True, dir_okay=False, path_type=Path)
_MAX_JSON_BYTES = 4 * MAX_PLAN_BYTES + 2**20  # one digit per code, and the layers' names
_REFERENCE = "numpy"  # whose tolerance the reference executor is held to


@click.command()
@click.argument("folder", type=_BUNDLE)
@json_option
def bundle_inspect(folder: Path, json_path: str | None) -> None:
    """Show what the bundle in FOLDER holds; of its parts, only the item table is looked at."""
    bundle = BundleFolder.open(folder)
    manifest = bundle.manifest
    result = {
        **{key: value for key, value in asdict(manifest).items() if key not in {"parts", "layers"}},
        "digest": bundle.digest,
        "model_digest": bundle.model_digest,
        "n_channels": total_channels(manifest.layers),
        "n_weights": total_weights(manifest.layers),
        "total_bytes": sum(part.length_bytes for part in manifest.parts),
        "item_bytes": asdict(table_bytes(bundle.read(ITEMS))),
        "parts": [asdict(part) for part in manifest.parts],
        "layers": [asdict(layer) for layer in manifest.layers],
    }
    emit(result, render=lambda console: draw_bundle(console, result), json_path=json_path)


@click.command()
@click.argument("folder", type=_BUNDLE)
@json_option
@click.pass_context
def bundle_verify(context: click.Context, folder: Path, json_path: str | None) -> None:
    """Check every part of the bundle in FOLDER, and run its test vectors.

    Digests, formats and the parts' agreement with each other come first; then the test
    vectors run through the reference executor, and those of the extractor through its
    reference. Ends with 1 when what they hold does not come out.
    """
    bundle = BundleFolder.open(folder)
    bundle.verify()
    vectors, extract_vectors = _run_vectors(bundle), _run_extract_vectors(bundle)
    result = {
        "digest": bundle.digest,
        "n_parts": len(bundle.manifest.parts),
        "total_bytes": sum(part.length_bytes for part in bundle.manifest.parts),
        "vectors": vectors,
        "extract_vectors": extract_vectors,
        "item_table": _item_table(bundle),
        "default_plan": _default_plan(bundle),
        "is_sound": _come_out(vectors) and _come_out(extract_vectors),
    }
    emit(result, render=lambda console: draw_verdict(console, result), json_path=json_path)
    if not result["is_sound"]:
        context.exit(ExitCode.CHECK_FAILED)


@click.command()
@click.argument("path", metavar="PLAN", type=_PLAN)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw bits per layer and channel there, as PNG.",
)
@json_option
def plan_show(path: Path, plot: Path | None, json_path: str | None) -> None:
    """Show a plan: a container, or its JSON twin.

    The signature is not checked, for that takes a device's trusted keys. The entry "plan" of
    the JSON is the twin itself.
    """
    plan, data = _read_plan(path)
    result = {
        "plan": plan_to_json(plan),
        "coded_bytes": coded_bytes(plan.layers, plan.widths),
        "effective_bits": effective_bits(plan.layers, plan.widths),
        "container": None if data is None else asdict(plan_sizes(data)),
        "layers": _layer_rows(plan),
    }
    if plot is not None:
        title = f"{plan.planner}, {result['effective_bits']:.2f} effective bits"
        write_atomically(plot, plot_bits(plan.widths[None], plan.layers, title=title))
    emit(result, render=lambda console: draw_plan(console, plan, result), json_path=json_path)


@click.command()
@click.argument("before", type=_PLAN)
@click.argument("after", type=_PLAN)
@click.option("--exit-code", is_flag=True, help="End with 1 when a channel's width differs.")
@json_option
@click.pass_context
def plan_diff(
    context: click.Context, before: Path, after: Path, *, exit_code: bool, json_path: str | None
) -> None:
    """Compare the widths of two plans for one model, layer by layer."""
    (first, _), (second, _) = _read_plan(before), _read_plan(after)
    differences = diff_plans(first, second)
    result = {
        "n_changed": sum(difference.n_changed for difference in differences),
        "n_channels": total_channels(first.layers),
        "is_same_model": first.model_id == second.model_id,
        "before": _summary(first),
        "after": _summary(second),
        "layers": [asdict(difference) for difference in differences],
    }
    emit(result, render=lambda console: draw_difference(console, result), json_path=json_path)
    if exit_code and differences:
        context.exit(ExitCode.CHECK_FAILED)


def _run_vectors(bundle: BundleFolder) -> dict[str, Any] | None:
    if all(part.name != VECTORS for part in bundle.manifest.parts):
        return None
    vectors, items = bundle.read_vectors(), bundle.read_items()
    widths = bundle.read_default_plan().widths
    frozen, backbone = bundle.read_frozen(), bundle.manifest.backbone
    with reading("manifest.backbone"):
        backend = reference_of(frozen, widths, backbone)
    errors: list[float] = []
    with np.errstate(all="ignore"):  # what overflows shows in the errors
        for case in vectors.cases:
            h = backend.state_after(items.embed(case.history))
            scores = backend.score(h, items.embed(case.candidates))
            errors.append(float(np.abs(scores - case.scores).max()))
    return {
        "n_cases": len(vectors.cases),
        "worst_error": max(errors) if np.isfinite(errors).all() else None,
        "tolerance": vectors.tolerance_of(_REFERENCE),
    }


def _item_table(bundle: BundleFolder) -> dict[str, Any]:
    items = bundle.read_items()
    return {
        "n_items": items.n_items,
        "n_rows": items.n_rows,
        "n_codebooks": len(items.codebooks),
        "bits": sorted({codebook.bits for codebook in items.codebooks}),
        "version": items.version,
        "memory_bytes": items.embedding_bytes + items.cached_bytes,
        "id_bytes": items.id_bytes,
    }


def _default_plan(bundle: BundleFolder) -> dict[str, int]:
    plan, backbone = bundle.read_default_plan(), bundle.manifest.backbone
    feeds = layer_feeds(backbone) if coded_layers(backbone) == plan.layers else ()
    return {
        "coded_bytes": coded_bytes(plan.layers, plan.widths),
        "resident_bytes": resident_bytes(feeds, plan.layers, plan.widths),
    }


def _run_extract_vectors(bundle: BundleFolder) -> dict[str, Any] | None:
    if bundle.manifest.extractor is None:
        return None
    vectors, items = bundle.read_extract_vectors(), bundle.read_items()
    extractor = bundle.read_extractor()
    errors = [
        float(np.abs(extractor.embed(items.embed(case.history)) - case.z).max())
        for case in vectors.cases
    ]
    return {
        "n_cases": len(vectors.cases),
        "worst_error": max(errors),
        "tolerance": vectors.tolerance,
    }


def _come_out(vectors: dict[str, Any] | None) -> bool:
    """Whether no error is larger than allowed; not finite is, and none at all is not."""
    if vectors is None:
        return True
    worst = vectors["worst_error"]
    return worst is not None and bool(worst <= vectors["tolerance"])


def _read_plan(path: Path) -> tuple[Plan, bytes | None]:
    """Return a plan and, when it is no JSON, its container."""
    with path.open("rb") as file:
        data = file.read(_MAX_JSON_BYTES + 1)
    if data[:1] != b"{":
        if not data.startswith(PLAN_MAGIC):
            raise MalformedArtifactError("expected a plan, or its JSON twin", field=str(path))
        return decode_plan(data), data
    if len(data) > _MAX_JSON_BYTES:
        raise MalformedArtifactError(f"expected at most {_MAX_JSON_BYTES} bytes", field="plan")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise MalformedArtifactError(f"expected JSON: {error}", field="plan") from error
    twin = document.get("plan", document)  # what plan show wrote, or the twin alone
    return plan_from_json(twin), None


def _summary(plan: Plan) -> dict[str, object]:
    return {
        "subject": plan.subject,
        "planner": plan.planner,
        "version": plan.version,
        "budget_bytes": plan.budget_bytes,
        "coded_bytes": coded_bytes(plan.layers, plan.widths),
        "effective_bits": effective_bits(plan.layers, plan.widths),
    }


def _layer_rows(plan: Plan) -> list[dict[str, Any]]:
    by_layer = split_by_layer(plan.widths, plan.layers)
    return [
        {
            "name": layer.name,
            "n_channels": layer.n_channels,
            "n_elements": layer.n_elements,
            "channels_by_bits": count_widths(by_layer[layer.name]),
            "coded_bytes": coded_bytes((layer,), by_layer[layer.name]),
            "effective_bits": effective_bits((layer,), by_layer[layer.name]),
        }
        for layer in plan.layers
    ]
