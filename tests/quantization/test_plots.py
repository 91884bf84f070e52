# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pocketrec.errors import ConfigError, MissingExtraError
from pocketrec_quantization import plots
from pocketrec_quantization.cli import plan_show
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.plots import plot_bits
from pocketrec_quantization.testing import tiny_frozen, tiny_plan

LAYERS = (LayerShape("a", 4, 8), LayerShape("b", 2, 8))
ONE = np.array([[2, 4, 8, 0, 2, 2]], np.uint8)
PNG = b"\x89PNG\r\n"


def size_of(png: bytes) -> tuple[int, int]:
    """Return width and height, as a PNG's first chunk says."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


class TestPictures:
    """With matplotlib."""

    @pytest.fixture(autouse=True)
    def _needs_matplotlib(self) -> None:
        pytest.importorskip("matplotlib", reason="needs the extra 'plots'")

    def test_one_plan_is_one_panel(self) -> None:
        """And several are two: mean and spread."""
        one = plot_bits(ONE, LAYERS, title="one")
        many = plot_bits(np.repeat(ONE, 3, axis=0), LAYERS, title="many")

        assert one[:6] == many[:6] == PNG
        assert size_of(one)[0] == size_of(many)[0]
        assert size_of(one)[1] < size_of(many)[1]

    def test_other_plans_are_other_pictures(self) -> None:
        """Of the same plan it is the same picture."""
        other = ONE.copy()
        other[0, 5] = 8

        pictures = [plot_bits(widths, LAYERS, title="t") for widths in (ONE, ONE, other)]

        assert pictures[0] == pictures[1] != pictures[2]

    def test_plan_show_writes_one(self, tmp_path: Path) -> None:
        """Beside the table."""
        frozen = tiny_frozen()
        path = tmp_path / "my.plan"
        path.write_bytes(encode_plan(tiny_plan(frozen.layers, frozen.digest), None))

        done = CliRunner().invoke(plan_show, [str(path), "--plot", str(tmp_path / "my.png")])

        assert done.exit_code == 0, done.output
        assert (tmp_path / "my.png").read_bytes()[:6] == PNG


@pytest.mark.parametrize("shape", [(6,), (0, 6), (1, 5)])
def test_widths_are_those_of_the_layers(shape: Sequence[int]) -> None:
    """One row per plan, at least one."""
    with pytest.raises(ConfigError, match="widths: expected"):
        plot_bits(np.zeros(shape, np.uint8), LAYERS, title="t")


def test_without_matplotlib_the_command_that_helps_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A picture is an extra."""
    monkeypatch.setattr(plots, "find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match=r"pip install 'pocketrec\[plots\]'"):
        plot_bits(ONE, LAYERS, title="t")
