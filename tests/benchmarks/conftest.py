# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks that train something small train it on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_interactions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty users of a small generated catalogue, in a folder called ``tiny``."""
    from pocketrec_cloud.data.synthetic import SyntheticConfig, synthetic_interactions

    config = SyntheticConfig(n_users=60, n_items=40, n_groups=4, mean_events=10, n_interests=2)
    dataset = synthetic_interactions(config).dataset
    lines = (
        " ".join([dataset.user_ids[u], *(dataset.item_ids[i - 1] for i in dataset.sequence(u))])
        for u in range(dataset.n_users)
    )
    path = tmp_path_factory.mktemp("data") / "tiny" / "interactions.txt"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    return path
