# SPDX-License-Identifier: Apache-2.0
"""Abuses of the tensor file, which all array parts share; see README.md."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError
from pocketrec_quantization.limits import MAX_TENSOR_HEADER_BYTES
from pocketrec_quantization.tensors import TensorReader, write_tensors

KIND = "pocketrec.example"
METADATA = {"format": KIND, "version": "1.0"}
TENSOR = {"dtype": "I8", "shape": [2, 2], "data_offsets": [0, 4]}
HONEST = {"__metadata__": METADATA, "a": TENSOR}


def file_of(header: object, data: bytes = bytes(4)) -> bytes:
    """Write a tensor file without any of the writer's checks."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read(data: bytes) -> None:
    """Read the one tensor of an honest file."""
    reader = TensorReader(data, kind=KIND)
    reader.take("a", np.int8, (2, 2))
    reader.finish()


def test_the_honest_file_is_accepted() -> None:
    """What the abuses start from is a tensor file."""
    read(file_of(HONEST))


def test_truncated_anywhere() -> None:
    """No prefix of a tensor file is one."""
    data = write_tensors({"a": np.zeros((2, 2), np.int8)}, kind=KIND)
    read(data)

    for length in range(len(data)):
        with pytest.raises(MalformedArtifactError):
            read(data[:length])


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 200, MAX_TENSOR_HEADER_BYTES + 1])
def test_header_length_beyond_file_or_limit(length: int) -> None:
    """A declared length is compared with what can be there first."""
    data = length.to_bytes(8, "little") + file_of(HONEST)[8:]

    with pytest.raises(MalformedArtifactError, match=f"header_length at byte 0: {length} bytes"):
        read(data)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}{}", id="two objects"),
        pytest.param(b"\xff\xfe{}", id="other encoding"),
        pytest.param('{"é":1}'.encode(), id="not ASCII"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(b'{"a":' * 100_000, id="objects nested without end"),
        pytest.param(b"9" * 100_000, id="endless number"),
        pytest.param(b'{"a":NaN}', id="NaN"),
    ],
)
def test_header_that_is_no_object(header: bytes) -> None:
    """Whatever the JSON parser says, the answer is a malformed header."""
    with pytest.raises(MalformedArtifactError, match="at byte 8"):
        read(file_of(header))


@pytest.mark.parametrize(
    "text",
    [
        '{"__metadata__":%(m)s,"a":%(t)s,"a":%(t)s}',
        '{"__metadata__":%(m)s,"__metadata__":%(m)s,"a":%(t)s}',
        '{"__metadata__":%(m)s,"a":{"dtype":"U8","dtype":"I8","shape":[2,2],"data_offsets":[0,4]}}',
    ],
)
def test_name_twice(text: str) -> None:
    """The last entry of a name does not win."""
    header = text % {"m": json.dumps(METADATA), "t": json.dumps(TENSOR)}

    with pytest.raises(MalformedArtifactError, match="a name occurs twice"):
        read(file_of(header.encode()))


@pytest.mark.parametrize(
    "name", ["", "/a", ".", "a b", "a\\u0000", "\\ud800", "a" * 129, "../../etc/passwd", "a\\n"]
)
def test_names_that_are_none(name: str) -> None:
    """Names are short and plain, so that errors can quote them."""
    header = '{"__metadata__":%s,"%s":%s}' % (json.dumps(METADATA), name, json.dumps(TENSOR))  # noqa: UP031  # JSON has braces of its own

    with pytest.raises(MalformedArtifactError, match="expected names of"):
        read(file_of(header.encode()))


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="array"),
        pytest.param({"format": KIND, "version": 1.0}, id="number"),
        pytest.param({"version": "1.0"}, id="no format"),
        pytest.param({"format": KIND}, id="no version"),
        pytest.param({"format": "pocketrec.items", "version": "1.0"}, id="other kind"),
        pytest.param({"format": KIND, "version": "1"}, id="no minor"),
        pytest.param({"format": KIND, "version": "01.0"}, id="leading zero"),
        pytest.param({"format": KIND, "version": "-1.0"}, id="negative"),
        pytest.param({"format": KIND, "version": "1.0\n"}, id="line break"),
        pytest.param({"format": KIND, "version": "9" * 5000 + ".0"}, id="endless"),
        pytest.param({"format": KIND, "version": "1.0", "note": ""}, id="unknown entry"),
    ],
)
def test_metadata_of_another_kind(metadata: object) -> None:
    """The metadata says what the file is, in texts, and nothing else."""
    with pytest.raises(MalformedArtifactError):
        read(file_of({"__metadata__": metadata, "a": TENSOR}))


