# SPDX-License-Identifier: Apache-2.0
"""Exports a backbone as the three functions a device runs: prefill, step, score.

The functions are those of ``docs/format.md``; the modules here restate the backbone for
one user without dropout or padding, reading the backbone's own parameters, so that the
exported graphs carry their names. The ONNX graphs leave the coded matrices out: the
device supplies them, dequantized as its plan says. An ExecuTorch program cannot be given
weights from outside, so it carries those of one plan.
"""

from __future__ import annotations

import copy
import logging
import warnings
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from pocketrec.errors import MissingExtraError, QuantizationError
from pocketrec_cloud.backbones.sasrec import CODED_MATRICES, Block, SASRec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["coded_names", "device_form", "export_executorch", "export_onnx", "with_weights"]

OPSET = 21
IR_VERSION = 10
EXAMPLE_EVENTS = 3
EXAMPLE_CANDIDATES = 5

_Function: TypeAlias = tuple[str, nn.Module, dict[str, Tensor], dict[str, Any] | None]
"""A name, what computes, example inputs by name, and the axes that vary."""


def coded_names(model: SASRec) -> list[str]:
    """Return the names of the coded matrices, in plan order, without ``.weight``."""
    blocks = range(model.config.n_blocks)
    return [f"blocks.{i}.{name}" for i in blocks for name in CODED_MATRICES]


def device_form(model: SASRec) -> SASRec:
    """Return the model as the device computes it: no scaling of its inputs.

    The factor the backbone applies to item embeddings moves into the embeddings, and its
    inverse into the final norm, so that scores stay what they were.

    Args:
        model: A trained backbone; unchanged.

    Returns:
        An equivalent backbone with ``input_scale`` 1.
    """
    folded = copy.deepcopy(model).eval()
    with torch.no_grad():
        folded.item_embedding.weight.mul_(model.input_scale)
        folded.final_norm.weight.div_(model.input_scale)
        folded.final_norm.bias.div_(model.input_scale)
    folded.input_scale = 1.0
    return folded


def with_weights(model: SASRec, weights: Mapping[str, NDArray[np.float32]]) -> SASRec:
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


class _Blocks(nn.Module):
    """A backbone's own blocks and final norm, under their own names."""

    def __init__(self, model: SASRec) -> None:
        super().__init__()
        self.blocks = model.blocks
        self.final_norm = model.final_norm

    def numbered(self) -> list[tuple[int, Block]]:
        return list(enumerate(cast("list[Block]", list(self.blocks))))


class _Prefill(_Blocks):
    """A whole history at once; the last block computes one query row only."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, D) -> keys (n_blocks, H, T, dh), values (the same), h (D,)."""
        steps = torch.arange(x.shape[0])
        offset = steps[:, None] - steps[None, :]
        distance, future = offset.clamp(min=0), offset < 0
        keys, values = [], []
        for number, block in self.numbered():
            is_last = number == len(self.blocks) - 1
            a = block.attn_norm(x)
            keys.append(block.heads(block.k(a)))
            values.append(block.heads(block.v(a)))
            if is_last:
                x, a = x[-1:], a[-1:]
                bias = block.relative_bias[:, distance[-1:]]
            else:
                bias = block.relative_bias[:, distance].masked_fill(future, float("-inf"))
            query = block.heads(block.q(a)) * block.head_dim**-0.5
            weights = (query @ keys[-1].transpose(-2, -1) + bias).softmax(-1)
            x = x + block.mix(weights, values[-1])
            x = x + block.feed_forward(x)
        return torch.stack(keys), torch.stack(values), self.final_norm(x)[0]


