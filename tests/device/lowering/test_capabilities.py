# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from pocketrec.errors import MissingExtraError
from pocketrec_device.cli import capabilities as command
from pocketrec_device.lowering import capabilities
from pocketrec_device.lowering.capabilities import probe_capabilities
from pocketrec_device.lowering.graph import node
from pocketrec_device.lowering.kernels import KERNELS, Float32, Lowered, Product

if TYPE_CHECKING:
    from pathlib import Path

    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_device.lowering.kernels import InputOrder, Slots, Tensors


def test_every_kernel_is_asked_at_every_width_in_both_forms() -> None:
    """The table is whole, and float32 is usable and exact on any machine."""
    found = probe_capabilities()

    rows = [(each.kernel, each.bits, each.form) for each in found]
    assert rows == [
        (kernel, bits, form)
        for kernel in KERNELS
        for bits in (2, 4, 8)
        for form in ("constants", "inputs")
    ]
    for each in found:
        assert each.is_usable == (each.problem == "")
        if each.kernel == "fp32":
            assert each.is_usable
            assert each.error < 1e-5


class _Absent(Float32):
    """A kernel that this ONNX Runtime does not have."""

    def lower(self, product: Product, slots: Slots) -> Lowered:
        """Name an operator that nobody knows."""
        made = node("NoSuchOperator", [product.x, product.name], [product.output])
        return Lowered(nodes=(made,), inputs=super().lower(product, slots).inputs)


class _Saturating(Float32):
    """A kernel that computes wrongly at 8 bits, as some processors do."""

    def tensors(
        self, product: Product, source: ChannelSource, input_order: InputOrder = None
    ) -> Tensors:
        """Cut large weights off."""
        weights = source.transposed(product.name)
        if source.widths(product.name)[0] == 8:
            np.clip(weights, -0.5, 0.5, out=weights)
        return {product.name: weights}


def test_what_is_missing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that the library lacks is a row, not an error."""
    monkeypatch.setattr(capabilities, "KERNELS", {"absent": _Absent()})

    for each in probe_capabilities():
        assert not each.is_usable
        assert "NoSuchOperator" in each.problem
        assert math.isnan(each.error)


def test_what_is_wrong_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are off are not usable, at the widths where they are off."""
    monkeypatch.setattr(capabilities, "KERNELS", {"saturating": _Saturating()})

    for each in probe_capabilities():
        assert each.is_usable == (each.bits != 8)
        assert ("wrong results" in each.problem) == (each.bits == 8)


def test_the_command_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person sees a table, a program gets JSON without NaN."""
    monkeypatch.setattr(capabilities, "KERNELS", {"fp32": KERNELS["fp32"], "absent": _Absent()})
    out = tmp_path / "found.json"

    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        command, ["--json", str(out)], catch_exceptions=False
    )

    assert done.exit_code == 0
    assert "NoSuchOperator" in done.stdout
    rows = json.loads(out.read_text())["capabilities"]
    assert [row["is_usable"] for row in rows] == 6 * [True] + 6 * [False]
    assert rows[-1]["error"] is None


def test_without_onnxruntime_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is nothing to ask."""
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)

    with pytest.raises(MissingExtraError, match="pip install 'pocketrec"):
        probe_capabilities()
