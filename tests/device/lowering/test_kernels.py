# SPDX-License-Identifier: Apache-2.0
"""Each kernel against the product that NumPy computes in float64.

float32 may lose what adding N products in any order loses. Kernels that round their
inputs may lose what rounding each input to the nearest of 255 steps can lose, half a
step per weight, or one step where the zero point is rounded too.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from tests.device.lowering.products import compile_product, random_product, random_source

from pocketrec.errors import BackendError
from pocketrec_device.lowering.channels import FloatSource, FrozenStore
from pocketrec_device.lowering.kernels import KERNELS, Kernel, _block_size, _pack
from pocketrec_device.lowering.probe import ProductProbe
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.graph_contract import stack_weights, stacked_name
from pocketrec_quantization.quantizer import freeze_matrix
from pocketrec_quantization.testing import tiny_frozen

EPSILON = 2.0**-24
widths_of_channels = st.lists(st.sampled_from([0, 2, 4, 8]), min_size=1, max_size=40)


@cache
def has_kernel(name: str) -> bool:
    """Whether this processor computes a kernel without saturating."""
    product, source = random_product(256, 192), random_source(256, np.full(192, 8, np.uint8))
    kernel = KERNELS[name]
    return all(
        ProductProbe(kernel, product, source, n_rows=1, as_inputs=as_inputs).error() < 0.01
        for as_inputs in (False, True)
    )


def largest_error(
    kernel: Kernel, x: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return what each result may be off by, (M, C)."""
    exact = np.abs(weights).astype(np.float64)
    rounding = (len(weights) + 4) * EPSILON * (np.abs(x) @ exact + 1)
    match kernel.name:
        case "fp32":
            step = np.zeros((len(x), 1))
        case "packed":  # symmetric, at most the whole row at one scale
            step = 0.51 * np.abs(x).max(axis=1, keepdims=True) / 127
        case _:  # with a zero point, all rows at one scale
            step = np.full((len(x), 1), (max(x.max(), 0) - min(x.min(), 0)) / 255)
    bound: NDArray[np.float64] = step * exact.sum(axis=0) + 4 * rounding
    return bound


