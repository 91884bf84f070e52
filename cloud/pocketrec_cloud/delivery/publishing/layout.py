# SPDX-License-Identifier: Apache-2.0
"""How the files in a server's artifact store are named.

::

    STORE/
      metadata/   1.root.json  N.targets.json  N.snapshot.json  timestamp.json
      targets/    <sha256 hex>            every published file, named by its content
      planners/   never sent to a device:
                  <model digest hex>.safetensors            sensitivities
                  <bundle digest hex>.planner.safetensors   its personal planner, if any
      pocketrec.db                        records, unless the database is named otherwise

``timestamp.json`` decides what is published: all else is written before it and is
never changed afterwards, so a reader always sees one whole publication.
"""

from __future__ import annotations

__all__ = [
    "DATABASE_FILE",
    "METADATA_FOLDER",
    "TIMESTAMP",
    "metadata_name",
    "personal_planner_name",
    "sensitivity_name",
    "target_name",
]

METADATA_FOLDER = "metadata"
TIMESTAMP = "metadata/timestamp.json"
DATABASE_FILE = "pocketrec.db"


def metadata_name(filename: str) -> str:
    """Return where a TUF metadata file lies, by its TUF name."""
    return f"{METADATA_FOLDER}/{filename}"


def target_name(sha256: str) -> str:
    """Return where a published file lies, by the lower-case hex of its SHA-256."""
    return f"targets/{sha256}"


def sensitivity_name(model_digest: bytes) -> str:
    """Return where the sensitivities measured for one frozen model lie."""
    return f"planners/{model_digest.hex()}.safetensors"


def personal_planner_name(bundle_digest: bytes) -> str:
    """Return where the personal planner of one bundle lies, whose extractor it reads."""
    return f"planners/{bundle_digest.hex()}.planner.safetensors"
