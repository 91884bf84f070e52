# SPDX-License-Identifier: Apache-2.0
"""Which layer of a plan is to blame, and what 8 bits for it would bring.

A layer is to blame for the part of the squared error of users' states, against 8 bits
everywhere, that goes when this layer gets 8 bits and all others stay as planned. That is
computed for a sample of users. A layer that has 8 bits already is to blame for nothing: no plan
could do better. ``what_if`` says what it means in quality.

Source: our choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.metrics import Interval
from pocketrec_device.debugging.output_errors import OutputError, measure_outputs
from pocketrec_device.debugging.progress import SILENT, Progress
from pocketrec_device.debugging.standings import Catalogue
from pocketrec_device.debugging.states import UserStates
from pocketrec_device.debugging.what_if import Users, WhatIf, squared_error
from pocketrec_quantization.budget import coded_bytes, effective_bits
from pocketrec_quantization.layers import LayerShape, split_by_layer
from pocketrec_quantization.levels import WIDTHS, count_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.cases import EvaluationCases

__all__ = ["BlameOptions", "BlameReport", "LayerBlame", "find_blame"]

_BEST_WIDTH = WIDTHS[-1]
_TRACED_USERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BlameOptions:
    """How a search goes about it.

    Args:
        n_sampled: Users that blame is found with, at most.
        n_measured: Layers, the first to blame first, for which all users are computed with
            the layer at 8 bits; the others' gains are predicted only.
        threads: Threads per call.
        seed: Of the sample and of tie-breaks.
    """

    n_sampled: int = 500
    n_measured: int = 0
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBlame:
    """One layer under a plan.

    Attributes:
        name: The layer.
        n_channels: C_l.
        n_elements: N_l.
        channels_by_bits: Channels per width.
        effective_bits: Bits per weight, scales counted.
        coded_bytes: Bytes, scales included.
        output: What its outputs suffer.
        state_error: Relative L2 of users' states when all other layers have 8 bits.
        blame: Share of the plan's squared state error that goes when it gets 8 bits.
        added_bytes: What these 8 bits cost.
        predicted: What they would bring, predicted; None if it has them.
        measured: The same, measured; None if it has them, or where not asked for.
    """

    name: str
    n_channels: int
    n_elements: int
    channels_by_bits: Mapping[int, int]
    effective_bits: float
    coded_bytes: int
    output: OutputError
    state_error: float
    blame: float
    added_bytes: int
    predicted: WhatIf | None
    measured: WhatIf | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlameReport:
    """A plan's layers, the one to blame first.

    Attributes:
        outputs_against: What outputs of layers were compared with.
        n_users: Held-out users that were ranked for.
        n_sampled: Of these, the users that blame was found with.
        state_error: Relative L2 of users' states under the plan, over the sample.
        ndcg: NDCG@10 under the plan.
        ndcg_best: NDCG@10 at 8 bits everywhere.
        overlap: Share of the first 10 items that 8 bits everywhere list too.
        layers: By falling blame.
    """

    outputs_against: str
    n_users: int
    n_sampled: int
    state_error: float
    ndcg: Interval
    ndcg_best: Interval
    overlap: Interval
    layers: tuple[LayerBlame, ...]


def find_blame(
    bundle: BundleFolder,
    widths: NDArray[np.uint8],
    cases: EvaluationCases,
    float_weights: Mapping[str, NDArray[np.float32]] | None = None,
    *,
    options: BlameOptions = BlameOptions(),
    progress: Progress = SILENT,
) -> BlameReport:
    """Rank the layers of a plan by blame.

    Args:
        bundle: A bundle with graphs.
        widths: (C_total,) uint8, bits per channel, of a plan for it.
        cases: Held-out users.
        float_weights: What the bundle was quantized from, ``"<layer>.weight"`` to
            (C_l, N_l) float32; None compares outputs with those of 8 bits.
        options: How to go about it.
        progress: Told how far it is.

    Raises:
        IncompatibleArtifactError: The cases are of another catalogue.
        ArtifactError: The bundle cannot be used.
        QuantizationError: The widths do not fit the bundle.
        BackendError: Inference failed.
    """
    cases.check_catalogue(bundle.manifest.items.n_items)
    return _Search(bundle, widths, cases, float_weights, options, progress).report()


class _Search:
    """One search; arguments are those of ``find_blame``."""

    def __init__(  # noqa: PLR0917  # one caller, just above
        self,
        bundle: BundleFolder,
        widths: NDArray[np.uint8],
        cases: EvaluationCases,
        float_weights: Mapping[str, NDArray[np.float32]] | None,
        options: BlameOptions,
        progress: Progress,
    ) -> None:
        frozen = bundle.read_frozen()
        self._bundle, self._cases, self._frozen = bundle, cases, frozen
        self._options, self._progress = options, progress
        self._planned = frozen.adapt(widths)
        self._best = frozen.adapt(np.full_like(widths, _BEST_WIDTH))
        self._widths = split_by_layer(widths, frozen.layers)
        self._against = "8 bits" if float_weights is None else "float weights"
        self._exact = self._best if float_weights is None else dict(float_weights)
        self._states = UserStates(bundle, cases, threads=options.threads)
        sample = min(options.n_sampled, cases.n_cases)
        rng = np.random.default_rng(options.seed)
        self._sample = np.sort(rng.choice(cases.n_cases, sample, replace=False))

    def report(self) -> BlameReport:
        """Return what is found."""
        users, sample = self._all_users(), self._sample
        error = users.error(sample)
        outputs = self._output_errors()
        self._progress.begin("one layer after the other", len(self._frozen.layers))
        layers = [
            self._blame(layer, outputs[layer.name], users, error) for layer in self._frozen.layers
        ]
        layers.sort(key=lambda layer: -layer.blame)
        if self._options.n_measured:
            layers = self._measure(layers, users)
        return BlameReport(
            outputs_against=self._against,
            n_users=self._cases.n_cases,
            n_sampled=len(sample),
            state_error=float(np.sqrt(error)),
            ndcg=users.ndcg,
            ndcg_best=users.ndcg_best,
            overlap=users.overlap,
            layers=tuple(layers),
        )

    def _all_users(self) -> Users:
        rows, advance = np.arange(self._cases.n_cases), self._progress.advance
        self._progress.begin("all users, as planned and at 8 bits", 2 * len(rows))
        planned = self._states.under(self._planned, rows, advance)
        best = self._states.under(self._best, rows, advance)
        embeddings = self._bundle.read_items().embed(np.arange(self._cases.n_items + 1))
        catalogue = Catalogue(self._cases, embeddings, seed=self._options.seed)
        return Users(catalogue, planned, best)

    def _output_errors(self) -> dict[str, OutputError]:
        config, dense = self._bundle.manifest.backbone, self._frozen.dense
        items, traced = self._bundle.read_items(), self._sample[:_TRACED_USERS].tolist()
        self._progress.begin("outputs of every layer", len(traced))

        def histories() -> Iterator[NDArray[np.float32]]:
            for case in traced:
                yield items.embed(self._cases.history(case)[-config.window :])
                self._progress.advance(1)

        exact, planned = {**dense, **self._exact}, {**dense, **self._planned}
        return measure_outputs(exact, planned, config, histories())

    def _blame(
        self, layer: LayerShape, output: OutputError, users: Users, error: float
    ) -> LayerBlame:
        widths, sample = self._widths[layer.name], self._sample
        is_best = bool((widths == _BEST_WIDTH).all())
        key, best = f"{layer.name}.weight", users.best[sample]
        alone, share, predicted = 0.0, 1.0, None
        if not is_best:
            only = self._states.under({**self._best, key: self._planned[key]}, sample)
            alone = squared_error(only, best)
            mended = self._states.under(self._mended(layer.name), sample)
            share = squared_error(mended, best) / error if error else 1.0
            predicted = users.predict(mended, sample, share)
        own_bytes = coded_bytes((layer,), widths)
        best_bytes = coded_bytes((layer,), np.full_like(widths, _BEST_WIDTH))
        self._progress.advance(1)
        return LayerBlame(
            name=layer.name,
            n_channels=layer.n_channels,
            n_elements=layer.n_elements,
            channels_by_bits=count_widths(widths),
            effective_bits=effective_bits((layer,), widths),
            coded_bytes=own_bytes,
            output=output,
            state_error=float(np.sqrt(alone)),
            blame=1 - share,
            added_bytes=best_bytes - own_bytes,
            predicted=predicted,
        )

    def _measure(self, layers: list[LayerBlame], users: Users) -> list[LayerBlame]:
        rows = np.arange(self._cases.n_cases)
        coarse = [layer.name for layer in layers if layer.predicted is not None]
        chosen = coarse[: self._options.n_measured]
        self._progress.begin("all users, one layer at 8 bits", len(rows) * len(chosen))
        return [
            replace(layer, measured=users.measure(self._with(layer.name, rows)))
            if layer.name in chosen
            else layer
            for layer in layers
        ]

    def _with(self, layer: str, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return states with one layer at 8 bits."""
        return self._states.under(self._mended(layer), rows, self._progress.advance)

    def _mended(self, layer: str) -> dict[str, NDArray[np.float32]]:
        """The plan's weights, but for one layer at 8 bits."""
        return {**self._planned, f"{layer}.weight": self._best[f"{layer}.weight"]}
