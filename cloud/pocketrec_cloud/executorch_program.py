# SPDX-License-Identifier: Apache-2.0
"""Exports the functions a device runs as one ExecuTorch program: prefill, step, score.

The modules here restate the backbone for one user without dropout or padding. A program
cannot be given weights from outside, so it carries those of one plan.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from pocketrec.errors import MissingExtraError
from pocketrec_cloud.backbones.caser import Caser
from pocketrec_cloud.backbones.sasrec import SASRec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.backbones.sasrec import Block

__all__ = ["export_executorch"]

EXAMPLE_EVENTS = 3
EXAMPLE_CANDIDATES = 5

_Function: TypeAlias = tuple[str, nn.Module, dict[str, Tensor], dict[str, Any] | None]
"""A name, what computes, example inputs by name, and the axes that vary."""


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
        """(T, D) -> keys (n_blocks, T, D), values (the same), h (1, D)."""
        steps = torch.arange(x.shape[0])
        offset = steps[:, None] - steps[None, :]
        distance, future = offset.clamp(min=0), offset < 0
        keys, values = [], []
        for number, block in self.numbered():
            is_last = number == len(self.blocks) - 1
            a = block.attn_norm(x)
            keys.append(block.k(a))
            values.append(block.v(a))
            if is_last:
                x, a = x[-1:], a[-1:]
                bias = block.relative_bias[:, distance[-1:]]
            else:
                bias = block.relative_bias[:, distance].masked_fill(future, float("-inf"))
            query = block.heads(block.q(a)) * block.head_dim**-0.5
            weights = (query @ block.heads(keys[-1]).transpose(-2, -1) + bias).softmax(-1)
            x = x + block.mix(weights, block.heads(values[-1]))
            x = x + block.feed_forward(x)
        return torch.stack(keys), torch.stack(values), self.final_norm(x)


class _Step(_Blocks):
    """One event more, against the keys and values of those before it."""

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(1, D), (n_blocks, L-1, D) twice, (n_blocks, H, L) -> new keys and values, h."""
        new_keys, new_values = [], []
        for number, block in self.numbered():
            a = block.attn_norm(x)
            new_keys.append(block.k(a))
            new_values.append(block.v(a))
            all_keys = block.heads(torch.cat([new_keys[-1], keys[number]]))
            all_values = block.heads(torch.cat([new_values[-1], values[number]]))
            query = block.heads(block.q(a)) * block.head_dim**-0.5
            logits = query @ all_keys.transpose(-2, -1) + bias[number][:, None, :]
            x = x + block.mix(logits.softmax(-1), all_values)
            x = x + block.feed_forward(x)
        return torch.cat(new_keys), torch.cat(new_values), self.final_norm(x)


class _Score(nn.Module):
    """Inner products with the user's state."""

    def forward(self, h: Tensor, candidates: Tensor) -> Tensor:
        """(1, D), (M, D) -> (1, M)."""
        return h @ candidates.T


class _WindowStep(nn.Module):
    """The state from the last L events of a Caser."""

    def __init__(self, model: Caser) -> None:
        super().__init__()
        self.window = model.config.window
        self.horizontal = model.horizontal
        self.vertical = model.vertical
        self.fc = model.fc

    def forward(self, window: Tensor) -> Tensor:
        """(L, D), oldest event first -> h (1, D)."""
        pooled = []
        for height, filters in enumerate(self.horizontal.values(), start=1):
            n_positions = self.window - height + 1
            rows = [window[first : first + n_positions] for first in range(height)]
            pooled.append(filters(torch.cat(rows, dim=1)).amax(0))
        mixed = self.vertical(window.T).flatten()
        h: Tensor = self.fc(torch.cat([mixed, torch.cat(pooled).relu()])[None])
        return h


def _functions(model: Backbone) -> Iterator[_Function]:
    """Yield what is exported, function by function."""
    if isinstance(model, SASRec):
        yield from _attention_functions(model)
    elif isinstance(model, Caser):
        window = torch.zeros(model.config.window, model.config.embedding_dim)
        yield "step", _WindowStep(model).eval(), {"window": window}, None
    candidates = torch.zeros(EXAMPLE_CANDIDATES, model.config.embedding_dim)
    # One past the catalogue: every row may be scored at once, padding included.
    rows = Dim("M", min=1, max=max(model.config.n_items + 1, EXAMPLE_CANDIDATES))
    score_inputs = {"h": torch.zeros(1, model.config.embedding_dim), "candidates": candidates}
    yield "score", _Score().eval(), score_inputs, {"h": {}, "candidates": {0: rows}}


def _attention_functions(model: SASRec) -> Iterator[_Function]:
    config = model.config
    cache = torch.zeros(config.n_blocks, config.window - 1, config.embedding_dim)
    x = torch.zeros(EXAMPLE_EVENTS, config.embedding_dim)
    # Bounds reach the examples, so that tiny windows and catalogues export too.
    events = Dim("T", min=1, max=max(config.window, EXAMPLE_EVENTS))
    yield "prefill", _Prefill(model).eval(), {"x": x}, {"x": {0: events}}
    step_inputs = {
        "x": x[:1],
        "keys": cache,
        "values": cache.clone(),
        "bias": torch.zeros(config.n_blocks, config.n_heads, config.window),
    }
    yield "step", _Step(model).eval(), step_inputs, None


def export_executorch(model: Backbone) -> bytes:
    """Export a backbone's functions as one ExecuTorch program for XNNPACK.

    Args:
        model: A backbone in device form whose coded matrices are those of one plan.

    Returns:
        A ``.pte`` with the methods ``prefill``, ``step`` and ``score``; a Caser has no
        ``prefill``.

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
