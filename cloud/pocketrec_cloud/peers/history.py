# SPDX-License-Identifier: Apache-2.0
"""The network as an engineer would export it: a whole history in, candidates' scores out.

Written so that the peers show their best. Bias and mask of every block depend on constants
only, so they are constants here; not every exporter would fold them. There is no batch
dimension and attention is a plain ``bmm``, from which ONNX Runtime makes fewer nodes and
ExecuTorch fewer delegates than from the same thing with a batch of one.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from pocketrec.errors import ConfigError
from pocketrec_cloud.backbones.sasrec import Block, SASRec, SASRecConfig
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.peers import FloatNetwork

__all__ = ["FullHistory", "example_inputs", "write_onnx"]

_EMBEDDINGS = "item_embedding.weight"


class FullHistory(nn.Module):
    """All blocks over all L events, then the last state against the candidates.

    Args:
        backbone: The architecture, a ``sasrec``.
        n_items: V.

    Raises:
        ConfigError: It is another architecture.
    """

    def __init__(self, backbone: BackboneConfig, n_items: int) -> None:
        super().__init__()
        if backbone.kind != "sasrec":
            raise ConfigError(f"expected a sasrec to convert, got a {backbone.kind}")
        model = SASRec(
            SASRecConfig(
                n_items=n_items,
                embedding_dim=backbone.embedding_dim,
                n_blocks=backbone.n_blocks,
                n_heads=backbone.n_heads,
                window=backbone.window,
                ffn_multiplier=backbone.ffn_multiplier,
                dropout=0.0,
            )
        )
        self.item_embedding = model.item_embedding
        self.blocks = model.blocks
        self.final_norm = model.final_norm
        for number in range(backbone.n_blocks):
            bias = torch.zeros(backbone.n_heads, backbone.window, backbone.window)
            self.register_buffer(f"bias_{number}", bias, persistent=False)
        self.eval().requires_grad_(requires_grad=False)

    @classmethod
    def load(cls, network: FloatNetwork) -> Self:
        """Return the module over a network's arrays.

        Raises:
            ConfigError: It is no ``sasrec``.
        """
        module = cls(network.backbone, network.n_items)
        arrays = {**network.weights, _EMBEDDINGS: network.item_embeddings}
        state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        module.load_state_dict(state)
        module.fold()
        return module

    def fold(self) -> None:
        """Compute the constants from the parameters."""
        for number, block in enumerate(self.numbered()):
            bias = self.get_buffer(f"bias_{number}")
            steps = torch.arange(bias.shape[-1])
            offset = steps[:, None] - steps[None, :]
            by_distance = block.relative_bias[:, offset.clamp(min=0)]
            bias.copy_(by_distance.masked_fill(offset < 0, float("-inf")))

    def numbered(self) -> list[Block]:
        """Return the blocks, in order."""
        return cast("list[Block]", list(self.blocks))

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """(L,) integers, (M,) integers -> (M,) float32."""
        x: Tensor = self.item_embedding(history)
        for number, block in enumerate(self.numbered()):
            a = block.attn_norm(x)
            query = block.heads(block.q(a)) * block.head_dim**-0.5
            logits = torch.bmm(query, block.heads(block.k(a)).transpose(-2, -1))
            weights = (logits + self.get_buffer(f"bias_{number}")).softmax(-1)
            mixed = torch.bmm(weights, block.heads(block.v(a)))  # (H, L, D / H)
            x = x + block.o(mixed.transpose(-3, -2).flatten(-2))
            x = x + block.feed_forward(x)
        h: Tensor = self.final_norm(x[-1])
        scores: Tensor = self.item_embedding(candidates) @ h
        return scores


def example_inputs(network: FloatNetwork) -> tuple[Tensor, Tensor]:
    """Return inputs to export with: (L,) and (M,) int64."""
    events = torch.arange(network.backbone.window) % network.n_items + 1
    return events, torch.arange(1, network.n_candidates + 1)


def write_onnx(network: FloatNetwork, out: Path) -> None:
    """Export the network with ``torch.onnx.export``, nothing set but names.

    Args:
        network: What to export.
        out: The file to write.

    Raises:
        ConfigError: It is no ``sasrec``.
        RuntimeError: The exporter returned nothing.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            FullHistory.load(network),
            example_inputs(network),
            dynamo=True,
            input_names=["history", "candidates"],
            output_names=["scores"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("expected a program, the exporter returned none")
    program.save(out)
