# SPDX-License-Identifier: Apache-2.0
"""Pictures of plans: bits per layer and channel, of one plan or of a population's.

Needs matplotlib, from the extra ``plots``, and imports it when a picture is drawn.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MissingExtraError
from pocketrec_quantization.layers import LayerTable, split_by_layer, total_channels
from pocketrec_quantization.levels import WIDTHS

__all__ = ["plot_bits"]

_ROW_INCHES = 0.28
_COLOURS = ("#d9d9d9", "#cfe1f2", "#5ba3cf", "#08306b")  # by width: pruned, and ever darker


def plot_bits(widths: NDArray[np.uint8], layers: LayerTable, *, title: str) -> bytes:
    """Return a PNG of which channels have how many bits.

    One row per layer, one cell per channel, and beside it each layer's mean. Of several
    plans, one panel shows the mean of a channel over users, and one its spread: where all
    cells of the second are white, everybody has the same plan.

    Args:
        widths: (B, C_total) uint8, bits per channel, of B plans.
        layers: The model's layers.
        title: Above the picture.

    Raises:
        ConfigError: ``widths`` has another shape, or there is no plan.
        MissingExtraError: matplotlib is not installed.
    """
    if widths.ndim != 2 or widths.shape[1] != total_channels(layers) or not len(widths):
        raise ConfigError(
            f"widths: expected (B, {total_channels(layers)}) with B of 1 or more, got "
            f"{widths.shape}"
        )
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "a picture needs the package 'matplotlib', which is not installed; "
            "run `pip install 'pocketrec[plots]'`"
        )
    from matplotlib.figure import Figure

    values = widths.astype(np.float64)
    panels = 1 if len(widths) == 1 else 2
    height = 1.2 + (_ROW_INCHES * len(layers) + 0.7) * panels
    figure = Figure(figsize=(10, height), dpi=120, layout="constrained")
    figure.suptitle(title)
    rows = figure.subplots(panels, 2, width_ratios=(5, 1), squeeze=False)
    if panels == 1:
        _draw_widths(figure, rows[0], values[0], layers)
    else:
        mean, spread = values.mean(axis=0), values.std(axis=0)
        _draw_shades(figure, rows[0], mean, layers, label="bits, mean over users", most=max(WIDTHS))
        label = "bits, standard deviation over users"
        _draw_shades(figure, rows[1], spread, layers, label=label, most=max(1.0, spread.max()))
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _draw_widths(figure: Any, axes: Any, values: NDArray[np.float64], layers: LayerTable) -> None:
    """Draw one plan in one colour per width."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    edges = [-1, *((low + high) / 2 for low, high in pairwise(WIDTHS)), 9]
    image = _draw_cells(
        axes, values, layers, cmap=ListedColormap(_COLOURS), norm=BoundaryNorm(edges, len(WIDTHS))
    )
    bar = figure.colorbar(image, ax=axes[0], ticks=WIDTHS, label="bits", pad=0.01)
    centres = [(low + high) / 2 for low, high in pairwise(edges)]
    bar.set_ticks(centres, labels=[str(width) for width in WIDTHS])
    axes[1].set_xlabel("mean bits")


def _draw_shades(
    figure: Any,
    axes: Any,
    values: NDArray[np.float64],
    layers: LayerTable,
    *,
    label: str,
    most: float,
) -> None:
    """Draw numbers from 0 on in shades of one colour."""
    image = _draw_cells(axes, values, layers, cmap="Blues", vmin=0, vmax=most)
    figure.colorbar(image, ax=axes[0], label=label, pad=0.01)
    axes[1].set_xlabel("mean of the layer")


def _draw_cells(axes: Any, values: NDArray[np.float64], layers: LayerTable, **shades: Any) -> Any:
    """Draw one row per layer, and each layer's mean beside it."""
    by_layer = split_by_layer(values, layers)
    cells = np.full((len(layers), max(layer.n_channels for layer in layers)), np.nan)
    for row, layer in zip(cells, layers, strict=True):
        row[: layer.n_channels] = by_layer[layer.name]
    image = axes[0].imshow(cells, aspect="auto", interpolation="nearest", **shades)
    names, places = [layer.name for layer in layers], range(len(layers))
    axes[0].set_yticks(places, names)
    axes[0].set_xlabel("channel")
    means = [by_layer[name].mean() for name in names]
    axes[1].barh(places, means, color=_COLOURS[2])
    for place, mean in zip(places, means, strict=True):
        axes[1].text(mean, place, f" {mean:.2f}", va="center", fontsize=8)
    axes[1].set_ylim(axes[0].get_ylim())
    axes[1].set_yticks([])
    axes[1].set_xlim(0, max(1e-9, *means) * 1.35)
    axes[1].spines[["top", "right"]].set_visible(False)
    return image
