# SPDX-License-Identifier: Apache-2.0
"""The files a repository serves: how they are named, stored, and kept apart by model.

::

    director.json            public keys that may sign plans
    <model>/manifest.pb      one per model line: its current bundle
    parts/<sha256 hex>       the parts of those bundles

On disk every file lies under its digest, so publishing never overwrites what a device may
be fetching.
"""

from __future__ import annotations

from tuf.api.metadata import TargetFile

from pocketrec_cloud.delivery.layout import StoreLayout
from pocketrec_cloud.delivery.publication import Publication, PublishedFile
from pocketrec_cloud.delivery.tuf_editor import Writer
from pocketrec_quantization.bundle import Manifest, decode_manifest

__all__ = [
    "DIRECTOR_TARGET",
    "manifest_target",
    "part_target",
    "published_manifest",
    "put_content",
    "targets_of_others",
]

DIRECTOR_TARGET = "director.json"


def manifest_target(model_name: str) -> str:
    """Return the target path of a model line's current manifest."""
    return f"{model_name}/manifest.pb"


def part_target(sha256: bytes) -> str:
    """Return the target path of a part."""
    return f"parts/{sha256.hex()}"


def put_content(layout: StoreLayout, path: str, data: bytes, write: Writer) -> TargetFile:
    """Store a content under its digest, unless it lies there, and describe it as a target.

    Raises:
        OSError: The file cannot be written.
    """
    target = TargetFile.from_data(path, data, ["sha256"])
    file = layout.target(target.hashes["sha256"])
    if not file.exists() or file.read_bytes() != data:
        write(file, data)
    return target


def published_manifest(layout: StoreLayout, file: PublishedFile) -> Manifest:
    """Return a published manifest.

    Raises:
        ArtifactError: The file is damaged.
        OSError: It cannot be read.
    """
    return decode_manifest(layout.target(file.sha256).read_bytes())


def targets_of_others(
    layout: StoreLayout, published: Publication, model_name: str
) -> dict[str, TargetFile]:
    """Return every published target but those that only one model line uses.

    Raises:
        ArtifactError: A published manifest is damaged.
        OSError: A published manifest cannot be read.
    """
    used = {DIRECTOR_TARGET}
    for path, file in published.files.items():
        if path.endswith("/manifest.pb") and path != manifest_target(model_name):
            used.add(path)
            parts = published_manifest(layout, file).parts
            used.update(part_target(part.sha256) for part in parts)
    targets = published.targets.signed.targets
    return {path: target for path, target in targets.items() if path in used}
