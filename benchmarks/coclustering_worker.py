# SPDX-License-Identifier: Apache-2.0
"""One clustering in a process of its own, for ``benchmarks.coclustering``.

The job comes as JSON in the only argument; the answer goes to the file it names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.sampling import peak_rss_bytes, rss_bytes

__all__ = ["cluster", "compile_once", "gini", "main"]

Labels = NDArray[np.int32]


def cluster(job: dict[str, Any]) -> dict[str, Any]:
    """Cluster one graph by one method.

    Args:
        job: ``file`` (of `scipy.sparse.save_npz`), or ``edges`` and ``seed`` of a generated
            graph; ``solver``, "ours" or "louvain"; ``options`` of it; ``compared_at``, the
            resolution at which objectives are compared.

    Returns:
        Size of the graph, rows, objectives, shares, seconds and bytes.
    """
    matrix = _graph(job)
    run = _SOLVERS[job["solver"]](job["options"])
    _forget_peak()
    before = rss_bytes()
    started, started_cpu = time.perf_counter(), time.process_time()
    found = run(matrix)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    peak = peak_rss_bytes()
    users, items = found.pop("clusters")
    return {
        "n_users": matrix.shape[0],
        "n_items": matrix.shape[1],
        "n_edges": matrix.nnz,
        **found,
        "objective": _objective(matrix, users, items, job["compared_at"]),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": peak,
        "peak_bytes_beyond_graph": peak - before,
    }


def _graph(job: dict[str, Any]) -> Any:
    from scipy import sparse

    if "file" in job:
        return sparse.load_npz(job["file"])
    from benchmarks.coclustering_graphs import power_law_graph

    matrix = power_law_graph(job["edges"], seed=job["seed"])
    # scikit-network would count in int8
    return matrix if job["solver"] == "ours" else sparse.csr_matrix(matrix, dtype=np.float32)


def compile_once(job: dict[str, Any]) -> dict[str, Any]:
    """Return how long the kernels take until they can be called, numba's import included.

    Args:
        job: ``cache``, the folder where machine code is kept.
    """
    os.environ["NUMBA_CACHE_DIR"] = job["cache"]  # read when numba is imported
    from pocketrec_quantization.coclustering.compiled import load_kernels

    started = time.perf_counter()
    load_kernels()
    return {"seconds": time.perf_counter() - started}


def _ours(options: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    from pocketrec_quantization.coclustering import CoClustering
    from pocketrec_quantization.coclustering.compiled import load_kernels

    load_kernels()

    def run(matrix: Any) -> dict[str, Any]:
        is_paper = options.get("preset") == "paper"
        own = {name: value for name, value in options.items() if name != "preset"}
        found = (CoClustering.paper if is_paper else CoClustering)(**own).fit(matrix)
        return {
            "clusters": (found.user_clusters_, found.item_clusters_),
            "resolution": found.resolution_,
            "own_objective": found.objective_,
            "n_sweeps": found.n_sweeps_,
            **_sizes(found.user_labels_, found.item_labels_),
        }

    return run


def _louvain(options: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    from sknetwork.clustering import Louvain

    def run(matrix: Any) -> dict[str, Any]:
        # without what nobody reads, which would cost it time
        found = Louvain(**options, return_probs=False, return_aggregate=False)
        found.fit(matrix, force_bipartite=True)
        clusters = found.labels_row_.astype(np.int32), found.labels_col_.astype(np.int32)
        return {
            "clusters": clusters,
            "resolution": float(options["resolution"]),
            **_sizes(*clusters),
        }

    return run


_SOLVERS = {"ours": _ours, "louvain": _louvain}


def _sizes(users: Labels, items: Labels) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side, labels in (("user", users), ("item", items)):
        counts = np.bincount(labels)
        counts = counts[counts > 0]
        found[f"{side}_rows"] = counts.size
        found[f"{side}_gini"] = gini(counts)
        found[f"{side}_largest_share"] = float(counts.max() / counts.sum())
    found["rows"] = found["user_rows"] + found["item_rows"]
    return found


def gini(counts: NDArray[np.int64]) -> float:
    """Return how unequal sizes are: 0 where all are equal, near 1 where one has everything.

    Args:
        counts: (K,) int64, members of each cluster.
    """
    ordered = np.sort(counts).astype(np.float64)
    n = ordered.size
    ranks = np.arange(1, n + 1)
    return float((2 * ranks - n - 1) @ ordered / (n * ordered.sum()))


def _objective(matrix: Any, users: Labels, items: Labels, resolution: float) -> float:
    from pocketrec_quantization.coclustering import objective_of

    return objective_of(matrix, users, items, resolution=resolution)


def _forget_peak() -> None:
    """Let the peak of memory start anew, where the system can (Linux)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def main() -> None:
    """Do the job in the only argument."""
    job = json.loads(sys.argv[1])
    answer = compile_once(job) if "cache" in job else cluster(job)
    Path(job["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
