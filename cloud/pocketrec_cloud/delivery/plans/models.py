# SPDX-License-Identifier: Apache-2.0
"""Published models as the director needs them: layers, and a planner per name."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore
from pocketrec_cloud.delivery.publishing.layout import (
    personal_planner_name,
    sensitivity_name,
    target_name,
)
from pocketrec_cloud.delivery.records import ModelRecord
from pocketrec_cloud.delivery.store_protocols import ModelStore
from pocketrec_quantization.bundle import decode_manifest
from pocketrec_quantization.layers import LayerTable
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.personal_fit import PERSONAL, check_planner_fits
from pocketrec_quantization.planners import (
    Planner,
    named_planners,
    sensitivity_from_bytes,
)

__all__ = ["ModelCatalogue", "PlannedModel"]

_MAX_LOADED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """One frozen model, and the planners that can make plans for it."""

    model_digest: bytes
    layers: LayerTable
    embedding_dim: int
    planners: Mapping[str, Planner]


class ModelCatalogue:
    """Every model that was ever published, loaded when first asked for.

    The few used last stay in memory. Safe to share between threads.

    Args:
        artifacts: Where published files lie.
        store: Remembers what was published.
    """

    def __init__(self, artifacts: ArtifactStore, store: ModelStore) -> None:
        self._artifacts = artifacts
        self._store = store
        self._lock = threading.Lock()
        self._loaded: OrderedDict[bytes, PlannedModel] = OrderedDict()

    def find(self, model_digest: bytes, bundle_digest: bytes = b"") -> PlannedModel:
        """Return a model by the SHA-256 of its frozen part.

        Args:
            model_digest: 32 bytes.
            bundle_digest: 32 bytes, the bundle whose extractor and personal planner
                count; empty = the newest one with this frozen part.

        Raises:
            RejectedError: No bundle with this frozen part was published, or the bundle
                that was named is not one of them.
            ArtifactError: What was published is damaged.
            StoreError: The database fails.
            OSError: A file cannot be read.
        """
        record = self._store.find_model(model_digest)
        if record is None:
            raise RejectedError(
                f"no published bundle carries the frozen model {model_digest.hex()}; "
                "fetch the current bundle first",
                code="NOT_FOUND",
            )
        if bundle_digest not in {b"", record.bundle_digest}:
            record = self._named(bundle_digest, model_digest)
        # A new bundle of the same model may bring new sensitivities: key by the bundle.
        with self._lock:
            model = self._loaded.pop(record.bundle_digest, None) or self._load(record)
            self._loaded[record.bundle_digest] = model
            if len(self._loaded) > _MAX_LOADED:
                self._loaded.popitem(last=False)
        return model

    def _named(self, bundle_digest: bytes, model_digest: bytes) -> ModelRecord:
        """Return an older bundle that devices may have been held back at."""
        record = self._store.find_bundle(bundle_digest)
        if record is None or record.model_digest != model_digest:
            raise RejectedError(
                f"bundle_digest: expected a published bundle with the frozen model "
                f"{model_digest.hex()}, got {bundle_digest.hex()}; fetch the current bundle first",
                code="INVALID_ARGUMENT",
            )
        return record

    def _load(self, record: ModelRecord) -> PlannedModel:
        artifacts = self._artifacts
        manifest = decode_manifest(artifacts.read(target_name(record.bundle_digest.hex())))
        data = artifacts.read(sensitivity_name(record.model_digest))
        planners = named_planners(
            manifest.layers,
            sensitivity_from_bytes(data),
            seed=int.from_bytes(record.model_digest[:4], "big"),
        )
        name = personal_planner_name(record.bundle_digest)
        if artifacts.size_bytes(name) is not None:
            personal = PersonalPlanner.from_bytes(artifacts.read(name))
            check_planner_fits(personal, manifest, record.model_digest)
            planners = {**planners, PERSONAL: personal}
        return PlannedModel(
            model_digest=record.model_digest,
            layers=manifest.layers,
            embedding_dim=manifest.backbone.embedding_dim,
            planners=MappingProxyType(dict(planners)),
        )
