# SPDX-License-Identifier: Apache-2.0
"""Scoring candidates from an item table inside ONNX Runtime, to compare with NumPy.

The table is in the graph. ``Gather`` looks rows up, of row numbers first where items share
rows, and casts them; ``com.microsoft.GatherBlockQuantized`` looks up and dequantizes at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from pocketrec.telemetry import import_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pocketrec_quantization.item_table import Codebook, ItemTable

__all__ = ["OPERATORS", "GraphScorer", "can_express"]

OPERATORS = ("Gather", "GatherBlockQuantized")
"""What a graph may look rows up with."""

_MICROSOFT = "com.microsoft"
_SMALLEST_BLOCK = 16


def can_express(table: ItemTable, operator: str) -> bool:
    """Whether an operator can look up the rows of a table.

    ``Gather`` of ONNX Runtime has no 4-bit integers; blocks of ``GatherBlockQuantized`` have
    16 columns at least, in powers of two.

    Args:
        table: Its codebooks divide the columns, or there is one.
        operator: One of ``OPERATORS``.
    """
    if operator == "Gather":
        return all(codebook.bits == 8 for codebook in table.codebooks)
    return all(
        codebook.width >= _SMALLEST_BLOCK and codebook.width & (codebook.width - 1) == 0
        for codebook in table.codebooks
    )


class GraphScorer:
    """A session that scores candidates, with inputs and outputs bound to its own memory.

    Args:
        table: What to look up in.
        operator: One of ``OPERATORS``.
        n_candidates: How many candidates a call has.
    """

    def __init__(self, table: ItemTable, operator: str, n_candidates: int) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = _model(table, operator).SerializeToString()
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._indices = np.zeros(n_candidates, np.int64)
        self._h = np.zeros((table.embedding_dim, 1), np.float32)
        self._scores = np.zeros((n_candidates, 1), np.float32)
        self._binding = self._session.io_binding()
        inputs: dict[str, NDArray[Any]] = {"indices": self._indices, "h": self._h}
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._binding.bind_output(
            "scores", "cpu", 0, np.float32, self._scores.shape, self._scores.ctypes.data
        )

    def scores(self, indices: NDArray[np.intp], h: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (M,) float32, valid until the next call, for (M,) indices and (D,) h."""
        self._indices[:] = indices
        self._h[:, 0] = h
        self._session.run_with_iobinding(self._binding)
        return self._scores[:, 0]


def _model(table: ItemTable, operator: str) -> onnx.ModelProto:
    graph = _Graph()
    rows = [graph.rows(number, column) for number, column in enumerate(table.row_of_item)]
    if operator == "GatherBlockQuantized":
        parts = [
            graph.block_quantized(number, codebook, rows[number])
            for number, codebook in enumerate(table.codebooks)
        ]
    else:
        parts = [
            graph.gathered(number, codebook, rows[number])
            for number, codebook in enumerate(table.codebooks)
        ]
    x = parts[0] if len(parts) == 1 else graph.add("Concat", parts, "x", axis=1)
    graph.add("MatMul", [x, "h"], "scores")
    declared = helper.make_graph(
        graph.nodes,
        "items",
        [
            helper.make_tensor_value_info("indices", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [table.embedding_dim, 1]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])],
        initializer=graph.constants,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(declared, opset_imports=opsets, ir_version=10)


class _Graph:
    """Nodes and constants, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def rows(self, number: int, column: NDArray[np.integer] | None) -> str:
        """Look the row numbers of one codebook up, unless item i has row i."""
        if column is None:
            return "indices"
        numbers = self.constant(f"row_of_item.{number}", column.astype(np.int32))
        return self.add("Gather", [numbers, "indices"], f"rows.{number}")

    def gathered(self, number: int, codebook: Codebook, rows: str) -> str:
        """Look up codes and scales apart."""
        codes = self.constant(f"codes.{number}", codebook.codes)
        scales = self.constant(f"scales.{number}", codebook.scales[:, None])
        found = self.add("Gather", [codes, rows], f"found.{number}")
        self.add("Cast", [found], f"floats.{number}", to=TensorProto.FLOAT)
        self.add("Gather", [scales, rows], f"scale.{number}")
        return self.add("Mul", [f"floats.{number}", f"scale.{number}"], f"x.{number}")

    def block_quantized(self, number: int, codebook: Codebook, rows: str) -> str:
        """Look up and dequantize at once: a row is a block."""
        shape = (codebook.n_rows, codebook.width)
        if codebook.bits == 4:
            data = helper.make_tensor(
                f"codes.{number}", TensorProto.INT4, shape, codebook.codes.tobytes(), raw=True
            )
            self.constants.append(data)
        else:  # bytes have no sign there, and 128 is zero
            unsigned = (codebook.codes.astype(np.int16) + 128).astype(np.uint8)
            self.constant(f"codes.{number}", unsigned)
        self.constant(f"scales.{number}", codebook.scales[:, None])
        return self.add(
            "GatherBlockQuantized",
            [f"codes.{number}", rows, f"scales.{number}"],
            f"x.{number}",
            domain=_MICROSOFT,
            gather_axis=0,
            quantize_axis=1,
            block_size=codebook.width,
            bits=codebook.bits,
        )