@pytest.fixture(scope="module", params=list(KERNELS))
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Every kernel there is."""
    if not has_kernel(request.param):
        pytest.skip("this processor's 8-bit products saturate")
    return KERNELS[request.param]


class TestProducts:
    @pytest.mark.parametrize("as_inputs", [False, True], ids=["constants", "inputs"])
    @settings(max_examples=25)
    @given(
        widths=widths_of_channels,
        n_inputs=st.integers(1, 300),
        n_rows=st.integers(1, 5),
        seed=st.integers(0, 999),
    )
    @example(widths=[0] * 7, n_inputs=33, n_rows=2, seed=0)
    @example(widths=[0], n_inputs=1, n_rows=1, seed=0)
    @example(widths=[2], n_inputs=128, n_rows=1, seed=0)
    @example(widths=[4], n_inputs=129, n_rows=1, seed=0)
    @example(widths=[8, 0, 2, 4, 8], n_inputs=16, n_rows=1, seed=0)
    @example(widths=[8] * 16 + [0] * 16, n_inputs=200, n_rows=3, seed=0)
    def test_equal_those_of_numpy(
        self,
        kernel: Kernel,
        as_inputs: bool,
        widths: list[int],
        n_inputs: int,
        n_rows: int,
        seed: int,
    ) -> None:
        """Any mix of widths and any size, with the plan's values inside or from outside."""
        bits, rng = np.array(widths, np.uint8), np.random.default_rng(seed)
        product, source = random_product(n_inputs, len(bits)), random_source(n_inputs, bits)
        x = rng.standard_normal((n_rows, n_inputs)).astype(np.float32)
        weights = source.transposed(product.name)

        found = compile_product(kernel, product, source, as_inputs=as_inputs)(x)

        expected = x.astype(np.float64) @ weights + product.bias_values
        assert found.dtype == np.float32
        assert (np.abs(found - expected) <= largest_error(kernel, x, weights)).all()

    @pytest.mark.parametrize("as_inputs", [False, True], ids=["constants", "inputs"])
    @settings(max_examples=15)
    @given(widths=widths_of_channels, n_inputs=st.integers(1, 200), seed=st.integers(0, 999))
    def test_come_in_the_order_that_is_told(
        self, kernel: Kernel, as_inputs: bool, widths: list[int], n_inputs: int, seed: int
    ) -> None:
        """A product that one other reads may give its channels in any order, if it says which."""
        bits, rng = np.array(widths, np.uint8), np.random.default_rng(seed)
        product = random_product(n_inputs, len(bits), reader="weights/next")
        source = random_source(n_inputs, bits)
        x = rng.standard_normal((2, n_inputs)).astype(np.float32)
        order = kernel.output_order(product, source)

        found = compile_product(kernel, product, source, as_inputs=as_inputs)(x)

        weights = source.transposed(product.name)
        expected = x.astype(np.float64) @ weights + product.bias_values
        largest = largest_error(kernel, x, weights)
        if order is not None:
            assert sorted(order.tolist()) == list(range(len(bits)))
            expected, largest = expected[:, order], largest[:, order]
        assert (np.abs(found - expected) <= largest).all()

    @settings(max_examples=15)
    @given(widths=widths_of_channels, n_inputs=st.integers(1, 200), seed=st.integers(0, 999))
    def test_take_inputs_in_another_order(
        self, kernel: Kernel, widths: list[int], n_inputs: int, seed: int
    ) -> None:
        """With inputs and weights permuted alike, the result is as before."""
        bits, rng = np.array(widths, np.uint8), np.random.default_rng(seed)
        product, source = random_product(n_inputs, len(bits)), random_source(n_inputs, bits)
        x = rng.standard_normal((2, n_inputs)).astype(np.float32)
        order = rng.permutation(n_inputs)

        found = compile_product(kernel, product, source, as_inputs=False, input_order=order)(
            np.ascontiguousarray(x[:, order])
        )

        weights = source.transposed(product.name)
        expected = x.astype(np.float64) @ weights + product.bias_values
        assert (np.abs(found - expected) <= largest_error(kernel, x, weights)).all()

    @pytest.mark.parametrize("name", ["fp32", "packed"])
    @pytest.mark.parametrize("as_inputs", [False, True], ids=["constants", "inputs"])
    def test_rows_do_not_see_each_other(self, name: str, as_inputs: bool) -> None:
        """One large event of a history leaves the others alone; int8 has one scale for all."""
        product, source = random_product(64, 16), random_source(64, np.full(16, 8, np.uint8))
        x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
        run = compile_product(KERNELS[name], product, source, as_inputs=as_inputs)
        before = run(x)

        x[1] *= 1000

        np.testing.assert_array_equal(run(x)[[0, 2]], before[[0, 2]])

    def test_errors_are_small_beside_the_spread(self, kernel: Kernel) -> None:
        """On an ordinary layer, rounding moves a result by about half a percent of the spread."""
        rng = np.random.default_rng(0)
        bits = rng.choice(np.array([2, 4, 8], np.uint8), 192)
        product = random_product(256, 192)
        matrix = freeze_matrix(rng.standard_normal((192, 256)).astype(np.float32))
        store = FrozenStore(FrozenModel(matrices={"layer": matrix}, dense={}), [product.name])

        probe = ProductProbe(kernel, product, store.under(bits), n_rows=1, as_inputs=False)

        assert probe.error() < (1e-5 if kernel.is_exact else 0.02)

    @pytest.mark.parametrize("as_inputs", [False, True], ids=["constants", "inputs"])
    def test_pruned_channels_give_their_bias(self, kernel: Kernel, as_inputs: bool) -> None:
        """A channel of 0 bits contributes exactly nothing."""
        bits = np.array([0, 8, 0, 2, 0], np.uint8)
        product, source = random_product(20, 5), random_source(20, bits)
        x = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)

        found = compile_product(kernel, product, source, as_inputs=as_inputs)(x)

        np.testing.assert_array_equal(
            found[:, [0, 2, 4]], np.tile(product.bias_values[[0, 2, 4]], (3, 1))
        )

    def test_zeros_give_the_bias(self, kernel: Kernel) -> None:
        """Nothing to scale by is no division by zero."""
        bits = np.array([2, 4, 8], np.uint8)
        product, source = random_product(40, 3), random_source(40, bits)

        found = compile_product(kernel, product, source, as_inputs=False)(
            np.zeros((2, 40), np.float32)
        )

        np.testing.assert_array_equal(found, np.tile(product.bias_values, (2, 1)))


