# SPDX-License-Identifier: Apache-2.0
"""Whether a personal planner was trained for a model, and for its user embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketrec.errors import IncompatibleArtifactError

if TYPE_CHECKING:
    from pocketrec_quantization.manifest import Manifest
    from pocketrec_quantization.personal import PersonalPlanner

__all__ = ["PERSONAL", "check_planner_fits"]

PERSONAL = "personal"
"""The name under which a server offers a model's personal planner."""


def check_planner_fits(planner: PersonalPlanner, manifest: Manifest, model_digest: bytes) -> None:
    """Return quietly when a planner is for a bundle's model and its extractor.

    Args:
        planner: Any personal planner.
        manifest: Of the bundle.
        model_digest: 32 bytes, SHA-256 of the bundle's frozen part.

    Raises:
        IncompatibleArtifactError: Model, layers or dimension differ, or the bundle has no
            extractor.
    """
    problem = _difference(planner, manifest, model_digest)
    if problem:
        raise IncompatibleArtifactError(
            f"the planner is not for bundle {manifest.model_name!r} version {manifest.version}: "
            f"{problem}"
        )


def _difference(planner: PersonalPlanner, manifest: Manifest, model_digest: bytes) -> str:
    """Return the first thing that does not fit; empty when all does."""
    dim = manifest.backbone.embedding_dim
    if planner.model_digest != model_digest:
        return (
            f"expected model_digest {model_digest.hex()}, got {planner.model_digest.hex()}; "
            "train it with these frozen weights"
        )
    if planner.layers != manifest.layers:
        return "expected the layers of the manifest"
    if planner.config.embedding_dim != dim:
        return f"expected user embeddings of {dim} dimensions, got {planner.config.embedding_dim}"
    if manifest.extractor is None:
        return "expected a bundle with an extractor, which makes the user embeddings"
    return ""
