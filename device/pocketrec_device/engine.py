# SPDX-License-Identifier: Apache-2.0
"""Everything one bundle and one plan become in memory; never changed once it is made.

The runtime swaps whole engines: a call that began on one ends on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from pocketrec_device.backends import Backend, build_backend
from pocketrec_device.backends.base import refuse_fallbacks
from pocketrec_device.extraction import UserExtractor, build_extractor
from pocketrec_device.settings import EngineSettings
from pocketrec_device.state import Pair
from pocketrec_quantization.bundle import BundleFolder, Manifest
from pocketrec_quantization.levels import preset_levels
from pocketrec_quantization.plan import Plan, check_applies, decode_plan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_device.session import SessionState
    from pocketrec_quantization.item_table import GatheredRows

__all__ = ["Engine", "EngineSettings", "Items", "build_engine", "change_preset"]


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

    def embed(
        self, item_indices: NDArray[np.intp] | NDArray[np.int32] | NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return (n, D) float32 for (n,) item indices; 0 gives zeros."""
        ...

    def embedding(self, item_index: int) -> NDArray[np.float32]:
        """Return one item's embedding, (D,) float32."""
        ...

    def embeddings(self, item_indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return (n, D) float32 for (n,) indices of ``indices_of``."""
        ...

    def gather(self, item_indices: NDArray[np.intp]) -> GatheredRows:
        """Take (M,) items out to be scored; 0 scores 0."""
        ...

    def index_of(self, item_id: str) -> int:
        """Return an item's index, 0 when unknown."""
        ...

    def indices_of(self, item_ids: Iterable[str]) -> NDArray[np.intp]:
        """Return (n,) intp, 0 where unknown."""
        ...

    def distinct_indices(self, item_ids: tuple[str, ...]) -> NDArray[np.intp] | None:
        """Return (n,) intp if all are known and none is named twice, else None."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """A bundle under a plan, ready to compute.

    Args:
        pair: The digests of both.
        manifest: Of the bundle.
        plan: The plan, as it was signed.
        items: Embeddings of the items.
        backend: What computes, under the plan and the preset.
        settings: How it was built.
        extractor: What makes user embeddings; None when the bundle has nothing for it.
    """

    pair: Pair
    manifest: Manifest
    plan: Plan
    items: Items
    backend: Backend
    settings: EngineSettings
    extractor: UserExtractor | None = None

    @property
    def n_remembered(self) -> int:
        """How many events of a history are of use."""
        window = self.manifest.backbone.window
        return window if self.extractor is None else max(window, self.extractor.window)

    def new_session(self, history: Sequence[str] = ()) -> SessionState:
        """Return a state that has seen ``history``; items the table lacks are left out.

        Raises:
            BackendError: Inference failed.
        """
        session = self.backend.new_state()
        indices = self.items.indices_of(history)
        session.observe(self.items.embed(indices[indices > 0]))
        return session

    def runs_as(self, other: Engine) -> bool:
        """Whether another engine computes the same."""
        return self.pair == other.pair and self.settings == other.settings


def build_engine(
    bundle: BundleFolder,
    plan_data: bytes,
    settings: EngineSettings,
    *,
    like: Engine | None = None,
) -> Engine:
    """Return an engine for an installed bundle and a plan that was accepted.

    Args:
        bundle: Its parts are verified as they are read.
        plan_data: A plan container whose digest or signature was verified.
        settings: The app's choice.
        like: An engine; what does not depend on the plan is shared with it if it is of
            the same bundle, and differs in the preset at most.

    Raises:
        ArtifactError: They are damaged, do not fit together, or need another release.
        BackendError: The backend cannot be made, or is not strict enough.
    """
    plan = decode_plan(plan_data)
    check_applies(plan, bundle.manifest.layers, bundle.model_digest)
    pair = Pair(bundle=bundle.digest.hex(), plan=hashlib.sha256(plan_data).hexdigest())
    return _build(bundle, pair, plan, settings, like)


def change_preset(engine: Engine, bundle: BundleFolder, preset: str) -> Engine:
    """Return the same pair under another preset; all that does not depend on it is shared.

    Args:
        engine: What runs.
        bundle: Its bundle.
        preset: One of ``SPEED_PRESETS``.

    Raises:
        ConfigError: There is no such preset.
        ArtifactError: The bundle is damaged, or the backend runs the default plan only.
        BackendError: The backend cannot be made, or is not strict enough.
    """
    settings = replace(engine.settings, preset=preset)
    return _build(bundle, engine.pair, engine.plan, settings, engine)


def _build(
    bundle: BundleFolder, pair: Pair, plan: Plan, settings: EngineSettings, like: Engine | None
) -> Engine:
    if like is not None and not _shares(like, pair.bundle, settings):
        like = None
    applied = _under_preset(plan, settings.preset)
    backend = build_backend(bundle, applied, settings, like=None if like is None else like.backend)
    if settings.is_strict:
        refuse_fallbacks(settings.backend, backend.report())
    return Engine(
        pair=pair,
        manifest=bundle.manifest,
        plan=plan,
        items=bundle.read_items() if like is None else like.items,
        backend=backend,
        settings=settings,
        extractor=build_extractor(bundle, settings) if like is None else like.extractor,
    )


def _shares(engine: Engine, bundle: str, settings: EngineSettings) -> bool:
    return engine.pair.bundle == bundle and engine.settings == replace(
        settings, preset=engine.settings.preset
    )


def _under_preset(plan: Plan, preset: str) -> Plan:
    levels = preset_levels(preset, plan.levels)
    return plan if levels == plan.levels else replace(plan, levels=levels)
