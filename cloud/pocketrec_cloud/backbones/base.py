# SPDX-License-Identifier: Apache-2.0
"""What training, calibration and export ask of a backbone, whatever its kind.

A backbone turns the events of a history into states, which rank items by inner product
with their embeddings. Every matrix that a plan codes is an ``nn.Linear`` whose inputs and
outputs have users first and channels last, so that one set of hooks serves every kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from pocketrec_cloud.compression.embedding import CodebookEmbedding
from pocketrec_quantization.backbone import BackboneConfig, coded_layers

__all__ = ["Backbone", "BackboneShape", "ItemEmbedding", "initialise"]

ItemEmbedding: TypeAlias = nn.Embedding | CodebookEmbedding
"""(V + 1, D) float32 as ``weight``, row 0 is padding and zero."""

EMBEDDING_STD = 0.02


class BackboneShape(Protocol):
    """A dataclass with the numbers that a backbone is made from."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    kind: ClassVar[str]
    """The name of the kind in checkpoints and manifests."""

    @property
    def n_items(self) -> int:
        """V, padding not counted."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D."""
        ...

    @property
    def window(self) -> int:
        """L, how many events a state is made from."""
        ...

    @property
    def training_events(self) -> int:
        """Events of the stretches that training and calibration cut out, from L."""
        ...

    def architecture(self) -> BackboneConfig:
        """Return what a manifest says about the backbone."""
        ...


class Backbone(nn.Module, ABC):
    """A sequence model that can be trained, quantized and exported.

    Attributes:
        config: Its shape.
        item_embedding: (V + 1, D), row 0 is padding and zero; a row for each item, or
            codebooks.
        input_scale: Factor on item embeddings as inputs; 1 in device form.
    """

    config: BackboneShape
    item_embedding: ItemEmbedding
    input_scale: float

    @abstractmethod
    def forward(self, items: Tensor) -> Tensor:
        """Encode histories that are padded at their end.

        Args:
            items: (B, T) int64 item indices, 0 after the end.

        Returns:
            (B, T, D) float32, the state after each event.
        """

    @abstractmethod
    def fold_input_scale(self) -> None:
        """Move ``input_scale`` into the embeddings, in place; scores stay what they were.

        Raises:
            QuantizationError: The model has what no device computes.
        """

    def last_states(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Return the state after each history's last event.

        Args:
            items: (B, T) int64, as for ``forward``.
            lengths: (B,) int64, events per history, at least 1.

        Returns:
            (B, D) float32.
        """
        rows = torch.arange(items.shape[0], device=items.device)
        states: Tensor = self(items)
        return states[rows, lengths - 1]

    def multiply_items_(self, factor: float) -> None:
        """Multiply all item embeddings by a factor, in place."""
        if isinstance(self.item_embedding, CodebookEmbedding):
            self.item_embedding.multiply_(factor)
            return
        with torch.no_grad():
            self.item_embedding.weight.mul_(factor)

    def coded_names(self) -> list[str]:
        """Return the names of the coded matrices, in plan order, without ``.weight``."""
        return [layer.name for layer in coded_layers(self.config.architecture())]


def initialise(model: Backbone) -> None:
    """Draw a model's first weights: Xavier for matrices, small normal embeddings."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.item_embedding.weight, std=EMBEDDING_STD)
    with torch.no_grad():
        model.item_embedding.weight[0].zero_()
