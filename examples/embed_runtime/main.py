# SPDX-License-Identifier: Apache-2.0
"""Re-ranks inside an app: packaged bundle, no network, one event at a time."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from pocketrec_device import Runtime
from pocketrec_quantization.bundle import BundleFolder


def main() -> None:
    """Install a bundle, take events in, rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("--store", type=Path, help="folder the app keeps; temporary if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments.bundle, arguments.store or Path(temporary) / "store")


def run(folder: Path, store: Path) -> None:
    """Print how the order of the same candidates follows the user's events."""
    bundle = BundleFolder.open(folder)
    item_ids = bundle.read_items().item_ids
    candidates = item_ids[:: max(1, len(item_ids) // 8)]

    with Runtime.create(store, model=bundle.manifest.model_name) as runtime:
        runtime.bootstrap(folder)  # does nothing when this bundle is installed already

        for event in (None, item_ids[0], item_ids[1], item_ids[-1]):
            if event is not None:
                runtime.observe(event)
            best = runtime.rerank(candidates, k=3)
            shown = ", ".join(f"{i} {s:.2f}" for i, s in zip(best.items, best.scores, strict=True))
            print(f"after {event or 'nothing'}: {shown}")

        for layer in runtime.report():
            widths = ", ".join(f"{n} at {bits} bit" for bits, n in layer.requested.items())
            print(f"{layer.name}: {widths}; computed in {layer.computed}")


if __name__ == "__main__":
    main()
