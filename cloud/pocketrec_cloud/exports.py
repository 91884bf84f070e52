# SPDX-License-Identifier: Apache-2.0
"""What a backbone exports, by its kind, ready to be checked before it is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pocketrec_cloud.graph_checks import ExecuTorchFunctions, OnnxFunctions
from pocketrec_cloud.window_checks import ExecuTorchWindowFunctions, OnnxWindowFunctions
from pocketrec_quantization.attention_bias import stack_relative_bias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_cloud.graph_checks import Functions
    from pocketrec_quantization.backbone import BackboneConfig

    Arrays = Mapping[str, NDArray[np.float32]]

__all__ = ["EXPORTS", "Exports"]


class Exports(NamedTuple):
    """How one kind of backbone is run where it was exported to.

    Attributes:
        graphs: (graphs, coded weights, dense tensors, architecture) -> functions in ONNX
            Runtime.
        program: (program, dense tensors, architecture) -> functions in ExecuTorch.
    """

    graphs: Callable[[Mapping[str, bytes], Arrays, Arrays, BackboneConfig], Functions]
    program: Callable[[bytes, Arrays, BackboneConfig], Functions]


def _attention_graphs(
    graphs: Mapping[str, bytes], weights: Arrays, dense: Arrays, config: BackboneConfig
) -> Functions:
    return OnnxFunctions(graphs, weights, stack_relative_bias(dense, config.n_blocks))


def _attention_program(program: bytes, dense: Arrays, config: BackboneConfig) -> Functions:
    return ExecuTorchFunctions(program, stack_relative_bias(dense, config.n_blocks))


def _window_graphs(
    graphs: Mapping[str, bytes], weights: Arrays, dense: Arrays, config: BackboneConfig
) -> Functions:
    del dense  # all of it is inside the graphs
    return OnnxWindowFunctions(graphs, weights, config.window)


def _window_program(program: bytes, dense: Arrays, config: BackboneConfig) -> Functions:
    del dense
    return ExecuTorchWindowFunctions(program, config.window)


EXPORTS: Mapping[str, Exports] = {
    "caser": Exports(_window_graphs, _window_program),
    "sasrec": Exports(_attention_graphs, _attention_program),
}
