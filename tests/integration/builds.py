# SPDX-License-Identifier: Apache-2.0
"""What ``bundle build`` leaves in its folder, of a tiny model, without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.device.conftest import write_tiny_bundle

from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.planners import sensitivity_to_bytes

__all__ = ["write_build"]


def write_build(folder: Path, *, version: int) -> BundleFolder:
    """Write a bundle of a version, which decides its weights, and its sensitivities beside it."""
    bundle = write_tiny_bundle(folder / "bundle", version=version, seed=version)
    losses = np.random.default_rng(0).random((total_channels(bundle.manifest.layers), 3))
    falling = np.sort(losses, axis=1)[:, ::-1].copy()
    (folder / "sensitivity.safetensors").write_bytes(sensitivity_to_bytes(falling))
    return bundle
