# SPDX-License-Identifier: Apache-2.0
"""How the header of a plan tells its layers: by an architecture, else one by one.

Names and shapes take a dozen bytes per layer and are equal in every plan of a model. For
an architecture that this module knows, a few numbers give the same table. Each table is
told in one way only: what an architecture gives is never spelled out.

Source: our choice; ``docs/format.md`` §1, ``docs/adr/0006-compact-plans.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pocketrec.errors import ConfigError, IncompatibleArtifactError
from pocketrec_proto.v1.artifacts_pb2 import Architecture, PlanHeader
from pocketrec_quantization.backbone import BackboneConfig, coded_layers
from pocketrec_quantization.checks import check_integer
from pocketrec_quantization.layers import LayerTable, check_layers
from pocketrec_quantization.limits import MAX_LAYERS
from pocketrec_quantization.wire import layers_from_proto, layers_to_proto

__all__ = ["read_layers", "write_layers"]

_SASREC_BLOCK_LAYERS = 6


@dataclass(frozen=True, slots=True)
class _Rule:
    """Between the sizes of one kind of architecture and its layers.

    Attributes:
        give: Sizes to layers; raises ``ConfigError`` for sizes that the kind does not have,
            before it makes more layers than a table may hold.
        guess: Layers to the only sizes that may give them; None when none can.
    """

    give: Callable[[Sequence[int]], LayerTable]
    guess: Callable[[LayerTable], tuple[int, ...] | None]


def write_layers(layers: LayerTable, header: PlanHeader) -> None:
    """Enter a layer table into a header that has none yet.

    Args:
        layers: A table that ``check_layers`` accepts.
        header: Gets ``architecture`` or ``layers``.
    """
    architecture = _architecture_of(layers)
    if architecture is None:
        header.layers.extend(layers_to_proto(layers))
    else:
        header.architecture.CopyFrom(architecture)


def read_layers(header: PlanHeader) -> LayerTable:
    """Return the layer table of a header.

    Raises:
        ConfigError: There is none or two, it breaks a limit, or an architecture would have
            told it shorter.
        IncompatibleArtifactError: The architecture is of a kind that this release does not
            know.
    """
    if not header.HasField("architecture"):
        layers = layers_from_proto(header.layers)
        if _architecture_of(layers) is not None:
            raise ConfigError("layers: expected the architecture that gives them in their place")
        return layers
    if header.layers:
        raise ConfigError("layers: expected an architecture or layers, got both")
    rule = _RULES.get(header.architecture.kind)
    if rule is None:
        raise IncompatibleArtifactError(
            f"the plan is for an architecture of kind {header.architecture.kind}, this release "
            f"knows {', '.join(map(str, _RULES))}; update it"
        )
    layers = rule.give(header.architecture.sizes)
    check_layers(layers)
    return layers


@functools.lru_cache(maxsize=64)  # asked for with every plan; never changed by who gets it
def _architecture_of(layers: LayerTable) -> Architecture | None:
    """Return the architecture that gives exactly these layers, if there is one."""
    for kind, rule in _RULES.items():
        sizes = rule.guess(layers)
        with suppress(ConfigError):
            if sizes is not None and rule.give(sizes) == layers:
                return Architecture(kind=kind, sizes=sizes)
    return None


def _sasrec_layers(sizes: Iterable[int]) -> LayerTable:
    numbers = tuple(sizes)
    if len(numbers) != 3:
        raise ConfigError(
            "architecture: expected embedding_dim, n_blocks and ffn_multiplier, got "
            f"{len(numbers)} sizes"
        )
    embedding_dim, n_blocks, ffn_multiplier = numbers
    check_integer(n_blocks, field="n_blocks", minimum=1, maximum=MAX_LAYERS // _SASREC_BLOCK_LAYERS)
    return coded_layers(
        BackboneConfig(
            kind="sasrec",
            embedding_dim=embedding_dim,
            n_blocks=n_blocks,
            n_heads=1,  # neither heads nor window shape a coded matrix
            window=1,
            ffn_multiplier=ffn_multiplier,
        )
    )


def _sasrec_sizes(layers: LayerTable) -> tuple[int, ...] | None:
    ffn1 = next((layer for layer in layers if layer.name == "blocks.0.ffn1"), None)
    if ffn1 is None:
        return None
    n_blocks = len(layers) // _SASREC_BLOCK_LAYERS
    return (ffn1.n_elements, n_blocks, ffn1.n_channels // ffn1.n_elements)


_RULES = {Architecture.KIND_SASREC: _Rule(give=_sasrec_layers, guess=_sasrec_sizes)}
"""By ascending kind; the first that gives a table tells it."""
