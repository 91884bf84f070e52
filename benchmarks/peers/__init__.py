# SPDX-License-Identifier: Apache-2.0
"""What pocketrec is compared with: runtimes an engineer would otherwise export to.

A new peer is one file and its lines here.
"""

from __future__ import annotations

from types import MappingProxyType

from benchmarks.peers.base import Peer, Session
from benchmarks.peers.eager import TorchEager
from benchmarks.peers.executorch import ExecuTorch
from benchmarks.peers.mnn import Mnn
from benchmarks.peers.ort import OnnxRuntime

__all__ = ["PEERS", "Peer", "Session"]

_ALL: tuple[Peer, ...] = (
    OnnxRuntime(name="ort-fp32", is_exact=True),
    OnnxRuntime(name="ort-int8", is_exact=False),
    ExecuTorch(name="executorch-fp32", is_exact=True),
    ExecuTorch(name="executorch-8da4w", is_exact=False),
    TorchEager(),
    Mnn(name="mnn"),
    Mnn(name="mnn-int8", weight_bits=8),
    Mnn(name="mnn-int4", weight_bits=4),
)
PEERS = MappingProxyType({peer.name: peer for peer in _ALL})
"""Every peer by its name, in the order of tables."""
