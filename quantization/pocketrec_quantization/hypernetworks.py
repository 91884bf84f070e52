# SPDX-License-Identifier: Apache-2.0
"""Trains what ``personal`` evaluates: hypernetworks, and hard plans with soft gradients.

Needs torch, and is the only module here that does: devices never import it.

Forward, every user gets the plan that a budget allows, exactly as ``allocate_scores`` makes
it. Backward, a channel's tier is a softmax over how far its score lies from the two scores
at which the tiers of that user's plan change, so that scores learn from channels near a
border.

Source: CHORD (b) to (d) for the networks; hard forward and soft backward are our choice,
after Bengio et al. 2013 (straight-through estimators).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.personal import HypernetworkConfig, PersonalPlanner
from pocketrec_quantization.score_networks import EPSILON

if TYPE_CHECKING:
    from pocketrec_quantization.allocation import Spending
    from pocketrec_quantization.layers import LayerTable

__all__ = ["Hypernetworks", "allocate", "tiers"]

_MOMENTUM = 0.05
_EPSILON = float(EPSILON)
_FILTER, _ELEMENT, _LAYER = "filter", "element", "layer"


class Hypernetworks(nn.Module):
    """From user embeddings to one score per channel.

    Args:
        layers: The model's layers.
        config: The shape of the networks.
        is_standardised: Whether each channel's score is standardised against the
            population, so that a plan is ranked by what sets its user apart. What is
            important to everybody is learned beside it as one shift per channel.

    Source:
        CHORD for the networks; standardisation is our choice, against plans that are the
        same for everybody.
    """

    input_mean: Tensor
    score_mean: Tensor
    score_variance: Tensor

    def __init__(
        self, layers: LayerTable, config: HypernetworkConfig, *, is_standardised: bool = False
    ) -> None:
        super().__init__()
        self.layers, self.config = layers, config
        self.is_standardised = is_standardised
        n_channels, hidden = total_channels(layers), config.hidden_dim
        self.shift = nn.Parameter(torch.zeros(n_channels))
        self.register_buffer("input_mean", torch.zeros(config.embedding_dim))
        self.register_buffer("score_mean", torch.zeros(n_channels))
        self.register_buffer("score_variance", torch.ones(n_channels))
        networks = config.networks(layers)
        self.hidden = nn.Linear(config.embedding_dim, max(1, len(networks)) * hidden)
        self.filters, self.elements = nn.ModuleList(), nn.ModuleList()
        for layer in layers:
            if _FILTER in config.terms:
                self.filters.append(nn.Linear(hidden, layer.n_channels))
            if _ELEMENT in config.terms:
                width = (layer.n_channels + layer.n_elements) * config.rank
                self.elements.append(nn.Linear(hidden, width))
        self.layer = nn.Linear(hidden, len(layers)) if _LAYER in config.terms else None

    def forward(self, user_embeddings: Tensor) -> Tensor:
        """Return scores.

        Args:
            user_embeddings: (B, D) float32.

        Returns:
            (B, C_total) float32; while training, standardised by the batch if at all.
        """
        raw = self._raw(user_embeddings - self.input_mean)
        if not self.is_standardised:
            return raw + self.shift
        if self.training and raw.shape[0] > 1:
            variance, mean = torch.var_mean(raw, dim=0, correction=0)
            with torch.no_grad():
                self.score_mean.lerp_(mean, _MOMENTUM)
                self.score_variance.lerp_(variance, _MOMENTUM)
        else:
            mean, variance = self.score_mean, self.score_variance
        return (raw - mean) * (variance + _EPSILON).rsqrt() + self.shift

    @torch.no_grad()
    def fit_population(self, user_embeddings: Tensor) -> None:
        """Take in what is typical of all users: their mean embedding, and their scores.

        Inputs are centred there, which changes no score, so that a user of whom nothing is
        known is the average one.

        Args:
            user_embeddings: (U, D) float32.
        """
        centre = user_embeddings.mean(0)
        self.hidden.bias.add_(self.hidden.weight @ (centre - self.input_mean))
        self.input_mean.copy_(centre)
        if self.is_standardised:
            raw = torch.cat(
                [self._raw(part - centre) for part in torch.split(user_embeddings, 1024)]
            )
            variance, mean = torch.var_mean(raw, dim=0, correction=0)
            self.score_mean.copy_(mean)
            self.score_variance.copy_(variance)

    def planner(self, model_digest: bytes, *, name: str = "personal") -> PersonalPlanner:
        """Return what a server evaluates: the same scores, without torch.

        Args:
            model_digest: 32 bytes, SHA-256 of the frozen part.
            name: That plans carry.
        """
        gain, shift = np.ones(self.shift.shape, np.float32), _array(self.shift)
        if self.is_standardised:
            gain = _array((self.score_variance + _EPSILON).rsqrt())
            shift = shift - _array(self.score_mean) * gain
        arrays = {
            "input/mean": _array(self.input_mean),
            "score/gain": gain,
            "score/shift": shift,
        }
        heads: dict[str, nn.Module] = {"hidden": self.hidden} if self.config.terms else {}
        for kind, modules in ((_FILTER, self.filters), (_ELEMENT, self.elements)):
            if len(modules):
                names = [f"{kind}/{layer.name}" for layer in self.layers]
                heads |= dict(zip(names, modules, strict=True))
        if self.layer is not None:
            heads[_LAYER] = self.layer
        for head, module in heads.items():
            arrays |= {f"{head}/{key}": _array(value) for key, value in module.named_parameters()}
        return PersonalPlanner(
            layers=self.layers,
            model_digest=model_digest,
            config=self.config,
            arrays=arrays,
            name=name,
        )

    def _raw(self, z: Tensor) -> Tensor:
        """Return (B, C_total), the sum of the logarithms of the terms."""
        if not self.config.terms:
            return z.new_zeros(z.shape[0], self.shift.shape[0])
        hidden = list(torch.split(functional.relu(self.hidden(z)), self.config.hidden_dim, dim=-1))
        parts: dict[str, list[Tensor]] = {_FILTER: [], _ELEMENT: []}
        for head in self.filters:
            parts[_FILTER].append(_log_softplus(head(hidden.pop(0))))
        for head, layer in zip(self.elements, self.layers, strict=False):
            factors = head(hidden.pop(0))
            parts[_ELEMENT].append(_log_mean_magnitude(factors, layer.n_channels, self.config.rank))
        terms = [torch.cat(found, dim=-1) for found in parts.values() if found]
        if self.layer is not None:
            sizes = torch.tensor([layer.n_channels for layer in self.layers], device=z.device)
            of_layer = _log_softplus(self.layer(hidden.pop(0)))
            terms.append(of_layer.repeat_interleave(sizes, dim=-1))
        return torch.stack(terms).sum(0)


def allocate(scores: Tensor, spending: Spending) -> Tensor:
    """Give tiers to channels: ``allocate_scores`` in torch, code for code.

    Args:
        scores: (B, C_total) float32, finite.
        spending: What tiers cost, and what may be spent.

    Returns:
        (B, C_total) int64, codes 1..3.
    """
    return _Allocation.of(scores.detach(), spending).codes


def tiers(scores: Tensor, spending: Spending, temperature: float) -> Tensor:
    """Return how much of each tier a channel has: one hot, with soft gradients.

    Args:
        scores: (B, C_total) float32, finite.
        spending: What tiers cost, and what may be spent.
        temperature: Scores that lie so far from a border hardly learn.

    Returns:
        (B, C_total, 3) float32, tiers 1 to 3; 1 for the tier of the plan.
    """
    found = _Allocation.of(scores.detach(), spending)
    hard = functional.one_hot(found.codes - 1, 3).to(scores.dtype)
    above_middle = (scores - found.middle_border) / temperature
    above_high = (scores - found.high_border) / temperature
    logits = torch.stack(
        [torch.zeros_like(scores), above_middle, above_middle + above_high], dim=-1
    )
    soft = logits.softmax(-1)
    return hard + (soft - soft.detach())


class _Allocation:
    """Codes, and the scores at which they change.

    Attributes:
        codes: (B, C_total) int64, 1..3.
        middle_border: (B, 1), between tiers 1 and 2.
        high_border: (B, 1), between tiers 2 and 3.
    """

    def __init__(self, codes: Tensor, middle_border: Tensor, high_border: Tensor) -> None:
        self.codes, self.middle_border, self.high_border = codes, middle_border, high_border

    @classmethod
    def of(cls, scores: Tensor, spending: Spending) -> _Allocation:
        descending, order = torch.sort(-scores, dim=1, stable=True)
        costs = np.stack([spending.first_bytes, spending.second_bytes])
        first_bytes, second_bytes = torch.from_numpy(costs).to(scores.device)
        first, second = first_bytes[order].cumsum(1), second_bytes[order].cumsum(1)
        affordable = (first + second <= spending.high_bytes).sum(1)
        spare = spending.left_bytes - int(spending.first_bytes.sum())
        n_high = torch.maximum(affordable, (second <= spare).sum(1))
        spent = second.gather(1, (n_high - 1).clamp(min=0)[:, None])[:, 0] * (n_high > 0)
        n_raised = (first <= (spending.left_bytes - spent)[:, None]).sum(1)
        place = torch.arange(scores.shape[1], device=scores.device)
        ranked = 1 + (place < n_raised[:, None]).long() + (place < n_high[:, None]).long()
        codes = torch.empty_like(ranked).scatter_(1, order, ranked)
        return cls(codes, _border(-descending, n_raised), _border(-descending, n_high))


def _border(descending: Tensor, n_above: Tensor) -> Tensor:
    """Return the score halfway between the last one above and the first one below, (B, 1)."""
    last = descending.shape[1] - 1
    above = descending.gather(1, (n_above - 1).clamp(0, last)[:, None])
    below = descending.gather(1, n_above.clamp(0, last)[:, None])
    return (above + below) / 2


def _log_softplus(x: Tensor) -> Tensor:
    return torch.log(functional.softplus(x) + _EPSILON)


def _log_mean_magnitude(factors: Tensor, n_channels: int, rank: int) -> Tensor:
    """Return log(mean_j |e_cj| + epsilon) of e = P Q, (B, C)."""
    left = factors[:, : n_channels * rank].reshape(-1, n_channels, rank)
    right = factors[:, n_channels * rank :].reshape(left.shape[0], rank, -1)
    return torch.log((left @ right).abs().mean(-1) + _EPSILON)


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)
