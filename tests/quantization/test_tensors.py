# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pocketrec.errors import ConfigError, MalformedArtifactError
from pocketrec_quantization.tensors import TensorReader, write_tensors

KIND = "pocketrec.example"
DTYPES = [np.float64, np.float32, np.int64, np.int32, np.uint16, np.int8, np.uint8]
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,9}", fullmatch=True)
tensors = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays(dtype, array_shapes(max_dims=4, max_side=3))
)
files = st.dictionaries(names, tensors, max_size=4)


@given(files)
def test_reading_reverts_writing(content: dict[str, np.ndarray]) -> None:
    """Every array comes back bit for bit, as a read-only view."""
    reader = TensorReader(write_tensors(content, kind=KIND), kind=KIND)

    for name, array in content.items():
        read = reader.take(name, array.dtype.type, array.shape)
        assert read.tobytes() == array.tobytes()
        assert not read.flags.writeable
    reader.finish()


@given(files)
def test_any_safetensors_library_reads_our_files(content: dict[str, np.ndarray]) -> None:
    """The reference implementation finds the same arrays."""
    loaded = safetensors.numpy.load(write_tensors(content, kind=KIND))

    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in loaded.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in content.items()
    }


@given(files)
def test_we_read_files_of_any_safetensors_library(content: dict[str, np.ndarray]) -> None:
    """Order and spacing of the header are the writer's choice."""
    data = safetensors.numpy.save(content, metadata={"version": "1.0", "format": KIND})

    reader = TensorReader(data, kind=KIND)

    assert reader.names() == tuple(sorted(content))
    for name, array in content.items():
        assert reader.take(name, array.dtype.type, None).tobytes() == array.tobytes()


def test_the_order_of_arguments_does_not_matter() -> None:
    """Equal tensors are equal bytes."""
    a, b = np.ones(2, np.int8), np.ones(2, np.float32)

    forth = write_tensors({"a": a, "b": b}, kind=KIND, metadata={"x": "1", "y": "2"})
    back = write_tensors({"b": b, "a": a}, kind=KIND, metadata={"y": "2", "x": "1"})

    assert forth == back


def test_memory_layout_and_byte_order_do_not_matter() -> None:
    """Transposed and big-endian arrays are written like any other."""
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    odd = np.asfortranarray(array).astype(">i4", order="F")

    assert write_tensors({"a": odd}, kind=KIND) == write_tensors({"a": array}, kind=KIND)


@pytest.mark.parametrize(
    "array",
    [
        np.ones(1, np.complex64),
        np.ones(1, bool),
        np.ones(1, object),
        np.ones((), np.int8),
        np.ones((1,) * 5, np.int8),
        np.ones((2, 0), np.int8),
    ],
)
def test_arrays_outside_the_format_are_not_written(array: np.ndarray) -> None:
    """Other types, scalars and empty arrays are refused."""
    with pytest.raises(ConfigError, match="tensor 'a': expected"):
        write_tensors({"a": array}, kind=KIND)


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("b", np.int8, (2, 3)),
        ("a", np.uint8, (2, 3)),
        ("a", np.int8, (3, 2)),
        ("a", np.int8, (6,)),
        ("a", np.int8, (None, 2)),
    ],
)
def test_only_what_is_expected_is_handed_out(name: str, dtype: Any, shape: Any) -> None:
    """Another name, type or shape is refused, and the tensor named."""
    reader = TensorReader(write_tensors({"a": np.ones((2, 3), np.int8)}, kind=KIND), kind=KIND)

    with pytest.raises(MalformedArtifactError) as caught:
        reader.take(name, dtype, shape)

    assert caught.value.field == name


def test_nothing_is_handed_out_twice() -> None:
    """A second request finds nothing."""
    reader = TensorReader(write_tensors({"a": np.ones(1, np.int8)}, kind=KIND), kind=KIND)
    reader.take("a", np.int8, (1,))

    with pytest.raises(MalformedArtifactError, match="found none"):
        reader.take("a", np.int8, (1,))


def test_what_nobody_took_is_refused() -> None:
    """A known version has no tensors or metadata beyond the specified ones."""
    with_tensor = TensorReader(write_tensors({"a": np.ones(1, np.int8)}, kind=KIND), kind=KIND)
    with_text = TensorReader(write_tensors({}, kind=KIND, metadata={"b": ""}), kind=KIND)

    with pytest.raises(MalformedArtifactError, match="a at byte 8: unexpected"):
        with_tensor.finish()
    with pytest.raises(MalformedArtifactError, match="b at byte 8: unexpected"):
        with_text.finish()


@pytest.mark.parametrize("text", ["", "-1", "01", "1.0", "٣", str(2**53), "9" * 99])
def test_counts_are_plain_decimal_numbers(text: str) -> None:
    """A number in the metadata has one spelling and an upper bound."""
    reader = TensorReader(write_tensors({}, kind=KIND, metadata={"n": text}), kind=KIND)

    with pytest.raises(MalformedArtifactError, match="n at byte 8"):
        reader.count("n")
