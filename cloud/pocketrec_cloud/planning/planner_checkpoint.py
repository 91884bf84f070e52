# SPDX-License-Identifier: Apache-2.0
"""A trained planner in one file: the backbone it was trained with, extractor and networks.

The three belong together: the networks read what the extractor makes of this backbone's
item embeddings, and plan for its frozen matrices. ``bundle build`` takes them apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    MalformedArtifactError,
    QuantizationError,
)
from pocketrec_cloud.bundling import freeze_backbone
from pocketrec_cloud.checkpoint import backbone_of, backbone_state, read_tensors, write_tensors
from pocketrec_cloud.extractor import Extractor
from pocketrec_quantization.levels import LevelTable
from pocketrec_quantization.personal import HypernetworkConfig, PersonalPlanner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.planning.planned import PlannedBackbone

__all__ = ["TrainedPlanner", "load_planner", "save_planner"]

_KIND = "planner"
_OWN_ENTRIES = frozenset({"backbone", "kind", "networks", "high_share", "extract_window", "levels"})
_BACKBONE, _EXTRACTOR, _NETWORKS = "backbone.", "extractor.", "networks."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedPlanner:
    """What a training of planners leaves behind.

    Attributes:
        model: The backbone, in evaluation mode, its coded matrices as they were frozen.
        item_ids: V external ids in the order of the item indices.
        extractor: From histories to user embeddings.
        extract_window: Events that it was trained to look back at most.
        planner: From user embeddings to plans, bound to ``model``.
        facts: What it was saved with, such as the validation metric.
    """

    model: Backbone
    item_ids: tuple[str, ...]
    extractor: Extractor
    extract_window: int
    planner: PersonalPlanner
    facts: Mapping[str, object]


def save_planner(
    path: Path,
    planned: PlannedBackbone,
    item_ids: tuple[str, ...],
    facts: Mapping[str, object],
) -> TrainedPlanner:
    """Write a trained planner, and return it as it will be read.

    Args:
        path: Where to; replaced atomically.
        planned: What was trained; unchanged.
        item_ids: External ids in the order of their indices, V of them.
        facts: Further entries to keep.
    """
    model = planned.mixed.plain().cpu().eval()
    planner = planned.planner(freeze_backbone(model).digest)
    tensors, header = backbone_state(model, item_ids)
    parts: dict[str, Tensor] = {f"{_BACKBONE}{name}": value for name, value in tensors.items()}
    for name, value in planned.extractor.state_dict().items():
        parts[f"{_EXTRACTOR}{name}"] = value.cpu()
    for name, array in planner.arrays.items():
        parts[f"{_NETWORKS}{name}"] = torch.from_numpy(array.copy())
    write_tensors(
        path,
        parts,
        {
            **facts,
            "backbone": header,
            "kind": _KIND,
            "networks": asdict(planner.config),
            "high_share": planner.high_share,
            "extract_window": planned.config.extract_window,
            "levels": list(planner.levels.bits),
        },
    )
    return load_planner(path)


def load_planner(path: Path) -> TrainedPlanner:
    """Read what ``save_planner`` wrote.

    Args:
        path: A checkpoint of a planner.

    Raises:
        IncompatibleArtifactError: The file is a checkpoint of something else.
        MalformedArtifactError: The file is damaged.
    """
    tensors, header = read_tensors(path)
    if header.get("kind") != _KIND:
        raise IncompatibleArtifactError(
            f"{path}: expected a checkpoint of `pocketrec planner train`, found kind "
            f"{header.get('kind')!r}"
        )
    backbone = header.get("backbone")
    if not isinstance(backbone, dict):
        raise MalformedArtifactError("expected an entry backbone; train again", field=str(path))
    model, item_ids = backbone_of(_under(tensors, _BACKBONE), backbone, path)
    try:
        extractor = Extractor(model.config.embedding_dim)
        extractor.load_state_dict(_under(tensors, _EXTRACTOR))
        extractor.reference()  # refuses weights that are no numbers
        planner = _planner(model, tensors, header)
        window = _window(header)
    except (ConfigError, QuantizationError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise MalformedArtifactError(
            f"expected a trained planner, found {error}; train again", field=str(path)
        ) from error
    return TrainedPlanner(
        model=model,
        item_ids=item_ids,
        extractor=extractor.eval(),
        extract_window=window,
        planner=planner,
        facts={key: value for key, value in header.items() if key not in _OWN_ENTRIES},
    )


def _planner(
    model: Backbone, tensors: Mapping[str, Tensor], header: Mapping[str, object]
) -> PersonalPlanner:
    networks, high_share = header["networks"], header["high_share"]
    if not isinstance(networks, dict) or not isinstance(high_share, float):
        raise TypeError("other entries than networks and high_share")
    frozen = freeze_backbone(model)
    shape = {**networks, "terms": tuple(networks["terms"])}
    return PersonalPlanner(
        layers=frozen.layers,
        model_digest=frozen.digest,
        config=HypernetworkConfig(**shape),
        arrays={
            name: np.ascontiguousarray(value.numpy(), np.float32)
            for name, value in _under(tensors, _NETWORKS).items()
        },
        high_share=high_share,
        levels=_levels(header),
    )


def _window(header: Mapping[str, object]) -> int:
    window = header["extract_window"]
    if not isinstance(window, int) or window < 1:
        raise TypeError("another entry than an extract_window")
    return window


def _levels(header: Mapping[str, object]) -> LevelTable:
    bits = header["levels"]
    if not isinstance(bits, list):
        raise TypeError("another entry than levels")
    return LevelTable(tuple(bits))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
