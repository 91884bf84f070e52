# SPDX-License-Identifier: Apache-2.0
"""How kernels are chosen; times are given, never taken."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.device.lowering.products import random_product, random_source

from pocketrec_device.lowering import tuning as tuning_module
from pocketrec_device.lowering.graph import node
from pocketrec_device.lowering.kernels import KERNELS, Float32, Lowered, Product
from pocketrec_device.lowering.tuning import Tuning, _fastest, choose_kernels, time_product

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_device.lowering.kernels import InputOrder, Slots, Tensors

TIMES = {"fp32": 10.0, "int8": 5.0, "packed": 20.0}


def given_times(times: Mapping[str, float]) -> dict[str, Callable[[], float]]:
    """Return alternatives that take such times."""

    def take(us: float) -> float:
        return us

    return {name: partial(take, us) for name, us in times.items()}


def forbidden() -> float:
    """Stand in for a measurement that must not happen."""
    pytest.fail("measured again")


NOT_AGAIN = dict.fromkeys(TIMES, forbidden)


class TestMemory:
    def test_nothing_is_measured_twice(self, tmp_path: Path) -> None:
        """What was measured is known, in this process and in the next."""
        tuning = Tuning("device", tmp_path / "tuning.json")

        assert tuning.measured("a product", given_times(TIMES)) == TIMES
        assert tuning.measured("a product", NOT_AGAIN) == TIMES
        assert Tuning("device", tmp_path / "tuning.json").measured("a product", NOT_AGAIN) == TIMES

    def test_without_a_file_nothing_is_kept(self) -> None:
        """Times then last as long as the process."""
        Tuning("device").measured("a product", given_times(TIMES))

        assert Tuning("device").times_us == {}

    def test_what_cannot_be_computed_is_kept_too(self, tmp_path: Path) -> None:
        """An infinite time survives the file: a missing kernel is not tried at every start."""
        times = TIMES | {"packed": math.inf}
        Tuning("device", tmp_path / "tuning.json").measured("a product", given_times(times))

        read = Tuning("device", tmp_path / "tuning.json")

        assert read.measured("a product", NOT_AGAIN) == times

    def test_times_of_another_device_do_not_count(self, tmp_path: Path) -> None:
        """A store that moved, or a newer library, measures anew and keeps that."""
        file = tmp_path / "tuning.json"
        Tuning("device", file).measured("a product", given_times(TIMES))
        other = dict.fromkeys(TIMES, 1.0)

        assert Tuning("other", file).measured("a product", given_times(other)) == other

        assert Tuning("other", file).times_us == {"a product": other}
        assert Tuning("device", file).times_us == {}

    def test_a_device_is_a_library_a_processor_and_a_number_of_threads(
        self, tmp_path: Path
    ) -> None:
        """Times of one thread say nothing about two."""
        file = tmp_path / "tuning.json"
        Tuning.for_this_device(1, file).measured("a product", given_times(TIMES))

        assert Tuning.for_this_device(1, file).times_us == {"a product": TIMES}
        assert Tuning.for_this_device(2, file).times_us == {}
        assert json.loads(file.read_bytes())["device"].startswith("onnxruntime ")

    def test_other_alternatives_are_measured(self, tmp_path: Path) -> None:
        """A release with a kernel more, or less, does not trust the old choice."""
        tuning = Tuning("device", tmp_path / "tuning.json")
        tuning.measured("a product", given_times(TIMES))
        more = TIMES | {"int4": 1.0}

        assert tuning.measured("a product", given_times(more)) == more

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff",
            b"null",
            b"[]",
            b"{}",
            b'{"device": "device"}',
            b'{"device": "device", "times_us": []}',
            b'{"device": "device", "times_us": {"a": 1}}',
            b'{"device": "device", "times_us": {"a": {"fp32": "fast"}}}',
            b'{"device": "device", "times_us": {"a": {"fp32": null}}}',
            b"[" * 100_000,
        ],
        ids=range(11),
    )
    def test_rubbish_is_measured_again(self, tmp_path: Path, content: bytes) -> None:
        """A damaged file is no error, and is replaced."""
        file = tmp_path / "tuning.json"
        file.write_bytes(content)

        tuning = Tuning("device", file)

        assert tuning.times_us == {}
        tuning.measured("a product", given_times(TIMES))
        assert Tuning("device", file).times_us == {"a product": TIMES}

    @given(content=st.binary(max_size=100))
    def test_any_bytes_can_be_read(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes
    ) -> None:
        """Whatever the file holds, it never stops a start."""
        file = tmp_path_factory.getbasetemp() / "any-tuning.json"
        file.write_bytes(content)

        assert Tuning("device", file).times_us == {}

    def test_a_place_that_cannot_be_written_is_no_error(self, tmp_path: Path) -> None:
        """On a read-only store times last as long as the process."""
        (tmp_path / "file").write_bytes(b"")
        tuning = Tuning("device", tmp_path / "file" / "tuning.json")

        assert tuning.measured("a product", given_times(TIMES)) == TIMES
        assert tuning.measured("a product", NOT_AGAIN) == TIMES

    def test_a_disk_that_refuses_is_no_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor is a full one."""

        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tuning_module, "write_atomically", refuse)

        Tuning("device", tmp_path / "tuning.json").measured("a product", given_times(TIMES))

        assert not (tmp_path / "tuning.json").exists()


