# SPDX-License-Identifier: Apache-2.0
"""Other runtimes to measure beside pocketrec: what an engineer would otherwise export to.

They are named in the entry-point group ``pocketrec.peers``; see ``pocketrec_quantization.peers``
for what a peer is. A new one is one file and its lines here, or a file of yours.
"""

from __future__ import annotations

from types import MappingProxyType

from pocketrec_cloud.peers.eager import TorchEager
from pocketrec_cloud.peers.executorch import ExecuTorch
from pocketrec_cloud.peers.mnn import Mnn
from pocketrec_cloud.peers.ort import OnnxRuntime
from pocketrec_quantization.peers import Peer

__all__ = [
    "EXECUTORCH_8DA4W",
    "EXECUTORCH_FP32",
    "MNN",
    "MNN_INT4",
    "MNN_INT8",
    "ORT_FP32",
    "ORT_INT8",
    "PEERS",
    "TORCH_EAGER",
]

ORT_FP32 = OnnxRuntime(name="ort-fp32", is_exact=True)
ORT_INT8 = OnnxRuntime(name="ort-int8", is_exact=False)
EXECUTORCH_FP32 = ExecuTorch(name="executorch-fp32", is_exact=True)
EXECUTORCH_8DA4W = ExecuTorch(name="executorch-8da4w", is_exact=False)
TORCH_EAGER = TorchEager()
MNN = Mnn(name="mnn")
MNN_INT8 = Mnn(name="mnn-int8", weight_bits=8)
MNN_INT4 = Mnn(name="mnn-int4", weight_bits=4)

_ALL: tuple[Peer, ...] = (
    ORT_FP32,
    ORT_INT8,
    EXECUTORCH_FP32,
    EXECUTORCH_8DA4W,
    TORCH_EAGER,
    MNN,
    MNN_INT8,
    MNN_INT4,
)
PEERS = MappingProxyType({peer.name: peer for peer in _ALL})
"""Every peer by its name, in the order of tables."""
