# SPDX-License-Identifier: Apache-2.0
"""Everything one bundle and one plan become in memory; never changed once it is made.

The runtime swaps whole engines: a call that began on one ends on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pocketrec_device.backends import Backend, build_backend, check_backend
from pocketrec_device.backends.base import refuse_fallbacks
from pocketrec_device.session import SessionState
from pocketrec_device.state import Pair
from pocketrec_quantization.bundle import BundleFolder, Manifest
from pocketrec_quantization.plan import Plan, check_applies, decode_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Engine", "EngineSettings", "Items", "build_engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How engines are built; the app's choice, the same for every bundle.

    Args:
        backend: One of ``backends.BACKENDS``.
        threads: Threads per call, from 1.
        is_strict: Whether to refuse layers that do not compute in the widths asked for.

    Raises:
        ConfigError: There is no such backend, or ``threads`` is below 1.
    """

    backend: str = "onnxruntime"
    threads: int = 1
    is_strict: bool = False

    def __post_init__(self) -> None:
        check_backend(self.backend, self.threads)


class Items(Protocol):
    """Embeddings of V items, by index from 1 and by id; ``ItemTable`` is what bundles hold."""

    @property
    def item_ids(self) -> tuple[str, ...]:
        """V ids; item index i is ``item_ids[i - 1]``."""
        ...

    @property
    def n_items(self) -> int:
        """V, padding not counted."""
        ...

    def embed(self, item_indices: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (n, D) float32 for (n,) item indices; 0 gives zeros."""
        ...

    def index_of(self, item_id: str) -> int:
        """Return an item's index, 0 when unknown."""
        ...

    def indices_of(self, item_ids: Iterable[str]) -> NDArray[np.int32]:
        """Return (n,) int32, 0 where unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A bundle under a plan, ready to compute.

    Args:
        pair: The digests of both.
        manifest: Of the bundle.
        plan: The plan.
        items: Embeddings of the items.
        backend: What computes.
    """

    pair: Pair
    manifest: Manifest
    plan: Plan
    items: Items
    backend: Backend

    def new_session(self, history: Sequence[str] = ()) -> SessionState:
        """Return a state that has seen ``history``; items the table lacks are left out.

        Raises:
            BackendError: Inference failed.
        """
        session = SessionState(self.manifest.backbone)
        indices = self.items.indices_of(history)
        session.observe(self.backend, self.items.embed(indices[indices > 0]))
        return session

    def score(
        self, h: NDArray[np.float32], candidates: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Score candidates for a user.

        Args:
            h: (D,) float32, the user's state.
            candidates: M item ids.

        Returns:
            ``scores``: (M,) float64; -inf where unknown.
            ``known``: (M,) bool, whether the item table has the candidate.

        Raises:
            BackendError: Inference failed.
        """
        indices = self.items.indices_of(candidates)
        known = indices > 0
        if known.all() and len(known):  # the usual case, without detours
            return self.backend.score(h, self.items.embed(indices)).astype(np.float64), known
        scores = np.full(len(indices), -np.inf)
        if known.any():
            scores[known] = self.backend.score(h, self.items.embed(indices[known]))
        return scores, known


def build_engine(bundle: BundleFolder, plan_data: bytes, settings: EngineSettings) -> Engine:
    """Return an engine for an installed bundle and a plan that was accepted.

    Args:
        bundle: Its parts are verified as they are read.
        plan_data: A plan container whose digest or signature was verified.
        settings: The app's choice.

    Raises:
        ArtifactError: They are damaged, do not fit together, or need another release.
        BackendError: The backend cannot be made, or is not strict enough.
    """
    manifest, plan = bundle.manifest, decode_plan(plan_data)
    check_applies(plan, manifest.layers, bundle.model_digest)
    backend = build_backend(settings.backend, bundle, plan, threads=settings.threads)
    if settings.is_strict:
        refuse_fallbacks(settings.backend, backend.report())
    return Engine(
        pair=Pair(bundle=bundle.digest.hex(), plan=hashlib.sha256(plan_data).hexdigest()),
        manifest=manifest,
        plan=plan,
        items=bundle.read_items(),
        backend=backend,
    )
