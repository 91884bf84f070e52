# SPDX-License-Identifier: Apache-2.0
"""The personal planner: hypernetworks that turn a user embedding into a plan.

Per layer, a *filter-level* network gives an importance f to each channel, and an
*element-level* network gives e to each of its elements, as a product of low rank; one
*layer-level* network gives an importance a to each layer. A channel's score is

    log a_l + log f_{l,c} + log mean_j |e_{l,c,j}|

the logarithm of CHORD's product, so that a sum of moderate terms is sorted instead of a
product of small ones; the order is the same. Nothing here needs torch: ``hypernetworks``
trains what this module evaluates.

Source: CHORD (b) to (d) for the three kinds of networks and their product; the mean of the
magnitudes, rank, activation, the affine standardisation and the allocation are our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.allocation import DEFAULT_HIGH_SHARE, allocate_scores
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.checks import check_integer, read_only, reading
from pocketrec_quantization.layer_text import layers_from_text, layers_to_text
from pocketrec_quantization.layers import LayerTable, total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable
from pocketrec_quantization.planners import UserEmbeddings
from pocketrec_quantization.score_networks import ScoreNetworks
from pocketrec_quantization.tensors import TensorReader, write_tensors

__all__ = ["MAX_MAGNITUDE", "PLANNER_KIND", "TERMS", "HypernetworkConfig", "PersonalPlanner"]

PLANNER_KIND = "pocketrec.planner"
"""What a planner file declares to be."""

MAX_MAGNITUDE = 1e6
"""Of a number in a user embedding: far beyond what extractors give, far from overflow."""

TERMS = ("filter", "element", "layer")
"""The factors of a channel's score that may be used."""

