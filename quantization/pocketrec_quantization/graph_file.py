# SPDX-License-Identifier: Apache-2.0
"""Reads the ONNX files of a bundle; neither devices nor servers carry the ``onnx`` package."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError
from pocketrec_proto.v1.onnx_subset_pb2 import OnnxModel
from pocketrec_quantization.graph_contract import GRAPH_CONTRACT, GRAPH_CONTRACT_KEY

__all__ = ["parse_graph"]


def parse_graph(data: bytes, part: str) -> OnnxModel:
    """Read a graph of a bundle.

    Args:
        data: The content of an ``.onnx`` file.
        part: The name of the part, for messages.

    Raises:
        MalformedArtifactError: The bytes are no ONNX file.
        IncompatibleArtifactError: The graph keeps another contract than this release.
    """
    try:
        model = OnnxModel.FromString(data)
    except DecodeError as exc:
        raise MalformedArtifactError("expected an ONNX file", field=part) from exc
    contract = next((p.value for p in model.metadata_props if p.key == GRAPH_CONTRACT_KEY), "none")
    if contract != GRAPH_CONTRACT:
        raise IncompatibleArtifactError(
            f"{part}: expected graphs of contract {GRAPH_CONTRACT}, found {contract!r:.20}; build "
            "the bundle with this release of pocketrec, or update the device"
        )
    return model
