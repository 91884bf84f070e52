# SPDX-License-Identifier: Apache-2.0
"""What a cell costs in bytes: on the wire, on a disk, and as weights in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pocketrec_device.float_control import check_twin
from pocketrec_quantization.budget import SCALE_BYTES, coded_bytes, effective_bits
from pocketrec_quantization.bundle import DEFAULT_PLAN, MANIFEST_FILE, BundleFolder
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.levels import preset_levels
from pocketrec_quantization.plan import check_applies, decode_plan, plan_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pocketrec_device.bench.cells import Variant
    from pocketrec_quantization.layers import LayerTable

__all__ = ["FLOAT_BITS", "resident_weight_bytes", "sizes_of"]

FLOAT_BITS = 32
_BLOCK_BYTES = 4096  # what a file takes on most disks is a multiple of this


def sizes_of(
    bundle: BundleFolder, variant: Variant, speed: str, *, peer_file: Path | None = None
) -> dict[str, float | int]:
    """Return the sizes of a variant; a float model has no plan, and its own arrays.

    Args:
        bundle: What the variant is of.
        variant: Its files are checked against the bundle.
        speed: What its tiers mean in bits, one of ``SPEED_PRESETS``.
        peer_file: What another runtime converted the float model to, if it is one.

    Raises:
        ArtifactError: A plan or a float twin cannot be used with the bundle.
        OSError: A file cannot be read.
    """
    if variant.float_twin is not None:
        return _float_sizes(bundle, variant.float_twin, peer_file)
    content = bundle.read(DEFAULT_PLAN) if variant.plan is None else variant.plan.read_bytes()
    plan, sizes = decode_plan(content), plan_sizes(content)
    check_applies(plan, bundle.manifest.layers, bundle.model_digest)
    widths = replace(plan, levels=preset_levels(speed, plan.levels)).widths
    files = [part.length_bytes for part in bundle.manifest.parts]
    files.append((bundle.path / MANIFEST_FILE).stat().st_size)
    bundle_bytes = sum(files)
    if variant.plan is not None:
        files.append(sizes.total_bytes)
    return {
        "effective_bits": effective_bits(plan.layers, widths),
        "coded_bytes": coded_bytes(plan.layers, widths),
        "plan_payload_bytes": sizes.payload_bytes,
        "plan_bytes": sizes.total_bytes,
        "bundle_bytes": bundle_bytes,
        "wire_bytes": sum(files),
        "disk_bytes": sum(map(_on_disk, files)),
    }


def _float_sizes(
    bundle: BundleFolder, path: Path, peer_file: Path | None
) -> dict[str, float | int]:
    twin = FloatTwin.from_bytes(path.read_bytes())
    check_twin(twin, bundle, path)
    size = (peer_file or path).stat().st_size
    return {
        "effective_bits": float(FLOAT_BITS),
        "coded_bytes": sum(array.nbytes for array in twin.weights.values()),
        "plan_payload_bytes": 0,
        "plan_bytes": 0,
        "bundle_bytes": size,
        "wire_bytes": size,
        "disk_bytes": _on_disk(size),
    }


def resident_weight_bytes(layers: LayerTable, reports: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes of the coded matrices as a backend keeps them, scales included.

    Args:
        layers: The model's layers.
        reports: ``layers`` of a measurement: channels by width, by layer, and how many
            elements of each are kept; all of them where it does not say.
    """
    whole = {layer.name: layer.n_elements for layer in layers}
    return sum(
        n_channels * _channel_bytes(report.get("n_elements", whole[report["name"]]), int(bits))
        for report in reports
        for bits, n_channels in report["stored"].items()
    )


def _channel_bytes(n_elements: int, bits: int) -> int:
    if not bits:
        return 0
    return -(-n_elements * bits // 8) + (SCALE_BYTES if bits < FLOAT_BITS else 0)


def _on_disk(n_bytes: int) -> int:
    return -(-n_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
