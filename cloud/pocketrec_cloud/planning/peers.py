# SPDX-License-Identifier: Apache-2.0
"""Other people's post-training quantization of a backbone: RTN and GPTQ of neural-compressor.

The library is shown the coded matrices alone, one *stage* each, and a copy of the backbone
that computes through them. So it cannot touch anything else, whatever the backbone looks
like, and GPTQ, which wants a stack of blocks that feed each other, calibrates every matrix
behind those that are quantized already. Its own means would not do: a pattern of
``set_local`` matches beginnings of names, and GPTQ quantizes a layer of a block although
``set_local`` excludes it.
"""

from __future__ import annotations

import copy
import logging
import os
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pocketrec.errors import ConfigError, MissingExtraError, QuantizationError
from pocketrec_cloud.batches import training_windows
from pocketrec_cloud.export import coded_names
from pocketrec_quantization.quantizer import STORED_WIDTHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone

__all__ = ["calibration_batches", "gptq_weights", "rtn_weights"]

_LIBRARIES = ("neural_compressor", "accelerate")
_WHOLE_CHANNEL = -1  # the library's word for one scale per output channel


def rtn_weights(
    model: Backbone, bits: int, *, mse_search: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Round every coded matrix to nearest, as neural-compressor does.

    Args:
        model: A trained backbone; unchanged.
        bits: 2, 4 or 8.
        mse_search: Let the library look for the clip of the smallest squared error, one per
            matrix, down to 0.8 of its range; otherwise the range decides.

    Returns:
        ``"<layer>.weight"`` to (C_l, N_l) float32: symmetric codes times a scale per output
        channel, which the library keeps in float16.

    Raises:
        MissingExtraError: neural-compressor or accelerate is not installed.
        QuantizationError: ``bits`` is another width.
    """
    _check_bits(bits)
    with _library() as (library, _):
        config = library.RTNConfig(
            bits=bits,
            use_sym=True,
            group_size=_WHOLE_CHANNEL,
            use_mse_search=mse_search,
            use_layer_wise=False,
        )
        stages = _Stages(model)
        library.convert(library.prepare(stages, config))
        return stages.weights()


def gptq_weights(
    model: Backbone, bits: int, calibration: Sequence[Tensor], *, mse_search: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Quantize every coded matrix with the GPTQ of neural-compressor.

    Args:
        model: A trained backbone; unchanged.
        bits: 2, 4 or 8.
        calibration: (B, T) int64 each, batches of training histories without padding; see
            :func:`calibration_batches`. They pass through the backbone 2 L + 1 times.
        mse_search: Let the library look for the scale of the smallest error per channel;
            otherwise the channel's range decides.

    Returns:
        ``"<layer>.weight"`` to (C_l, N_l) float32: symmetric codes times a scale per output
        channel, which the library keeps in float16.

    Raises:
        ConfigError: There is nothing to calibrate with.
        MissingExtraError: neural-compressor or accelerate is not installed.
        QuantizationError: ``bits`` is another width.

    Source:
        Frantar et al. 2023 (GPTQ), with the library's damping and order of columns. One
        matrix at a time, in plan order, is our choice.
    """
    _check_bits(bits)
    if not calibration:
        raise ConfigError("expected batches to calibrate with, found none")
    with _library() as (library, folder):
        config = library.GPTQConfig(
            bits=bits,
            use_sym=True,
            group_size=_WHOLE_CHANNEL,
            use_mse_search=mse_search,
            model_path=folder,  # otherwise it asks a model hub for one without a name
        )
        stages = library.prepare(_Stages(model), config)
        with torch.no_grad():
            for items in calibration:
                stages(items)
        weights: dict[str, NDArray[np.float32]] = library.convert(stages).weights()
        return weights


def calibration_batches(
    sequences: Sequence[NDArray[np.int32]], *, window: int, n_users: int = 128, seed: int = 0
) -> list[Tensor]:
    """Draw users to calibrate with, histories of one length to a batch.

    No batch is padded, so that GPTQ's statistics are those of real events alone.

    Args:
        sequences: Training events per user, oldest first. Never pass held-out events.
        window: L.
        n_users: Size of the sample.
        seed: Seed of the sample, and of the place of the window in long histories.

    Returns:
        (B, T) int64 each, T rising, at most L.

    Raises:
        ConfigError: No sampled user has two events.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(sequences))[:n_users]
    by_length: dict[int, list[NDArray[np.int32]]] = {}
    for events in training_windows([sequences[i] for i in chosen], window, rng):
        by_length.setdefault(events.shape[0], []).append(events[:-1])
    if not by_length:
        raise ConfigError("expected calibration users with at least 2 events, found none")
    return [
        torch.from_numpy(np.stack(rows).astype(np.int64)) for _, rows in sorted(by_length.items())
    ]


class _Stage(nn.Module):
    """One coded matrix, in a place where the library may exchange it."""

    def __init__(self, layer: nn.Module, backbone: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer = layer
        self._backbone = backbone  # a bound method: the library sees modules only

    def forward(self, items: Tensor) -> Tensor:
        """Compute the whole backbone, for the inputs of this matrix; pass its own input on."""
        self._backbone(items)
        return items

    def product(self, x: Tensor) -> Tensor:
        """Return the matrix's output for (..., N) inputs, which the library sees as (n, N)."""
        out: Tensor = self.layer(x.flatten(0, -2))
        return out.reshape(*x.shape[:-1], -1)


class _Detour(nn.Module):
    """Stands in a backbone for a matrix that a stage holds."""

    def __init__(self, product: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._product = product

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x)


class _Stages(nn.Module):
    """The coded matrices of a backbone's copy, one stage each, as the stack that GPTQ expects."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self._names = coded_names(model)
        backbone = copy.deepcopy(model).eval()
        self.stages = nn.ModuleList(
            _Stage(backbone.get_submodule(name), backbone.__call__) for name in self._names
        )
        for name, stage in zip(self._names, self.stages, strict=True):
            if isinstance(stage, _Stage):
                backbone.set_submodule(name, _Detour(stage.product))

    def forward(self, items: Tensor) -> Tensor:
        for stage in self.stages:
            items = stage(items)
        return items

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return what the library made of the matrices, by parameter name."""
        quantized = (stage.get_submodule("layer") for stage in self.stages)
        return {
            f"{name}.weight": _dequantized(layer)
            for name, layer in zip(self._names, quantized, strict=True)
        }


def _dequantized(layer: Any) -> NDArray[np.float32]:
    """Return codes times scales in float32; the library's own product is rounded to float16."""
    parts = layer.unpack()
    weights: Tensor = (parts["int_weight"] - parts["zp"]).float() * parts["scales"].float()
    return weights.numpy()


def _check_bits(bits: int) -> None:
    if bits not in STORED_WIDTHS:
        raise QuantizationError(f"bits: expected one of {STORED_WIDTHS}, got {bits!r}")


@contextmanager
def _library() -> Iterator[tuple[Any, str]]:
    """Lend the library and a folder for its files, and keep its log to errors."""
    for name in _LIBRARIES:
        if find_spec(name) is None:
            raise MissingExtraError(
                f"quantizing by RTN or GPTQ needs the package {name!r}, which is not installed; "
                "run `pip install 'pocketrec[cloud,baselines]'`"
            )
    os.environ.setdefault("INC_TARGET_DEVICE", "cpu")  # where our backbones are: not on any GPU
    logger = logging.getLogger("neural_compressor")
    logger.addFilter(_is_error)
    try:
        with TemporaryDirectory() as folder:
            from neural_compressor import common
            from neural_compressor.torch import quantization

            common.set_workspace(folder)  # otherwise it makes one where the process started
            yield quantization, folder
    finally:
        logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
