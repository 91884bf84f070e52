# SPDX-License-Identifier: Apache-2.0
"""Where things lie in the server's store folder.

::

    STORE/
      metadata/   1.root.json  N.targets.json  N.snapshot.json  timestamp.json
      targets/    <sha256 hex>            every published file, named by its content
      planners/   never sent to a device:
                  <model digest hex>.safetensors            sensitivities
                  <bundle digest hex>.planner.safetensors   its personal planner, if any
      pocketrec.db                        devices, models, plans
      publish.lock                        held while metadata is written

``timestamp.json`` decides what is published: all else is written before it and is
never changed afterwards, so a reader always sees one whole publication.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["StoreLayout"]


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """The paths inside one store folder."""

    root: Path

    @property
    def metadata(self) -> Path:
        """Folder of TUF metadata files."""
        return self.root / "metadata"

    @property
    def targets(self) -> Path:
        """Folder of published files."""
        return self.root / "targets"

    @property
    def planners(self) -> Path:
        """Folder of the planners' server-side data."""
        return self.root / "planners"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "pocketrec.db"

    @property
    def lock(self) -> Path:
        """The lock of whoever writes metadata."""
        return self.root / "publish.lock"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that has to exist before anything is written."""
        return (self.root, self.metadata, self.targets, self.planners)

    @property
    def timestamp(self) -> Path:
        """The metadata file that decides what is published."""
        return self.metadata / "timestamp.json"

    def target(self, sha256: str) -> Path:
        """Path of a published file, by the lower-case hex of its SHA-256."""
        return self.targets / sha256

    def sensitivity(self, model_digest: bytes) -> Path:
        """Path of the sensitivities measured for one frozen model."""
        return self.planners / f"{model_digest.hex()}.safetensors"

    def personal_planner(self, bundle_digest: bytes) -> Path:
        """Path of the personal planner of one bundle, whose extractor it reads."""
        return self.planners / f"{bundle_digest.hex()}.planner.safetensors"
