# SPDX-License-Identifier: Apache-2.0
"""The frozen part: every weight of a model, shared by all its users.

Coded matrices are stored once at 8 bits and read at the widths a plan asks for; all
other tensors (norms, biases, relative positions) stay float32. The SHA-256 of the
part's bytes is the *model digest*, which plans are bound to. ``docs/format.md`` §4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, QuantizationError
from pocketrec_quantization.checks import check_name, reading
from pocketrec_quantization.layers import LayerShape, LayerTable, check_layers, split_by_layer
from pocketrec_quantization.quantizer import FrozenMatrix
from pocketrec_quantization.tensors import TensorReader, write_tensors

__all__ = ["FROZEN_KIND", "FrozenModel"]

FROZEN_KIND = "pocketrec.frozen"
"""What a frozen part declares to be."""

_SEPARATOR = ","


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenModel:
    """The weights of a model at every width.

    Args:
        matrices: Layer name to store, in the order that plans use.
        dense: Tensor name to float32 array.

    Raises:
        ConfigError: There are no matrices, a name is unfit, or a dense tensor is not
            finite float32.
    """

    matrices: Mapping[str, FrozenMatrix]
    dense: Mapping[str, NDArray[np.float32]]
    layers: LayerTable = field(init=False)

    def __post_init__(self) -> None:
        layers = tuple(
            LayerShape(name, matrix.n_channels, matrix.n_elements)
            for name, matrix in self.matrices.items()
        )
        check_layers(layers)
        object.__setattr__(self, "layers", layers)
        for name, array in self.dense.items():
            check_name(name, field="dense")
            if array.dtype != np.float32 or array.size == 0 or not np.isfinite(array).all():
                raise ConfigError(
                    f"dense tensor {name!r}: expected finite float32, got {array.dtype}"
                )

    def adapt(self, widths: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Turn the shared weights into those of one plan.

        Args:
            widths: (C_total,) uint8, bits per channel, in the order of :attr:`layers`.

        Returns:
            ``"<layer>.weight"`` to (C_l, N_l) float32, the same bits on every machine.

        Raises:
            QuantizationError: ``widths`` has another length, or holds a width that is not stored.
        """
        try:
            by_layer = split_by_layer(widths, self.layers)
        except ConfigError as error:
            raise QuantizationError(str(error)) from error
        return {
            f"{name}.weight": matrix.dequantize(by_layer[name])
            for name, matrix in self.matrices.items()
        }

    def to_bytes(self) -> bytes:
        """Serialise as a frozen part; equal models give equal bytes."""
        tensors: dict[str, NDArray[np.generic]] = {}
        for name, matrix in self.matrices.items():
            tensors[f"codes/{name}"] = matrix.codes
            tensors[f"scales/{name}"] = matrix.scales
            tensors[f"multipliers/{name}"] = matrix.multipliers
        tensors |= {f"dense/{name}": array for name, array in self.dense.items()}
        names = _SEPARATOR.join(self.matrices)
        return write_tensors(tensors, kind=FROZEN_KIND, metadata={"layers": names})

    @classmethod
    def from_bytes(cls, data: bytes) -> FrozenModel:
        """Read a frozen part; the arrays are views of ``data``.

        Raises:
            MalformedArtifactError: The bytes are no frozen part.
            IncompatibleArtifactError: The format's major version is unknown.
        """
        reader = TensorReader(data, kind=FROZEN_KIND)
        matrices: dict[str, FrozenMatrix] = {}
        for name in reader.text("layers").split(_SEPARATOR):
            codes = reader.take(f"codes/{name}", np.int8, (None, None))
            scales = reader.take(f"scales/{name}", np.float32, (3, codes.shape[0]))
            multipliers = reader.take(f"multipliers/{name}", np.uint16, (2, codes.shape[0]))
            with reading(name):
                matrices[name] = FrozenMatrix(codes=codes, scales=scales, multipliers=multipliers)
        dense = {
            name.removeprefix("dense/"): reader.take(name, np.float32, None)
            for name in reader.names()
            if name.startswith("dense/")
        }
        reader.finish()
        with reading("layers"):
            return cls(matrices=matrices, dense=dense)

    @property
    def digest(self) -> bytes:
        """The model digest: SHA-256 of :meth:`to_bytes`, 32 bytes. Serialises on every call."""
        return hashlib.sha256(self.to_bytes()).digest()