class TestFastest:
    @pytest.mark.parametrize(
        ("fp32", "int8", "packed", "expected"),
        [
            (10, 10, 10, "fp32"),
            (10, 9, 20, "fp32"),  # a small gain is not worth the rounding
            (11.5, 10, 20, "fp32"),
            (11.6, 10, 20, "int8"),
            (10, 20, 5, "packed"),
            (10, 4, 5, "int8"),
            (1, 4, 5, "fp32"),
            (10, math.inf, math.inf, "fp32"),
            (math.inf, math.inf, math.inf, "fp32"),
        ],
    )
    def test_needs_a_clear_gain(
        self, fp32: float, int8: float, packed: float, expected: str
    ) -> None:
        """A kernel that rounds its inputs must be a good deal faster than float32."""
        assert _fastest({"fp32": fp32, "int8": int8, "packed": packed}) == expected


class TestChoosing:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, bool]]:
        """What was measured: kernel, rows, whether as inputs; int8 is always fastest."""
        asked: list[tuple[str, int, bool]] = []

        def take(
            kernel: Float32, product: Product, source: object, *, n_rows: int, as_inputs: bool
        ) -> float:
            asked.append((kernel.name, n_rows, as_inputs))
            return TIMES[kernel.name]

        monkeypatch.setattr(tuning_module, "time_product", take)
        return asked

    @pytest.mark.parametrize(
        ("n_inputs", "n_outputs"), [(127, 4096), (4096, 127), (64, 64), (1, 1)]
    )
    def test_small_products_are_float32_unmeasured(
        self, asked: list[tuple[str, int, bool]], n_inputs: int, n_outputs: int
    ) -> None:
        """There a call costs more than its arithmetic, whatever the kernel."""
        product = random_product(n_inputs, n_outputs)

        chosen = choose_kernels(
            [product], UNREAD, n_rows=1, tuning=Tuning("device"), only_inputs=False
        )

        assert chosen == {product.name: "fp32"}
        assert asked == []

    def test_sizes_are_measured_once(self, asked: list[tuple[str, int, bool]]) -> None:
        """Products of one size share their times; each size asks for every kernel."""
        products = [
            replace(random_product(128, n_outputs), name=f"weights/{number}")
            for number, n_outputs in enumerate((128, 256, 128))
        ]

        chosen = choose_kernels(
            products, UNREAD, n_rows=1, tuning=Tuning("device"), only_inputs=False
        )

        assert chosen == {product.name: "int8" for product in products}
        assert asked == [(name, 1, False) for _ in range(2) for name in KERNELS]

    @pytest.mark.parametrize(("n_rows", "only_inputs"), [(50, False), (1, True)])
    def test_rows_and_the_way_of_values_matter(
        self, asked: list[tuple[str, int, bool]], n_rows: int, only_inputs: bool
    ) -> None:
        """A step and a whole history, values inside and outside, are measured apart."""
        tuning, product = Tuning("device"), random_product(128, 128)

        for rows, inputs in ((1, False), (n_rows, only_inputs)):
            choose_kernels([product], UNREAD, n_rows=rows, tuning=tuning, only_inputs=inputs)

        assert len(tuning.times_us) == 2
        assert asked[-1][1:] == (n_rows, only_inputs)

    def test_known_times_decide(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With times from a file nothing is measured."""
        monkeypatch.setattr(tuning_module, "time_product", lambda *_, **__: forbidden())
        tuning, product = Tuning("device"), random_product(128, 128)
        tuning.times_us["1 x 128 x 128, constants"] = {"fp32": 9.0, "int8": 9.0, "packed": 1.0}

        chosen = choose_kernels([product], UNREAD, n_rows=1, tuning=tuning, only_inputs=False)

        assert chosen == {product.name: "packed"}


class Absent(Float32):
    """A kernel that this ONNX Runtime does not have."""

    def lower(self, product: Product, slots: Slots) -> Lowered:
        """Name an operator that nobody knows."""
        made = node("NoSuchOperator", [product.x, product.name], [product.output])
        return Lowered(nodes=(made,), inputs=super().lower(product, slots).inputs)


class Wrong(Float32):
    """A kernel that computes something else."""

    def tensors(
        self, product: Product, source: ChannelSource, input_order: InputOrder = None
    ) -> Tensors:
        """Give other weights than the plan's."""
        weights: NDArray[np.generic] = 1.2 * source.transposed(product.name)
        return {product.name: weights.astype(np.float32)}


class TestUsable:
    @pytest.mark.parametrize("kernel", [Absent(), Wrong()], ids=["absent", "wrong"])
    @pytest.mark.parametrize("as_inputs", [False, True])
    def test_what_is_absent_or_wrong_takes_forever(self, kernel: Float32, as_inputs: bool) -> None:
        """A kernel that cannot be trusted here is never the fastest."""
        product, source = random_product(32, 16), random_source(32, np.full(16, 8, np.uint8))

        time_us = time_product(kernel, product, source, n_rows=2, as_inputs=as_inputs)

        assert time_us == math.inf

    @pytest.mark.parametrize("as_inputs", [False, True])
    def test_what_computes_has_a_time(self, as_inputs: bool) -> None:
        """Float32 works everywhere."""
        product, source = random_product(32, 16), random_source(32, np.full(16, 8, np.uint8))

        time_us = time_product(KERNELS["fp32"], product, source, n_rows=2, as_inputs=as_inputs)

        assert 0 < time_us < math.inf


UNREAD = random_source(1, np.full(1, 8, np.uint8))
"""Weights for choices that read none."""
