# SPDX-License-Identifier: Apache-2.0
"""Publishes a bundle, then gives one device two plans for the same frozen weights."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from pocketrec_cloud.delivery.publishing.bundles import publish_bundle
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_cloud.delivery.publishing.storage import open_storage
from pocketrec_cloud.delivery.serving.server import ServerConfig
from pocketrec_cloud.delivery.testing import serve_in_thread
from pocketrec_device import Runtime
from pocketrec_quantization.bundle import BundleFolder


def main() -> None:
    """Run server and device side by side in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path, help="folder written by 'pocketrec bundle build'")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments.build, Path(temporary))


def run(build: Path, work: Path) -> None:
    """Print what the device installs for 3 and then for 4 bits on average."""
    repository, keys = work / "repository", work / "keys"
    KeyFolder(keys).create()
    bundle = BundleFolder.open(build / "bundle")
    sensitivity = (build / "sensitivity.safetensors").read_bytes()
    with open_storage(repository, is_new=True) as storage:
        root = create_repository(storage, keys)
        publish_bundle(storage, keys, bundle, sensitivity)

    config = ServerConfig(store=repository, keys=keys, port=0)
    model = bundle.manifest.model_name
    with (
        serve_in_thread(config) as target,
        Runtime.create(work / "device", model=model, root=root) as runtime,
    ):
        for average_bits in (3.0, 4.0):
            runtime.sync(target, subject="user-0001", average_bits=average_bits)
            plan = runtime.status().current
            if plan is None:
                raise SystemExit("nothing was installed")
            print(
                f"asked for {average_bits} bits: plan {plan.plan_version} by "
                f"{plan.planner!r}, {plan.effective_bits:.2f} effective bits, "
                f"{plan.payload_bytes} bytes of codes in a file of "
                f"{plan.header_bytes + plan.payload_bytes + plan.signature_bytes}"
            )


if __name__ == "__main__":
    main()
