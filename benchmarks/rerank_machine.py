# SPDX-License-Identifier: Apache-2.0
"""What one thread of this machine can do: arithmetic in float32, and bytes moved.

Rates are of the best call, not of the median: they serve as bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cache_bytes", "measure_machine", "ort_call"]

SIZES = (512, 1024)
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20}
_TYPICAL = {2: 2**20, 3: 2**25}


def measure_machine(min_seconds: float) -> dict[str, Any]:
    """Measure one thread; the caller sees to it that there is only one.

    Args:
        min_seconds: Seconds per measurement, at least.

    Returns:
        ``gflops`` by library and size of a square float32 product, ``gflops_best`` and
        ``gflops_best_of``; ``caches``, bytes by level; ``bandwidth``, one entry per working
        set with ``level``, ``bytes``, ``read_gb_s`` and ``copy_gb_s`` (read plus written).
    """
    gflops = {
        f"{library} {size}": _gflops(product(size), size, min_seconds)
        for size in SIZES
        for library, product in (("numpy", _numpy_product), ("onnxruntime", _ort_product))
    }
    best_of = max(gflops, key=lambda name: gflops[name])
    caches = cache_bytes()
    sets = {"L2": caches[2] // 2, "L3": min(4 * caches[2], caches[3] // 2), "memory": 4 * caches[3]}
    return {
        "gflops": gflops,
        "gflops_best": gflops[best_of],
        "gflops_best_of": best_of,
        "caches": {f"L{level}": size for level, size in caches.items()},
        "bandwidth": [_bandwidth(level, size, min_seconds) for level, size in sets.items()],
    }


def cache_bytes() -> dict[int, int]:
    """Return the bytes of the second and third level cache, typical ones where unknown."""
    found = dict(_TYPICAL)
    for index in sorted(_CACHE.glob("index*")):
        try:
            level = int((index / "level").read_text())
            size = (index / "size").read_text().strip()
            found[level] = int(size[:-1]) * _UNITS[size[-1]]
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return {level: found[level] for level in (2, 3)}


def _fastest_s(call: Callable[[], object], min_seconds: float) -> float:
    for _ in range(3):
        call()
    fastest, deadline = float("inf"), time.perf_counter() + min_seconds
    while time.perf_counter() < deadline or fastest == float("inf"):
        started = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def _gflops(call: Callable[[], object], size: int, min_seconds: float) -> float:
    return 2 * size**3 / _fastest_s(call, min_seconds) / 1e9


def _operands(size: int) -> tuple[NDArray[np.float32], ...]:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    return a, b, np.zeros_like(a)


def _numpy_product(size: int) -> Callable[[], object]:
    a, b, out = _operands(size)
    return lambda: np.matmul(a, b, out=out)


def _ort_product(size: int) -> Callable[[], object]:
    """Return a product whose right side is a constant, as weights are: packed in advance."""
    a, b, out = _operands(size)
    return ort_call("MatMul", a, out, constant=b)


def ort_call(
    operator: str,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    *,
    constant: NDArray[np.float32] | None = None,
) -> Callable[[], object]:
    """Return a call of ONNX Runtime on one node, its arrays bound once.

    Args:
        operator: Name of the operator.
        x: The input.
        y: Where the output goes.
        constant: The second input, if the operator takes one.
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    constants = [] if constant is None else [numpy_helper.from_array(constant, "w")]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *(c.name for c in constants)], ["y"])],
        operator,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y.shape)],
        initializer=constants,
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(y))
    return lambda: session.run_with_iobinding(binding)


def _bandwidth(level: str, n_bytes: int, min_seconds: float) -> dict[str, Any]:
    """Read with an inner product, copy with ``copyto``; both over two halves of the set."""
    a, b = np.ones(n_bytes // 8, np.float32), np.ones(n_bytes // 8, np.float32)
    moved = a.nbytes + b.nbytes
    return {
        "level": level,
        "bytes": moved,
        "read_gb_s": moved / _fastest_s(lambda: np.dot(a, b), min_seconds) / 1e9,
        "copy_gb_s": moved / _fastest_s(lambda: np.copyto(a, b), min_seconds) / 1e9,
    }
