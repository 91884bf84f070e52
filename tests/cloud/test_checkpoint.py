# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pocketrec.errors import IncompatibleArtifactError, MalformedArtifactError
from pocketrec_cloud.backbones.caser import Caser, CaserConfig
from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
from pocketrec_cloud.checkpoint import load_backbone, read_tensors, save_backbone, write_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = SASRecConfig(n_items=3, embedding_dim=4, n_heads=2, window=5)
ITEM_IDS = ("a", "b", "ü")


@pytest.fixture
def model() -> SASRec:
    """A random backbone."""
    torch.manual_seed(0)
    return SASRec(CONFIG)


@pytest.fixture
def path(tmp_path: Path, model: SASRec) -> Path:
    """Its checkpoint."""
    path = tmp_path / "best.safetensors"
    save_backbone(path, model, ITEM_IDS, {"ndcg@10": 0.5})
    return path


def rewrite(path: Path, **changes: Any) -> None:
    """Write a checkpoint again with other entries in its header; None leaves one out."""
    tensors, header = read_tensors(path)
    entries = {key: value for key, value in (header | changes).items() if value is not None}
    write_tensors(path, tensors, entries)


def test_a_backbone_survives_the_journey(path: Path, model: SASRec) -> None:
    """Every parameter comes back bit for bit, with shape, catalogue and facts."""
    read, item_ids, header = load_backbone(path)

    assert read.config == CONFIG
    assert item_ids == ITEM_IDS
    assert header["ndcg@10"] == 0.5
    assert not read.training
    for name, value in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], value)


def test_a_caser_survives_the_journey(tmp_path: Path) -> None:
    """Its kind is in the header, and comes back as that kind."""
    config = CaserConfig(n_items=3, embedding_dim=4, window=3, max_height=2)
    model = Caser(config)
    save_backbone(tmp_path / "file", model, ITEM_IDS, {})

    read, _, header = load_backbone(tmp_path / "file")

    assert header["kind"] == "caser"
    assert isinstance(read, Caser)
    assert read.config == config
    for name, value in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], value)


def test_tensors_of_any_type_survive_the_journey(tmp_path: Path) -> None:
    """Scalars, views and integers are written as they are."""
    tensors = {"step": torch.tensor(3.0), "view": torch.arange(6).reshape(2, 3).T}

    write_tensors(tmp_path / "file", tensors, {"list": [1, None, "x"]})
    read, header = read_tensors(tmp_path / "file")

    assert header == {"list": [1, None, "x"]}
    assert read["step"].shape == ()
    assert torch.equal(read["view"], tensors["view"])


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x02\0\0\0\0\0\0\0{}"])
def test_other_files_are_malformed(path: Path, content: bytes) -> None:
    """A file that is no checkpoint is refused with advice."""
    path.write_bytes(content)

    with pytest.raises((MalformedArtifactError, IncompatibleArtifactError), match="expected"):
        load_backbone(path)


def test_a_truncated_checkpoint_is_malformed(path: Path) -> None:
    """Half a file is no model."""
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(MalformedArtifactError, match="train again"):
        load_backbone(path)


def test_foreign_safetensors_are_malformed(path: Path) -> None:
    """Another library's header is not ours to interpret."""
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path, metadata={"format": "pt"})

    with pytest.raises(MalformedArtifactError, match="pocketrec checkpoint"):
        load_backbone(path)


@pytest.mark.parametrize("kind", [None, "gru4rec"])
def test_another_kind_of_backbone_is_incompatible(path: Path, kind: str | None) -> None:
    """The error names what was found."""
    rewrite(path, kind=kind)

    with pytest.raises(IncompatibleArtifactError, match=repr(kind)):
        load_backbone(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": [1, 2]},
        {"config": {"n_items": 3, "colour": "red"}},
        {"config": {"n_items": 0}},
        {"config": {"n_items": "three"}},
        {"item_ids": None},
        {"item_ids": ["a", "b"]},
        {"item_ids": ["a", "b", 3]},
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense_is_malformed(path: Path, changes: dict[str, Any]) -> None:
    """Shape and catalogue must be there and of one size."""
    rewrite(path, **changes)

    with pytest.raises(MalformedArtifactError):
        load_backbone(path)


def test_tensors_of_another_shape_are_incompatible(path: Path) -> None:
    """A header that promises another width than the tensors have is not trusted."""
    _, header = read_tensors(path)
    assert isinstance(header["config"], dict)

    rewrite(path, config=header["config"] | {"embedding_dim": 8})

    with pytest.raises(IncompatibleArtifactError, match="size mismatch"):
        load_backbone(path)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    """What the disk cannot read stays an OSError."""
    with pytest.raises(FileNotFoundError):
        load_backbone(tmp_path / "missing")
