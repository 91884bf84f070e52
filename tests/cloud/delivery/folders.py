# SPDX-License-Identifier: Apache-2.0
"""The paths inside a store's folder, for tests that look at files or damage them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pocketrec_cloud.delivery.publishing.layout import (
    DATABASE_FILE,
    METADATA_FOLDER,
    TIMESTAMP,
    personal_planner_name,
    sensitivity_name,
    target_name,
)

__all__ = ["StoreFolder"]


@dataclass(frozen=True, slots=True)
class StoreFolder:
    """One store folder."""

    root: Path

    @property
    def metadata(self) -> Path:
        """Folder of TUF metadata files."""
        return self.root / METADATA_FOLDER

    @property
    def planners(self) -> Path:
        """Folder of the planners' server-side data."""
        return self.root / "planners"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / DATABASE_FILE

    @property
    def timestamp(self) -> Path:
        """The metadata file that decides what is published."""
        return self.root / TIMESTAMP

    def target(self, sha256: str) -> Path:
        """Path of a published file, by the lower-case hex of its SHA-256."""
        return self.root / target_name(sha256)

    def sensitivity(self, model_digest: bytes) -> Path:
        """Path of the sensitivities measured for one frozen model."""
        return self.root / sensitivity_name(model_digest)

    def personal_planner(self, bundle_digest: bytes) -> Path:
        """Path of the personal planner of one bundle."""
        return self.root / personal_planner_name(bundle_digest)
