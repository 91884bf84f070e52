# SPDX-License-Identifier: Apache-2.0
"""What ``personal`` trains together: a sliced backbone, and what makes slices or vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from benchmarks.personal_slices import (
    HALF_LIVES,
    Router,
    ShiftedCaser,
    SlicedSASRec,
    decayed_means,
    quantized,
    take_slice,
    ternary,
)
from pocketrec_cloud.backbones.caser import Caser
from pocketrec_cloud.backbones.sasrec import SASRec
from pocketrec_cloud.batches import pad
from pocketrec_cloud.losses import sampled_softmax_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.personal_settings import Setup
    from pocketrec_cloud.backbones.base import Backbone

__all__ = ["PAST", "Batch", "Trained"]

PAST = 200
"""Events that a plan is made from, at most."""

_N_NEGATIVES = 512
_USERS_AT_ONCE = 512
_CONTRAST_SHARPNESS = 10.0
_FIRST_STEP = 0.2  # of the codes of offsets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """B users, padded with zeros at the ends.

    Attributes:
        past: (B, T') int64, the events before the cut.
        past_lengths: (B,) int64.
        inputs: (B, T) int64, the events that the backbone reads.
        targets: (B, T) int64, the event after each of them; 0 before the cut.
    """

    past: Tensor
    past_lengths: Tensor
    inputs: Tensor
    targets: Tensor


class Trained(nn.Module):
    """What one setup trains together.

    Args:
        model: The float backbone it starts from; unchanged.
        setup: What may change by user, and what is trained.
    """

    def __init__(self, model: Backbone, setup: Setup) -> None:
        super().__init__()
        self.setup = setup
        self.sliced = _opened(model)
        dim, blocks = model.config.embedding_dim, self.sliced.n_blocks
        self.n_kept = min(self.sliced.width, max(1, round(setup.kept * dim)))
        self.shift = nn.Parameter(_standardised(self.sliced.importance().log()))
        is_offset = bool(setup.rival)
        n_generated = 2 * dim if setup.rival == "adapter" else dim
        self.steps = nn.Parameter(torch.full((blocks, dim), _FIRST_STEP))
        self.router = Router(
            len(HALF_LIVES) * dim,
            (blocks, n_generated if is_offset else self.sliced.width),
            hidden=setup.hidden,
            dropout=setup.router_dropout,
            is_standardised=not is_offset,
            uses_batch=setup.is_batch_standardised,
        )
        if setup.rival == "adapter":  # a product of two zeros does not learn
            nn.init.normal_(self.router.outer.bias.view(blocks, 2, dim)[:, 1])
        self.future = nn.Linear(setup.hidden, dim)
        if setup.bits:
            self._quantize()

    @property
    def is_personal(self) -> bool:
        """Whether users differ in anything but their window."""
        return self.setup.plan == "personal" or (bool(self.setup.rival) and not self.setup.is_blind)

    @cached_property
    def coded(self) -> list[nn.Module]:
        """The layers that plans code."""
        backbone = self.sliced.backbone
        return [backbone.get_submodule(name) for name in backbone.coded_names()]

    def _quantize(self) -> None:
        for layer in self.coded:
            if self.setup.is_pool_trained:
                parametrize.register_parametrization(
                    layer, "weight", _OnGrid(layer.get_parameter("weight"), self.setup.bits)
                )
            else:
                weight = layer.get_parameter("weight")
                read = quantized(weight.detach().numpy(), self.setup.bits)
                weight.data.copy_(torch.from_numpy(read.copy()))
                weight.requires_grad = False

    def keep_as(self, state: Mapping[str, Tensor]) -> None:
        """Take over a trained model that only differs in who tells users apart, and freeze it.

        Args:
            state: Of a ``Trained`` with the same backbone, slice and widths.
        """
        own = ("router.", "steps", "future.")
        shared = {name: value for name, value in state.items() if not name.startswith(own)}
        self.load_state_dict(shared, strict=False)
        for name, value in self.named_parameters():
            value.requires_grad = name.startswith(own)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch calls it so
        """See ``nn.Module.train``: what is kept as it is has no dropout either."""
        super().train(mode)
        if self.setup.base:
            self.sliced.eval()
        return self

    def refresh(self) -> None:
        """Find the scales of weights that are trained anew."""
        if self.setup.bits and self.setup.is_pool_trained:
            for layer in self.coded:
                original = layer.get_parameter("parametrizations.weight.original")
                for grid in layer.get_submodule("parametrizations.weight").children():
                    if isinstance(grid, _OnGrid):
                        grid.find(original)

    def describe(self, past: Tensor, lengths: Tensor) -> Tensor:
        """Return what the router reads of users, (B, n) float32."""
        backbone = self.sliced.backbone
        if not self.is_personal:
            return past.new_zeros(
                (past.shape[0], len(HALF_LIVES) * backbone.config.embedding_dim),
                dtype=torch.float32,
            )
        with torch.no_grad():
            rows = backbone.item_embedding.weight * backbone.input_scale
            return decayed_means(rows, past, lengths)

    def slices(self, z: Tensor, temperature: float = 1.0) -> Tensor:
        """Return (B, n_blocks, W), 0 or 1: each user's slice."""
        return take_slice(self.scores(z), self.n_kept, temperature)

    def scores(self, z: Tensor) -> Tensor:
        """Return (B, n_blocks, W) float32: what a slice is taken by."""
        if self.setup.plan != "personal":
            return self.shift.expand(z.shape[0], -1, -1)
        own: Tensor = self.router(z)
        if self.training and self.setup.noise:
            own = own + self.setup.noise * torch.randn_like(own)
        n_shared = round(self.setup.shared * self.n_kept)
        if not n_shared:
            return own + self.shift
        order = self.shift.detach().topk(n_shared, dim=-1).indices
        everybody = torch.zeros_like(self.shift).scatter_(-1, order, 1e4)
        return own + everybody

    def offsets(self, z: Tensor) -> Tensor | None:
        """Return (B, n_blocks, D) or (B, n_blocks, 2 D), each user's vectors; None without any."""
        if not self.setup.rival:
            return None
        raw: Tensor = self.router(z)
        return ternary(raw) * self.steps if self.setup.rival == "codes" else raw

    def apply_to(self, z: Tensor, temperature: float = 1.0) -> None:
        """Make the next batch compute as these users' devices would."""
        slices = None if self.setup.plan == "none" else self.slices(z, temperature)
        self.sliced.use(slices, self.offsets(z))

    def loss(self, batch: Batch, temperature: float) -> Tensor:
        """Return the mean loss of the events after the cuts, () float32."""
        z = self.describe(batch.past, batch.past_lengths)
        self.apply_to(z, temperature)
        real = batch.targets > 0
        items = self.sliced.backbone.item_embedding.weight
        states = self.sliced.backbone(batch.inputs)
        loss = sampled_softmax_loss(
            states[real], batch.targets[real], items, n_negatives=_N_NEGATIVES
        )
        if self.setup.contrast and z.shape[0] > 1:
            loss = loss + self.setup.contrast * self._contrast(z, batch.targets)
        return loss

    def _contrast(self, z: Tensor, targets: Tensor) -> Tensor:
        """Tell from the router's hidden layer whose future is whose (InfoNCE)."""
        rows = self.sliced.backbone.item_embedding.weight.detach()
        counts = (targets > 0).sum(1, keepdim=True)
        futures = functional.normalize(rows[targets].sum(1) / counts, dim=1)
        own = functional.normalize(self.future(self.router.inner(z)), dim=1)
        logits = _CONTRAST_SHARPNESS * own @ futures.T
        return functional.cross_entropy(logits, torch.arange(z.shape[0]))

    @torch.no_grad()
    def describe_all(self, histories: Sequence[NDArray[np.int32]]) -> Tensor:
        """Return what the router reads of U users, (U, n) float32."""
        parts = []
        for start in range(0, len(histories), _USERS_AT_ONCE):
            rows = [history[-PAST:] for history in histories[start : start + _USERS_AT_ONCE]]
            parts.append(self.describe(pad(rows), torch.tensor([row.shape[0] for row in rows])))
        return torch.cat(parts)

    def scorer(
        self,
        histories: Sequence[NDArray[np.int32]],
        z: Tensor,
        *,
        slices: NDArray[np.bool_] | None = None,
        offsets: Tensor | None = None,
    ) -> Callable[[NDArray[np.int64]], Tensor]:
        """Return what scores the catalogue for rows of histories.

        Args:
            histories: U histories, oldest event first.
            z: (U, n), whose plans or vectors to use.
            slices: (U, n_blocks, W) or (1, n_blocks, W), instead of those that z gives.
            offsets: (U, n_blocks, D), likewise.
        """
        backbone = self.sliced.backbone
        window = backbone.config.window

        @torch.no_grad()
        def score(rows: NDArray[np.int64]) -> Tensor:
            recent = [histories[row][-window:] for row in rows]
            lengths = torch.tensor([row.shape[0] for row in recent])
            self.apply_to(z[torch.from_numpy(rows)])
            if slices is not None:
                own = slices[rows] if len(slices) > 1 else np.repeat(slices, len(rows), axis=0)
                self.sliced.slices = torch.from_numpy(own.astype(np.float32))
            if offsets is not None:
                self.sliced.offsets = offsets[torch.from_numpy(rows)]
            states = backbone.last_states(pad(recent), lengths)
            return states @ backbone.item_embedding.weight.T

        return score


class _OnGrid(nn.Module):
    """Rounds a matrix to the codes of one width; gradients pass as if it did not."""

    scale: Tensor

    def __init__(self, weights: Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.largest = bits, 2 ** (bits - 1) - 1
        self.register_buffer("scale", torch.ones(weights.shape[0], 1))
        self.find(weights)

    def find(self, weights: Tensor) -> None:
        """Take the scales that the quantizer finds for these weights."""
        read = np.abs(quantized(weights.detach().numpy(), self.bits)).max(axis=1, keepdims=True)
        self.scale.copy_(torch.from_numpy(read / self.largest))

    def forward(self, weights: Tensor) -> Tensor:
        step = self.scale.clamp(min=torch.finfo(torch.float32).tiny)
        codes = torch.round(weights.detach() / step).clamp(-self.largest, self.largest)
        return codes * self.scale + (weights - weights.detach())


def _opened(model: Backbone) -> SlicedSASRec | ShiftedCaser:
    if isinstance(model, SASRec):
        return SlicedSASRec(model)
    if isinstance(model, Caser):
        return ShiftedCaser(model)
    raise TypeError(f"expected a SASRec or a Caser, found {type(model).__name__}")


def _standardised(values: Tensor) -> Tensor:
    variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
    return (values - mean) / (variance + 1e-5).sqrt()
