# SPDX-License-Identifier: Apache-2.0
"""Finds what ``pocketrec demo`` left behind: a bundle, its float control, plans, cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pocketrec.errors import ConfigError

__all__ = ["DEMO_FOLDER", "DemoFiles", "find_demo"]

DEMO_FOLDER = Path("work/demo")
"""Where the demo works unless told otherwise, from the current folder."""

_BUNDLE, _TWIN, _CASES = "build/bundle", "build/float.safetensors", "build/cases.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFiles:
    """What a finished demo holds for a benchmark.

    Args:
        bundle: Folder of the bundle.
        float_twin: The float control.
        cases: Held-out users.
        plans: The uniform plans, finest first.
    """

    bundle: Path
    float_twin: Path
    cases: Path
    plans: tuple[Path, ...]


def find_demo(folder: Path = DEMO_FOLDER) -> DemoFiles:
    """Return what a finished demo holds.

    Args:
        folder: Its work folder.

    Raises:
        ConfigError: It holds no finished demo.
    """
    found = DemoFiles(
        bundle=folder / _BUNDLE,
        float_twin=folder / _TWIN,
        cases=folder / _CASES,
        plans=tuple(sorted(folder.glob("*.plan"), reverse=True)),
    )
    absent = [p for p in (found.bundle, found.float_twin, found.cases) if not p.exists()]
    if absent or not found.plans:
        raise ConfigError(
            f"expected a finished demo in {folder}, found no {absent[0] if absent else '*.plan'}: "
            "run scripts/demo first, or name its folder with --work"
        )
    return found
