# SPDX-License-Identifier: Apache-2.0
"""Adds a runtime to the benchmark in one file: plain NumPy, over the whole history."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec_device.bench import BenchConfig, Grid, Side, Variant, run_bench
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.peers import FloatNetwork
from pocketrec_quantization.references import make_reference


class Session:
    """The loaded network; the caller writes the two buffers, then runs."""

    def __init__(self, path: Path, window: int, n_candidates: int) -> None:
        with np.load(path) as arrays:
            weights = dict(arrays)
        self._items = weights.pop("item_embeddings")
        backbone = BackboneConfig(**json.loads(str(weights.pop("backbone"))))
        self._network = make_reference(weights, backbone)
        self.history = np.ones(window, np.int64)
        self.candidates = np.ones(n_candidates, np.int64)

    def run(self) -> NDArray[np.float32]:
        """Return (M,) float32 scores of the candidates after the history."""
        h = self._network.state_after(self._items[self.history])
        return self._network.score(h, self._items[self.candidates])


class NumpyRuntime:
    """A peer: a name, what it needs, and how to convert and load."""

    name = "plain-numpy"
    is_exact = True
    requires = ("numpy",)
    install = "pip install numpy"

    def convert(self, network: FloatNetwork, out: Path) -> None:
        """Write the network to the file ``out``, in whatever form ``load`` takes."""
        arrays: dict[str, Any] = {**network.weights, "item_embeddings": network.item_embeddings}
        with out.open("wb") as file:
            np.savez(file, backbone=json.dumps(asdict(network.backbone)), **arrays)

    def load(self, path: Path, *, window: int, n_candidates: int) -> Session:
        """Load what ``convert`` wrote, in another process."""
        return Session(path, window, n_candidates)


def main() -> None:
    """Measure pocketrec and the runtime above, process by process in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("float_twin", type=Path, help="the float model it was made from")
    parser.add_argument("--runs", type=int, default=200, help="timed calls per process")
    arguments = parser.parse_args()
    own = Variant(name="pocketrec")
    peer = f"{Path(__file__).resolve()}:NumpyRuntime"
    other = Variant(name=NumpyRuntime.name, float_twin=arguments.float_twin, peer=peer)
    config = BenchConfig(runs=arguments.runs, min_seconds=0.0, repeat=2)
    result = run_bench(Side(folder=arguments.bundle, grid=Grid(variants=(own, other))), config)
    unit_us = result["records"][0]["latency_us"]["observe_rerank"]["p50"]
    for record in result["records"]:
        p50_us = record["latency_us"]["observe_rerank"]["p50"]
        print(f"{record['variant']}: {p50_us / unit_us:.2f} times pocketrec's observe + rerank")


if __name__ == "__main__":
    main()
