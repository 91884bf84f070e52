# SPDX-License-Identifier: Apache-2.0
"""Turns a history into the user embedding: all that a device ever tells about its user.

With the ``onnxruntime`` backend the bundle's graph runs; every other backend computes the
same weights, read out of that graph, with the NumPy reference. No plan changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BackendError, HealthCheckError
from pocketrec.telemetry import import_onnxruntime
from pocketrec_device.backends.onnx_errors import foreign_errors, load_error
from pocketrec_quantization.bundle import EXTRACT
from pocketrec_quantization.quantizer import quantize_rows

if TYPE_CHECKING:
    from pocketrec_device.engine import Engine, Items
    from pocketrec_device.settings import EngineSettings
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.extract_vectors import ExtractVectors

__all__ = ["CodedEmbedding", "UserExtractor", "build_extractor", "check_extractor", "embed_under"]

_Run: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UserExtractor:
    """A bundle's extractor, ready to compute; safe to share between threads.

    Args:
        window: How many events it looks back at most.
        run: (T, D) float32 to (D,) float32.
    """

    window: int
    run: _Run

    def embed(self, items: Items, history: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the user embedding after a history, (D,) float32; None without one.

        Args:
            items: The bundle's; what they do not know is left out.
            history: Item ids, oldest first.

        Raises:
            BackendError: Inference failed.
        """
        indices = items.indices_of(history)
        known = indices[indices > 0][-self.window :]
        return self.run(items.embeddings(known)) if known.size else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedEmbedding:
    """A user embedding as it travels: D bytes and a scale.

    Args:
        codes: D times int8, within -127..127.
        scale: Above 0; an entry is code times scale.
    """

    codes: bytes
    scale: float

    @classmethod
    def of(cls, z: NDArray[np.float32]) -> CodedEmbedding:
        """Quantize a user embedding.

        Args:
            z: (D,) float32.

        Raises:
            QuantizationError: It is not finite.
        """
        codes, scales = quantize_rows(z[None])
        return cls(codes=codes.tobytes(), scale=float(scales[0]) or 1.0)  # zeros at any scale


def build_extractor(bundle: BundleFolder, settings: EngineSettings) -> UserExtractor | None:
    """Return a bundle's extractor, or None when it has none.

    Args:
        bundle: Its parts are verified as they are read.
        settings: Which backend computes.

    Raises:
        ArtifactError: It is damaged, or needs another release.
        BackendError: The library refuses the graph.
    """
    info = bundle.manifest.extractor
    if info is None:
        return None
    reference = bundle.read_extractor()  # also refuses graphs that compute something else
    is_graph_run = settings.backend == "onnxruntime"
    run = _graph(bundle.read(EXTRACT), settings.threads) if is_graph_run else reference.embed
    return UserExtractor(window=info.window, run=run)


def embed_under(
    bundle: BundleFolder, running: Engine, history: Sequence[str]
) -> NDArray[np.float32] | None:
    """Return the user embedding as a bundle's extractor has it, (D,) float32.

    Args:
        bundle: Installed, or about to be: embeddings of two bundles cannot be compared.
        running: What runs now; used if it is of that bundle.
        history: Item ids, oldest first.

    Returns:
        None without a history, or an extractor.

    Raises:
        ArtifactError: The bundle is damaged, or needs another release.
        BackendError: The library refuses the graph, or inference failed.
    """
    if running.pair.bundle == bundle.digest.hex():
        extractor, items = running.extractor, running.items
    else:
        extractor, items = build_extractor(bundle, running.settings), bundle.read_items()
    return None if extractor is None else extractor.embed(items, history)


def check_extractor(extractor: UserExtractor, items: Items, vectors: ExtractVectors) -> None:
    """Return quietly when an extractor gives the expected user embeddings.

    Args:
        extractor: What to prove.
        items: Of the same bundle.
        vectors: Of the same bundle.

    Raises:
        HealthCheckError: An entry is further off than the tolerance, or inference fails.
    """
    for number, case in enumerate(vectors.cases):
        try:
            z = extractor.run(items.embed(case.history))
        except BackendError as exc:
            raise HealthCheckError(f"the extractor cannot be computed: {exc}") from exc
        error = float(np.abs(z - case.z).max())
        if not error <= vectors.tolerance:  # NaN must fail too
            raise HealthCheckError(
                f"extract vector {number}: expected an error within {vectors.tolerance:g}, got "
                f"{error:g}; the bundle was not installed"
            )


def _graph(graph: bytes, threads: int) -> _Run:
    """Return what runs the graph in ONNX Runtime."""
    ort = import_onnxruntime()
    errors = foreign_errors(ort)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors arrive as exceptions
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except errors as exc:
        raise load_error(exc) from exc

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (z,) = session.run(["z"], {"x": x})
        except errors as exc:
            raise BackendError(f"onnxruntime could not extract: {exc}") from exc
        extracted: NDArray[np.float32] = z[0]
        return extracted

    return run
