# SPDX-License-Identifier: Apache-2.0
"""How engines compute: the app's choice, the same for every bundle and plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_device.backends import BACKENDS
from pocketrec_quantization.levels import SPEED_PRESETS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["COMPUTE_CHOICES", "SWAP_CHOICES", "EngineSettings"]

COMPUTE_CHOICES = ("auto", "fp32", "int8", "packed")
"""Kernels of the ONNX Runtime backend; ``"auto"`` measures which is fastest."""

SWAP_CHOICES = ("auto", "adapter", "rebuild")
"""How that backend goes from one plan to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How engines are built.

    Args:
        backend: ``"onnxruntime"``, ``"executorch"`` or ``"numpy"``.
        threads: Threads per call, from 1.
        is_strict: Whether to refuse layers that are not kept and computed in the widths
            their plan asks for.
        compute: One of ``COMPUTE_CHOICES``; read by ONNX Runtime only.
        swap: One of ``SWAP_CHOICES``; read by ONNX Runtime only.
        preset: One of ``SPEED_PRESETS``: what the tiers of a plan mean in bits.
        tuning_file: Where measured times of kernels are kept between runs.

    Raises:
        ConfigError: A choice is not one of those, or ``threads`` is below 1.
    """

    backend: str = "onnxruntime"
    threads: int = 1
    is_strict: bool = False
    compute: str = "auto"
    swap: str = "auto"
    preset: str = "balanced"
    tuning_file: Path | None = None

    def __post_init__(self) -> None:
        for name, choices in (
            ("backend", sorted(BACKENDS)),
            ("compute", COMPUTE_CHOICES),
            ("swap", SWAP_CHOICES),
            ("preset", sorted(SPEED_PRESETS)),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name}: expected one of {tuple(choices)}, got {getattr(self, name)!r}"
                )
        if self.threads < 1:
            raise ConfigError(f"threads: expected at least 1, got {self.threads}")