class _Step(_Blocks):
    """One event more, against the keys and values of those before it."""

    def __init__(self, model: SASRec) -> None:
        super().__init__(model)
        # A distance of L selects the extra column, which hides a slot.
        for number, block in self.numbered():
            hidden = torch.full((block.n_heads, 1), float("-inf"))
            bias = torch.cat([block.relative_bias.detach(), hidden], dim=1)
            self.register_buffer(f"bias_{number}", bias)

    def _attend(
        self, block: Block, a: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        key, value = block.heads(block.k(a)), block.heads(block.v(a))  # (1, D) -> (H, 1, dh)
        query = block.heads(block.q(a)) * block.head_dim**-0.5
        before = query @ keys.transpose(-2, -1) + bias[:, None, :]  # (H, 1, L)
        itself = (query * key).sum(-1, keepdim=True) + block.relative_bias[:, :1, None]
        weights = torch.cat([before, itself], dim=-1).softmax(-1)
        mixed = weights[..., :-1] @ values + weights[..., -1:] * value
        return block.o(mixed.transpose(-3, -2).flatten(-2)), key[:, 0], value[:, 0]

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, distance: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(D,), ring buffers (n_blocks, H, L, dh), (L,) -> new key, new value, h (D,)."""
        row = x[None, :]
        new_keys, new_values = [], []
        for number, block in self.numbered():
            bias = getattr(self, f"bias_{number}")[:, distance]
            a = block.attn_norm(row)
            attended, key, value = self._attend(block, a, keys[number], values[number], bias)
            new_keys.append(key)
            new_values.append(value)
            row = row + attended
            row = row + block.feed_forward(row)
        return torch.stack(new_keys), torch.stack(new_values), self.final_norm(row)[0]


class _Score(nn.Module):
    """Inner products with the user's state."""

    def forward(self, h: Tensor, candidates: Tensor) -> Tensor:
        """(D,), (M, D) -> (M,)."""
        return (candidates @ h[:, None])[:, 0]


def _functions(model: SASRec) -> Iterator[_Function]:
    """Yield what is exported, function by function."""
    config = model.config
    ring = (config.n_blocks, config.n_heads, config.window, config.head_dim)
    x = torch.zeros(EXAMPLE_EVENTS, config.embedding_dim)
    # Bounds reach the examples, so that tiny windows and catalogues export too.
    events = Dim("T", min=1, max=max(config.window, EXAMPLE_EVENTS))
    yield "prefill", _Prefill(model).eval(), {"x": x}, {"x": {0: events}}
    step_inputs = {
        "x": x[0],
        "keys": torch.zeros(ring),
        "values": torch.zeros(ring),
        "distance": torch.full((config.window,), config.window),
    }
    yield "step", _Step(model).eval(), step_inputs, None
    candidates = torch.zeros(EXAMPLE_CANDIDATES, config.embedding_dim)
    # One past the catalogue: the device may score every row at once, padding included.
    rows = Dim("M", min=1, max=max(config.n_items + 1, EXAMPLE_CANDIDATES))
    score_inputs = {"h": x[0], "candidates": candidates}
    yield "score", _Score().eval(), score_inputs, {"h": {}, "candidates": {0: rows}}


_OUTPUTS = {
    "prefill": ["keys", "values", "h"],
    "step": ["new_key", "new_value", "h"],
    "score": ["scores"],
}


def export_onnx(model: SASRec) -> dict[str, bytes]:
    """Export the three functions as ONNX graphs without the coded matrices.

    Args:
        model: A backbone in device form.

    Returns:
        ``"prefill"``, ``"step"`` and ``"score"`` to serialised ``ModelProto``. Coded
        matrices are external initializers named as in the frozen part.

    Raises:
        QuantizationError: The exporter lost a coded matrix (a changed exporter would).
    """
    coded = {f"{name}.weight" for name in coded_names(model)}
    return {
        function[0]: _without_coded(_onnx_graph(function), coded, function[0])
        for function in _functions(model)
    }


def _onnx_graph(function: _Function) -> onnx.ModelProto:
    name, module, inputs, shapes = function
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=_OUTPUTS[name],
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    if program is None:
        raise QuantizationError(f"{name}.onnx: expected a program, the exporter returned none")
    graph = program.model_proto
    graph.ir_version = IR_VERSION
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _without_coded(graph: onnx.ModelProto, coded: set[str], name: str) -> bytes:
    """Turn the coded matrices into external initializers, and drop what only debugs."""
    present = set()
    for tensor in graph.graph.initializer:
        if tensor.name in coded:
            present.add(tensor.name)
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="adapted")
    missing = (set() if name == "score" else coded) - present
    if missing:
        raise QuantizationError(
            f"{name}.onnx: expected the coded matrices to stay initializers, lost {sorted(missing)}"
        )
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in graph.graph.value_info:
        value.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    return graph.SerializeToString(deterministic=True)


def export_executorch(model: SASRec) -> bytes:
    """Export the three functions as one ExecuTorch program for XNNPACK.

    Args:
        model: A backbone in device form whose coded matrices are those of one plan.

    Returns:
        A ``.pte`` with the methods ``prefill``, ``step`` and ``score``.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    with warnings.catch_warnings():  # the library's own, from its import on
        warnings.simplefilter("ignore")
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        except ImportError as error:
            raise MissingExtraError(
                "exporting to ExecuTorch needs the extra: pip install 'pocketrec[cloud,executorch]'"
            ) from error
        programs = {
            name: torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
            for name, module, inputs, shapes in _functions(model)
        }
        lowered = to_edge_transform_and_lower(programs, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)
