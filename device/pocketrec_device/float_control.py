# SPDX-License-Identifier: Apache-2.0
"""The float model on the bundle's own graphs: the control beside every measured variant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import BackendError, IncompatibleArtifactError
from pocketrec_device.backends.onnx import OnnxBackend
from pocketrec_device.backends.onnx_program import OnnxProgram
from pocketrec_device.engine import Engine, EngineSettings
from pocketrec_device.state import Pair
from pocketrec_quantization.bundle import DEFAULT_PLAN
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.item_table import GatheredRows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.item_table import ItemTable

__all__ = ["FloatItems", "build_float_engine", "check_twin"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatItems:
    """An item table that was never quantized; the names are those of the bundle's.

    Args:
        table: The bundle's table, for its ids.
        rows: (V + 1, D) float32, row 0 is padding.
    """

    table: ItemTable
    rows: NDArray[np.float32]

    @property
    def item_ids(self) -> tuple[str, ...]:
        """V external ids."""
        return self.table.item_ids

    @property
    def n_items(self) -> int:
        """V, padding not counted."""
        return self.table.n_items

    def embed(
        self, item_indices: NDArray[np.intp] | NDArray[np.int32] | NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return (n, D) float32 for (n,) item indices."""
        return self.rows[item_indices]

    def embedding(self, item_index: int) -> NDArray[np.float32]:
        """Return one item's embedding, (D,) float32."""
        embedding: NDArray[np.float32] = self.rows[item_index]
        return embedding

    def embeddings(self, item_indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return (n, D) float32 for (n,) item indices."""
        return self.rows.take(item_indices, axis=0)

    def gather(self, item_indices: NDArray[np.intp]) -> GatheredRows:
        """Take items out to be scored; their scales are 1."""
        rows = self.rows.take(item_indices, axis=0)
        return GatheredRows(codes=rows, scales=np.ones(len(rows), np.float32))

    def index_of(self, item_id: str) -> int:
        """Return an item's index, 0 when unknown."""
        return self.table.index_of(item_id)

    def indices_of(self, item_ids: Iterable[str]) -> NDArray[np.intp]:
        """Return (n,) intp, 0 where unknown."""
        return self.table.indices_of(item_ids)

    def distinct_indices(self, item_ids: tuple[str, ...]) -> NDArray[np.intp] | None:
        """Return (n,) intp if all are known and none is named twice."""
        return self.table.distinct_indices(item_ids)


def build_float_engine(bundle: BundleFolder, twin_path: Path, settings: EngineSettings) -> Engine:
    """Return an engine whose weights and embeddings are the float originals.

    The engine carries the default plan, which its arithmetic ignores.

    Args:
        bundle: Where the graphs are.
        twin_path: The float twin that was written beside the bundle.
        settings: Backend and threads.

    Raises:
        ArtifactError: The bundle or the twin cannot be used, or is of another model.
        BackendError: The backend is another than ONNX Runtime, or cannot be made.
    """
    if settings.backend != OnnxBackend.name:
        raise BackendError(
            f"the float control runs on {OnnxBackend.name!r}, got {settings.backend!r}; "
            "leave --float-twin out"
        )
    twin = FloatTwin.from_bytes(twin_path.read_bytes())
    check_twin(twin, bundle, twin_path)
    plan = bundle.read_default_plan()
    program = OnnxProgram(bundle, threads=settings.threads, compute="fp32", swap="rebuild")
    return Engine(
        pair=Pair(bundle=bundle.digest.hex(), plan=bundle.manifest.part(DEFAULT_PLAN).sha256.hex()),
        manifest=bundle.manifest,
        plan=plan,
        items=FloatItems(table=bundle.read_items(), rows=twin.item_embeddings),
        backend=OnnxBackend.of_floats(program, plan, twin.weights),
        settings=settings,
    )


def check_twin(twin: FloatTwin, bundle: BundleFolder, path: Path) -> None:
    """Return quietly when a twin has the bundle's shapes; its weights have no digest there.

    Args:
        twin: The float originals.
        bundle: What was made from them.
        path: Where the twin lies, for the message.

    Raises:
        IncompatibleArtifactError: They are of another model.
    """
    manifest = bundle.manifest
    expected = {
        f"{layer.name}.weight": (layer.n_channels, layer.n_elements) for layer in manifest.layers
    }
    expected["item_embeddings"] = (manifest.items.n_items + 1, manifest.backbone.embedding_dim)
    found = {name: array.shape for name, array in twin.weights.items()}
    found["item_embeddings"] = twin.item_embeddings.shape
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise IncompatibleArtifactError(
            f"{path}: expected {wrong[0]!r} of shape {expected.get(wrong[0])} as in the bundle, "
            f"found {found.get(wrong[0])}; name the float twin of this bundle"
        )
