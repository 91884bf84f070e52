# SPDX-License-Identifier: Apache-2.0
"""The kinds of backbones, by the name that checkpoints and manifests know them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pocketrec_cloud.backbones.caser import Caser, CaserConfig
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

if TYPE_CHECKING:
    from pocketrec_cloud.backbones.base import Backbone, BackboneShape

__all__ = ["KINDS", "Kind", "make_backbone"]


class Kind(NamedTuple):
    """One kind of backbone.

    Attributes:
        shape: Makes its configuration from fields.
        model: Makes a model from that.
    """

    shape: Callable[..., BackboneShape]
    model: Callable[[Any], Backbone]


# Name -> classes: a new kind is one module and one line.
KINDS: Mapping[str, Kind] = {
    "caser": Kind(CaserConfig, Caser),
    "sasrec": Kind(SASRecConfig, SASRec),
}


def make_backbone(shape: BackboneShape) -> Backbone:
    """Return an untrained model of a shape; torch's seed decides its weights."""
    return KINDS[shape.kind].model(shape)