def test_no_metadata() -> None:
    """A safetensors file of anybody else is none of ours."""
    with pytest.raises(MalformedArtifactError, match="__metadata__ at byte 8"):
        read(file_of({"a": TENSOR}))


@pytest.mark.parametrize("version", ["0.9", "2.0", "99999.1"])
def test_unknown_major_version(version: str) -> None:
    """Both version numbers are named."""
    with pytest.raises(IncompatibleArtifactError, match=rf"version {version}, .* reads 1\.x"):
        read(file_of({"__metadata__": {"format": KIND, "version": version}, "a": TENSOR}))


def test_unknown_minor_version_is_readable() -> None:
    """A newer minor version may add tensors and metadata."""
    metadata = {"format": KIND, "version": "1.7", "note": "from the future"}
    extra = {"dtype": "U8", "shape": [1], "data_offsets": [4, 5]}

    read(file_of({"__metadata__": metadata, "a": TENSOR, "b": extra}, bytes(5)))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "I4"},
        {"dtype": "BF16"},
        {"dtype": 8},
        {"dtype": ["I8"]},
        {"shape": []},
        {"shape": [4, 0]},
        {"shape": [-2, -2]},
        {"shape": [2.0, 2]},
        {"shape": [True, 4]},
        {"shape": "22"},
        {"shape": [1, 1, 1, 2, 2]},
        {"shape": [2**31, 2]},
        {"shape": [2**31 - 1] * 4},
        {"shape": [2, 3]},
        {"data_offsets": [4, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 4, 4]},
        {"data_offsets": [0, 2**64]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": [0.0, 4]},
        {"data_offsets": {"0": 0, "1": 4}},
        {"note": 1},
    ],
    ids=str,
)
def test_tensors_that_are_none(changes: dict[str, Any]) -> None:
    """A tensor is a known type, 1 to 4 positive lengths, and exactly its bytes."""
    with pytest.raises(MalformedArtifactError) as caught:
        read(file_of({"__metadata__": METADATA, "a": TENSOR | changes}))

    assert caught.value.field == "a"


@pytest.mark.parametrize("missing", ["dtype", "shape", "data_offsets"])
def test_tensors_that_are_incomplete(missing: str) -> None:
    """Type, shape and place are all needed."""
    tensor = {key: value for key, value in TENSOR.items() if key != missing}

    with pytest.raises(MalformedArtifactError, match="a at byte 8: expected an object of"):
        read(file_of({"__metadata__": METADATA, "a": tensor}))


@pytest.mark.parametrize(
    ("begin", "n_bytes", "field"),
    [
        pytest.param(5, 9, "b", id="hole"),
        pytest.param(3, 8, "b", id="overlap"),
        pytest.param(0, 4, "b", id="same bytes twice"),
        pytest.param(4, 7, "data", id="file too short"),
        pytest.param(4, 9, "data", id="file too long"),
    ],
)
def test_bytes_are_covered_exactly_once(begin: int, n_bytes: int, field: str) -> None:
    """Tensors leave no hole, share no byte, and end with the file."""
    second = {"dtype": "I8", "shape": [4], "data_offsets": [begin, begin + 4]}
    data = file_of({"__metadata__": METADATA, "a": TENSOR, "b": second}, bytes(n_bytes))

    with pytest.raises(MalformedArtifactError) as caught:
        read(data)

    assert caught.value.field in {field, "a"}


def test_more_tensors_than_any_model_has() -> None:
    """A header of many small entries is refused by their number."""
    entries: dict[str, Any] = {f"{number:x}": {} for number in range(8193)}

    with pytest.raises(MalformedArtifactError, match="at most 8192 tensors, got 8193"):
        read(file_of({"__metadata__": METADATA, **entries}))


def test_tensor_nobody_asked_for() -> None:
    """A file of a known version holds what it is specified to hold."""
    data = write_tensors({"a": np.zeros((2, 2), np.int8), "b": np.ones(1, np.int8)}, kind=KIND)

    with pytest.raises(MalformedArtifactError, match="b at byte 8: unexpected entry"):
        read(data)
