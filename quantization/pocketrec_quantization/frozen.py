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
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, QuantizationError
from pocketrec_quantization.checks import check_name, read_only, reading
from pocketrec_quantization.layers import LayerShape, LayerTable, check_layers, split_by_layer
from pocketrec_quantization.quantizer import FrozenMatrix
from pocketrec_quantization.tensors import TensorReader, write_tensors

__all__ = ["FROZEN_KIND", "FrozenModel"]

FROZEN_KIND = "pocketrec.frozen"
"""What a frozen part declares to be."""

_SEPARATOR = ","
_DENSE = "dense/"


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
    _read_digest: bytes | None = field(init=False, repr=False, default=None)

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
                    f"dense tensor {name!r}: expected finite float32, got {array.dtype} of "
                    f"shape {array.shape}"
                )
        dense = {name: read_only(array) for name, array in self.dense.items()}
        object.__setattr__(self, "matrices", MappingProxyType(dict(self.matrices)))
        object.__setattr__(self, "dense", MappingProxyType(dense))

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
        tensors |= {f"{_DENSE}{name}": array for name, array in self.dense.items()}
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
            with reading("layers"):
                check_name(name, field="name")
            codes = reader.take(f"codes/{name}", np.int8, (None, None))
            scales = reader.take(f"scales/{name}", np.float32, (3, len(codes)))
            multipliers = reader.take(f"multipliers/{name}", np.uint16, (2, len(codes)))
            with reading(name):
                matrices[name] = FrozenMatrix(codes=codes, scales=scales, multipliers=multipliers)
        dense = {
            name.removeprefix(_DENSE): reader.take(name, np.float32, None)
            for name in reader.names(_DENSE)
        }
        reader.finish()
        with reading("frozen"):
            model = cls(matrices=matrices, dense=dense)
        object.__setattr__(model, "_read_digest", hashlib.sha256(data).digest())
        return model

    @property
    def digest(self) -> bytes:
        """The model digest, 32 bytes: SHA-256 of the bytes it was read from, or serialises to."""
        return self._read_digest or hashlib.sha256(self.to_bytes()).digest()