class TestStored:
    def test_is_what_a_report_admits(self) -> None:
        """Float32 keeps 32 bits, int8 a byte, packed the widths themselves, narrowest first."""
        widths = np.array([8, 2, 0, 2, 4], np.uint8)

        assert KERNELS["fp32"].stored(widths) == {32: 5}
        assert KERNELS["int8"].stored(widths) == {8: 5}
        assert list(KERNELS["packed"].stored(widths).items()) == [(0, 1), (2, 2), (4, 1), (8, 1)]

    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_packed_codes_take_their_bits(self, bits: int) -> None:
        """256 channels of 256 weights of b bits fill 8192 b bytes, and no more."""
        source = random_source(256, np.full(256, bits, np.uint8))
        product = random_product(256, 256)

        tensors = KERNELS["packed"].tensors(product, source)

        assert tensors[f"{product.name}.codes{bits}"].nbytes == 256 * 256 * bits // 8

    def test_pruned_channels_share_one_of_zeros(self) -> None:
        """However many there are, they cost one channel of the narrowest kind there is."""
        product = random_product(16, 9)

        tensors = KERNELS["packed"].tensors(
            product, random_source(16, np.array([0, 4, 0, 0, 4, 8, 0, 0, 0], np.uint8))
        )

        assert len(tensors[f"{product.name}.codes4"]) == 3
        assert len(tensors[f"{product.name}.codes8"]) == 1
        assert f"{product.name}.codes2" not in tensors
        assert tensors[f"{product.name}.order"].tolist() == [2, 0, 2, 2, 1, 3, 2, 2, 2]

    @given(widths_of_channels, st.integers(1, 300))
    def test_values_are_those_that_are_declared(self, widths: list[int], n_inputs: int) -> None:
        """Names, shapes and types agree, so values of a plan can be bound to a graph."""
        bits = np.array(widths, np.uint8)
        product, source = random_product(n_inputs, len(bits)), random_source(n_inputs, bits)
        types = {1: "float32", 2: "uint8", 3: "int8", 7: "int64"}

        for kernel in KERNELS.values():
            declared = {
                entry.name: (
                    types[entry.type.tensor_type.elem_type],
                    tuple(size.dim_value for size in entry.type.tensor_type.shape.dim),
                )
                for entry in kernel.lower(product, kernel.slots(product, source)).inputs
            }
            tensors = kernel.tensors(product, source)
            found = {name: (array.dtype.name, array.shape) for name, array in tensors.items()}
            assert found == declared
            assert all(array.flags.c_contiguous for array in tensors.values())


class TestSlots:
    def test_only_packed_graphs_depend_on_a_plan(self) -> None:
        """The others take any plan; packed ones count channels per width."""
        product, source = random_product(8, 4), random_source(8, np.array([8, 2, 8, 0], np.uint8))

        slots = {name: kernel.slots(product, source) for name, kernel in KERNELS.items()}

        assert slots == {"fp32": (), "int8": (), "packed": ((0, 1), (2, 1), (8, 2))}

    @given(widths_of_channels, st.randoms(use_true_random=False))
    def test_which_channels_fill_them_does_not_matter(
        self, widths: list[int], random: object
    ) -> None:
        """Plans of equal counts share a graph, byte for byte."""
        shuffled = sorted(widths, key=lambda _: random.random())  # type: ignore[attr-defined]
        product, kernel = random_product(8, len(widths)), KERNELS["packed"]

        one, other = (
            kernel.lower(
                product, kernel.slots(product, random_source(8, np.array(order, np.uint8)))
            )
            for order in (widths, shuffled)
        )

        assert one == other

    def test_a_gather_is_spared_where_the_reader_can_make_up_for_it(self) -> None:
        """Grouped channels stay grouped for a reader; pruned ones, or no reader, need a Gather."""
        kernel = KERNELS["packed"]

        def kinds(widths: list[int], reader: str) -> list[str]:
            bits = np.array(widths, np.uint8)
            product, source = random_product(8, len(bits), reader=reader), random_source(8, bits)
            lowered = kernel.lower(product, kernel.slots(product, source))
            is_told = kernel.output_order(product, source) is not None
            assert is_told == ("Gather" not in {each.op_type for each in lowered.nodes})
            return [each.op_type for each in lowered.nodes if each.op_type != "MatMulNBits"]

        assert kinds([8, 2, 4], "weights/next") == ["Concat"]
        assert "Gather" in kinds([8, 2, 4], "")
        assert "Gather" in kinds([8, 0, 4], "weights/next")