_SEPARATOR = ","
_SIZES = ("embedding_dim", "hidden_dim", "rank")
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class HypernetworkConfig:
    """The shape of the hypernetworks.

    Attributes:
        embedding_dim: D, of user embeddings.
        hidden_dim: Units of each network's hidden layer.
        rank: r, of the element-level importances.
        terms: Of ``TERMS``; without any, everybody has the same plan.

    Raises:
        ConfigError: A size is below 1, or a term is unknown or named twice.
    """

    embedding_dim: int
    hidden_dim: int = 32
    rank: int = 4
    terms: tuple[str, ...] = TERMS

    def __post_init__(self) -> None:
        for name in _SIZES:
            check_integer(getattr(self, name), field=name, minimum=1)
        if [term for term in TERMS if term in self.terms] != list(self.terms):
            raise ConfigError(f"terms: expected some of {TERMS} in this order, got {self.terms}")

    def networks(self, layers: LayerTable) -> tuple[str, ...]:
        """Return the name of every network, in the order of their hidden layers."""
        named = [f"{kind}/{layer.name}" for kind in TERMS[:2] for layer in layers]
        chosen = [name for name in named if name.partition("/")[0] in self.terms]
        return (*chosen, "layer") if "layer" in self.terms else tuple(chosen)

    def shapes(self, layers: LayerTable) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every array of a planner.

        Args:
            layers: The layers that it plans for.
        """
        n_channels, hidden = total_channels(layers), self.hidden_dim
        shapes: dict[str, tuple[int, ...]] = {
            "input/mean": (self.embedding_dim,),
            "score/gain": (n_channels,),
            "score/shift": (n_channels,),
        }
        networks = self.networks(layers)
        if networks:
            shapes["hidden/weight"] = (len(networks) * hidden, self.embedding_dim)
            shapes["hidden/bias"] = (len(networks) * hidden,)
        for layer in layers:
            if "filter" in self.terms:
                shapes[f"filter/{layer.name}/weight"] = (layer.n_channels, hidden)
                shapes[f"filter/{layer.name}/bias"] = (layer.n_channels,)
            if "element" in self.terms:
                width = (layer.n_channels + layer.n_elements) * self.rank
                shapes[f"element/{layer.name}/weight"] = (width, hidden)
                shapes[f"element/{layer.name}/bias"] = (width,)
        if "layer" in self.terms:
            shapes["layer/weight"] = (len(layers), hidden)
            shapes["layer/bias"] = (len(layers),)
        return shapes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PersonalPlanner:
    """Plans of one model, each for the user whose embedding it is given.

    Safe to share between threads.

    Args:
        layers: The layers it was trained for.
        model_digest: 32 bytes, SHA-256 of the frozen part it was trained with.
        config: The shape of the networks.
        arrays: What ``config.shapes(layers)`` names, float32. ``input/mean`` is the
            embedding of an average user; ``score/gain`` and ``score/shift`` are applied to
            each channel's score.
        high_share: See ``allocate_scores``.
        levels: What the tiers mean in bits; a tier of 0 bits prunes its channels.
        name: That plans carry.

    Raises:
        ConfigError: An array is absent, has another shape, or is not finite float32.
    """

    layers: LayerTable
    model_digest: bytes
    config: HypernetworkConfig
    arrays: Mapping[str, NDArray[np.float32]]
    high_share: float = DEFAULT_HIGH_SHARE
    levels: LevelTable = DEFAULT_LEVELS
    name: str = "personal"
    _networks: ScoreNetworks = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.model_digest) != 32:
            raise ConfigError("model_digest: expected 32 bytes")
        if not 0 <= self.high_share <= 1:
            raise ConfigError(f"high_share: expected 0..1, got {self.high_share!r}")
        expected = self.config.shapes(self.layers)
        if expected.keys() != self.arrays.keys():
            odd = min(expected.keys() ^ self.arrays.keys())
            raise ConfigError(f"{odd}: expected exactly the arrays of the networks")
        for name, shape in expected.items():
            array = self.arrays[name]
            if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
                raise ConfigError(
                    f"{name}: expected finite float32 {shape}, got {array.dtype} {array.shape}"
                )
        arrays = {name: read_only(array) for name, array in self.arrays.items()}
        object.__setattr__(self, "arrays", MappingProxyType(arrays))
        networks = ScoreNetworks(self.layers, self.config, arrays)
        object.__setattr__(self, "_networks", networks)

    def plan(self, user_embeddings: UserEmbeddings, budget_bytes: int) -> NDArray[np.uint8]:
        """Make one plan per user; see :class:`~pocketrec_quantization.planners.Planner`.

        Raises:
            ConfigError: An embedding has another length, or numbers beyond ``MAX_MAGNITUDE``.
            InfeasibleBudgetError: Not even the lowest tier everywhere fits.
        """
        return allocate_scores(
            self.scores(user_embeddings),
            self.layers,
            budget_bytes,
            levels=self.levels,
            high_share=self.high_share,
        )

    def plan_bits(self, user_embeddings: UserEmbeddings, average_bits: float) -> NDArray[np.uint8]:
        """Make one plan per user for a budget in bits per weight, scales apart.

        Raises:
            ConfigError: As :meth:`plan`, or ``average_bits`` is outside 0..8.
            InfeasibleBudgetError: ``average_bits`` is below 2.
        """
        return self.plan(user_embeddings, budget_bytes(self.layers, average_bits))

    def scores(self, user_embeddings: UserEmbeddings) -> NDArray[np.float32]:
        """Return how much each channel matters to each user.

        Args:
            user_embeddings: B rows of D; of a row that is None, the population's mean is
                taken.

        Returns:
            (B, C_total) float32, finite.

        Raises:
            ConfigError: An embedding has another length, or numbers beyond ``MAX_MAGNITUDE``.
        """
        scores = self._networks.scores(self._centred(user_embeddings))
        scores *= self.arrays["score/gain"]
        scores += self.arrays["score/shift"]
        return scores

    def with_name(self, name: str) -> PersonalPlanner:
        """Return the same planner under another name."""
        return replace(self, name=name, arrays=dict(self.arrays))

    def to_bytes(self) -> bytes:
        """Serialise as a planner file; equal planners give equal bytes."""
        metadata = {
            **{key: str(getattr(self.config, key)) for key in _SIZES},
            "high_share": repr(float(self.high_share)),
            "layers": layers_to_text(self.layers),
            "levels": _SEPARATOR.join(map(str, self.levels.bits)),
            "model_digest": self.model_digest.hex(),
            "name": self.name,
            "terms": _SEPARATOR.join(self.config.terms),
        }
        return write_tensors(dict(self.arrays), kind=PLANNER_KIND, metadata=metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> PersonalPlanner:
        """Read a planner file.

        Raises:
            MalformedArtifactError: The bytes are no planner file.
            IncompatibleArtifactError: The format's major version is unknown.
        """
        reader = TensorReader(data, kind=PLANNER_KIND)
        with reading("planner"):
            config, layers = _config_of(reader), layers_from_text(reader.text("layers"))
            shapes = config.shapes(layers)
            planner = cls(
                layers=layers,
                model_digest=_parsed(bytes.fromhex, reader.text("model_digest")),
                config=config,
                arrays={name: reader.take(name, np.float32, shapes[name]) for name in shapes},
                high_share=_parsed(float, reader.text("high_share")),
                levels=_levels_of(reader.text("levels")),
                name=reader.text("name"),
            )
        reader.finish()
        return planner

    def _centred(self, user_embeddings: UserEmbeddings) -> NDArray[np.float32]:
        """Return (B, D) float32: zeros are the population's mean."""
        mean, dim = self.arrays["input/mean"], self.config.embedding_dim
        rows = np.empty((len(user_embeddings), dim), np.float32)
        for row, embedding in zip(rows, user_embeddings, strict=True):
            if embedding is not None and embedding.shape != (dim,):
                raise ConfigError(
                    f"user_embedding: expected {dim} dimensions, got shape {embedding.shape}; send "
                    "what the bundle's extractor gives"
                )
            row[:] = mean if embedding is None else embedding
        if not (np.abs(rows) <= MAX_MAGNITUDE).all():  # nor is NaN
            raise ConfigError(
                f"user_embedding: expected numbers of at most {MAX_MAGNITUDE:g} either way, got "
                "larger ones, NaN or infinity"
            )
        rows -= mean
        return rows


def _config_of(reader: TensorReader) -> HypernetworkConfig:
    sizes = {key: reader.count(key) for key in _SIZES}
    terms = reader.text("terms")
    return HypernetworkConfig(**sizes, terms=tuple(terms.split(_SEPARATOR)) if terms else ())


def _levels_of(text: str) -> LevelTable:
    bits = tuple(_parsed(int, part) for part in text.split(_SEPARATOR))
    return LevelTable(bits)  # type: ignore[arg-type]  # refuses other than four


def _parsed(parse: Callable[[str], _Parsed], text: str) -> _Parsed:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"metadata: {error}") from error
