# SPDX-License-Identifier: Apache-2.0
"""Brings a trained backbone into the form that devices compute.

``onnx_graphs`` writes that form as ONNX graphs, ``executorch_program`` as an ExecuTorch
program.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import torch

from pocketrec.errors import QuantizationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone

__all__ = ["coded_names", "device_form", "with_weights"]

_Model = TypeVar("_Model", bound="Backbone")


def coded_names(model: Backbone) -> list[str]:
    """Return the names of the coded matrices, in plan order, without ``.weight``."""
    return model.coded_names()


def device_form(model: _Model) -> _Model:
    """Return the model as the device computes it: no scaling of its inputs.

    The factor the backbone applies to item embeddings moves into the embeddings, and its
    inverse into the last layer, so that scores stay what they were.

    Args:
        model: A trained backbone; unchanged.

    Returns:
        An equivalent backbone with ``input_scale`` 1.

    Raises:
        QuantizationError: The model has what no device computes.
    """
    folded = copy.deepcopy(model).eval()
    folded.fold_input_scale()
    return folded


def with_weights(model: _Model, weights: Mapping[str, NDArray[np.float32]]) -> _Model:
    """Return a copy of the model with some of its matrices replaced.

    Args:
        model: A backbone; unchanged.
        weights: Arrays by parameter name, such as ``blocks.0.q.weight``.

    Returns:
        The copy.

    Raises:
        QuantizationError: A name or a shape is not the model's.
    """
    adapted = copy.deepcopy(model)
    parameters = dict(adapted.named_parameters())
    for name, array in weights.items():
        if name not in parameters or parameters[name].shape != array.shape:
            shape = tuple(parameters[name].shape) if name in parameters else "no such matrix"
            raise QuantizationError(f"{name}: expected {shape}, found {array.shape}")
        with torch.no_grad():
            parameters[name].copy_(torch.from_numpy(array.copy()))
    return adapted
