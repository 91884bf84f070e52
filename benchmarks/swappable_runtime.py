# SPDX-License-Identifier: Apache-2.0
"""A runtime that swaps plans without a server, so that swaps can be timed and repeated."""

from __future__ import annotations

from pocketrec_device.engine import Engine, build_engine
from pocketrec_device.runtime import Runtime
from pocketrec_device.settings import EngineSettings
from pocketrec_device.store import Store
from pocketrec_quantization.bundle import BundleFolder

__all__ = ["SwappableRuntime"]


class SwappableRuntime(Runtime):
    """A runtime whose plan can be swapped without a server, in the two parts of a swap.

    Args:
        bundle: What it runs.
        settings: How.
    """

    def __init__(self, bundle: BundleFolder, settings: EngineSettings) -> None:
        super().__init__(Store(bundle.path / "no-store"), settings)
        self._bundle = bundle

    def engine_under(self, plan_data: bytes) -> Engine:
        """Return an engine that shares with the running one what no plan changes."""
        return build_engine(self._bundle, plan_data, self._settings, like=self._live.engine)

    def adopt(self, engine: Engine) -> None:
        """Run an engine from now on, as the last step of a sync does."""
        self._adopt(engine)
