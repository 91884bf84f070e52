# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from pocketrec.errors import IncompatibleArtifactError
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.manifest import ExtractorInfo, Manifest
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.personal_fit import check_planner_fits
from pocketrec_quantization.testing import tiny_manifest, tiny_personal_planner

DIGEST = bytes(range(32))
MANIFEST = replace(tiny_manifest(), extractor=ExtractorInfo(kind="gru", window=9), schema_minor=1)
LAYERS = MANIFEST.layers


def test_a_planner_of_the_model_fits() -> None:
    """Same weights, same layers, same dimension, and something that makes embeddings."""
    check_planner_fits(tiny_personal_planner(LAYERS, DIGEST), MANIFEST, DIGEST)


@pytest.mark.parametrize(
    ("planner", "manifest", "complaint"),
    [
        (tiny_personal_planner(LAYERS, bytes(32)), MANIFEST, "expected model_digest 0001"),
        (
            tiny_personal_planner((*LAYERS[:-1], LayerShape("x", 4, 8)), DIGEST),
            MANIFEST,
            "the layers of the manifest",
        ),
        (tiny_personal_planner(LAYERS, DIGEST, 5), MANIFEST, "of 4 dimensions, got 5"),
        (tiny_personal_planner(LAYERS, DIGEST), tiny_manifest(), "a bundle with an extractor"),
    ],
)
def test_others_do_not(planner: PersonalPlanner, manifest: Manifest, complaint: str) -> None:
    """What differs is named."""
    with pytest.raises(IncompatibleArtifactError, match=complaint):
        check_planner_fits(planner, manifest, DIGEST)