class TestPacking:
    @staticmethod
    def unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.int64]:
        """Return the codes that MatMulNBits reads, by the description of its operator."""
        numbers = packed.reshape(len(packed), -1).astype(np.int64)
        per_byte = 8 // bits
        codes = np.empty((len(packed), numbers.shape[1] * per_byte), np.int64)
        for place in range(per_byte):
            codes[:, place::per_byte] = (numbers >> (bits * place)) & (2**bits - 1)
        codes -= 2 ** (bits - 1)
        return codes

    @given(st.sampled_from([2, 4, 8]), st.integers(1, 9), st.integers(1, 300), st.data())
    def test_codes_come_back(
        self, bits: int, n_channels: int, n_inputs: int, data: st.DataObject
    ) -> None:
        """Unpacking gives every code, and zeros where the last block is filled up."""
        largest = {2: 1, 4: 7, 8: 127}[bits]
        codes = data.draw(
            arrays(np.int8, (n_channels, n_inputs), elements=st.integers(-largest, largest))
        )
        block = _block_size(n_inputs, bits)
        n_blocks = -(-n_inputs // block)

        packed = _pack(codes, bits, block)

        assert packed.shape == (n_channels, n_blocks, block * bits // 8)
        assert packed.dtype == np.uint8
        found = self.unpacked(packed, bits)
        np.testing.assert_array_equal(found[:, :n_inputs], codes)
        assert not found[:, n_inputs:].any()

    def test_by_hand(self) -> None:
        """Four 2-bit codes -1, 0, 1, 0 are 1, 2, 3, 2: lowest bits first, 0b10_11_10_01."""
        packed = _pack(np.array([[-1, 0, 1, 0]], np.int8), 2, 16)

        assert packed.ravel().tolist() == [0b10111001, 0b10101010, 0b10101010, 0b10101010]

    @pytest.mark.parametrize(("bits", "largest"), [(2, 128), (4, 1024), (8, 1024)])
    def test_blocks_are_powers_of_two_within_their_bounds(self, bits: int, largest: int) -> None:
        """From 16 weights on, as many as there are share a scale, up to a bound."""
        sizes = [_block_size(n_inputs, bits) for n_inputs in range(1, 2000)]

        assert set(sizes) == {2**n for n in range(4, largest.bit_length())}
        assert all(before <= after for before, after in pairwise(sizes))
        assert [_block_size(n, bits) for n in (16, 17, 32, 64, 65, 128)] == [
            16, 32, 32, 64, 128, 128,
        ]  # fmt: skip


class TestSources:
    NAME = stacked_name(["blocks.1.k", "blocks.1.v"])

    def widths(self) -> NDArray[np.uint8]:
        """Return a plan of all widths for the 56 channels of the tiny model."""
        return np.resize(np.array([0, 2, 4, 8, 8], np.uint8), 56)

    def test_of_plans_give_the_adapted_weights(self) -> None:
        """Stacked and transposed, the same bits as adapting the frozen model."""
        frozen = tiny_frozen()
        source = FrozenStore(frozen, [self.NAME]).under(self.widths())

        expected = stack_weights(self.NAME, frozen.adapt(self.widths()))

        np.testing.assert_array_equal(source.transposed(self.NAME), expected)

    def test_of_plans_give_the_same_as_codes(self) -> None:
        """Code times scale is the weight, and codes stay within their width."""
        source = FrozenStore(tiny_frozen(), [self.NAME]).under(self.widths())

        channels = source.channels(self.NAME)

        np.testing.assert_array_equal(
            channels.codes * channels.scales, source.transposed(self.NAME)
        )
        np.testing.assert_array_equal(channels.widths, source.widths(self.NAME))
        largest = np.array([{0: 0, 2: 1, 4: 7, 8: 127}[int(bits)] for bits in channels.widths])
        assert (np.abs(channels.codes) <= largest).all()

    def test_of_floats_have_no_codes(self) -> None:
        """The control can be multiplied by in float32 only, and says so."""
        weights = {f"blocks.1.{name}.weight": np.ones((4, 4), np.float32) for name in "kv"}
        source = FloatSource(weights)

        assert source.transposed(self.NAME).shape == (4, 8)
        for refused in (source.channels, source.widths):
            with pytest.raises(BackendError, match="compute='fp32'"):
                refused(self.NAME)
