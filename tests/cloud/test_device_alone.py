# SPDX-License-Identifier: Apache-2.0
"""A device with nothing but ``pocketrec[device]`` ranks from a store the cloud's tools filled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketrec_device import Runtime

if TYPE_CHECKING:
    from tests.cloud.conftest import Built

PROGRAM = """
import json, sys
import pocketrec_device
after_import = [name for name in ("torch", "grpc", "tuf") if name in sys.modules]
with pocketrec_device.Runtime.open(sys.argv[1]) as runtime:
    runtime.observe_many(json.loads(sys.argv[2]))
    best = runtime.rerank(json.loads(sys.argv[3]), k=3)
try:
    import torch
except ImportError:
    torch = None
print(json.dumps({"items": best.items, "after_import": after_import, "has_torch": bool(torch)}))
"""


def rank_alone(python: Path, store: Path, history: list[str], candidates: list[str]) -> Any:
    """Return what ``PROGRAM`` prints in another environment."""
    arguments = [str(store), json.dumps(history), json.dumps(candidates)]
    done = subprocess.run(
        [str(python), "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_device_extra_alone_ranks_without_torch(
    tiny_build: Built, make_installation: Callable[[str], Path], tmp_path: Path
) -> None:
    """The ranking is the one this environment computes, and torch cannot be imported."""
    ids = list(tiny_build.bundle.read_items().item_ids)
    history, candidates = ids[:3], ids[2:12]
    with Runtime.create(tmp_path / "store", model="tiny") as runtime:
        runtime.bootstrap(tiny_build.bundle.path)
        runtime.observe_many(history)
        expected = runtime.rerank(candidates, k=3)

    answer = rank_alone(make_installation("device"), tmp_path / "store", history, candidates)

    assert answer == {"items": list(expected.items), "after_import": [], "has_torch": False}
