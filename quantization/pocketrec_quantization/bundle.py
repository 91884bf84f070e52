# SPDX-License-Identifier: Apache-2.0
"""A bundle on disk: ``manifest.pb`` beside ``parts/<sha256 in hex>``.

Parts are named by their digest, so a part that two bundles share is one file, and
what is read is what was published or an ``IntegrityError``. ``docs/format.md`` §7.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, IntegrityError, MalformedArtifactError
from pocketrec.files import write_atomically
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.extract_graph import read_extract_graph
from pocketrec_quantization.extract_vectors import ExtractVectors
from pocketrec_quantization.extractor import Extractor
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.limits import MAX_MANIFEST_BYTES
from pocketrec_quantization.manifest import (
    ExtractorInfo,
    ItemTableInfo,
    Manifest,
    PartInfo,
    decode_manifest,
    encode_manifest,
    manifest_digest,
)
from pocketrec_quantization.plan import Plan, check_applies, decode_plan
from pocketrec_quantization.vectors import TestVectors

__all__ = [
    "CARD",
    "DEFAULT_PLAN",
    "EXTRACT",
    "EXTRACT_VECTORS",
    "FROZEN",
    "GRAPH_PARTS",
    "ITEMS",
    "MANIFEST_FILE",
    "PARTS_FOLDER",
    "PREFILL",
    "PROGRAM",
    "REQUIRED_PARTS",
    "SCORE",
    "STEP",
    "VECTORS",
    "BackboneConfig",
    "BundleFolder",
    "ExtractorInfo",
    "ItemTableInfo",
    "Manifest",
    "PartInfo",
    "decode_manifest",
    "encode_manifest",
    "manifest_digest",
    "write_bundle",
]

FROZEN = "frozen"
ITEMS = "items"
DEFAULT_PLAN = "default.plan"
VECTORS = "vectors"
CARD = "card.json"
PREFILL = "prefill.onnx"
STEP = "step.onnx"
SCORE = "score.onnx"
PROGRAM = "program.pte"
EXTRACT = "extract.onnx"
EXTRACT_VECTORS = "extract.vectors"

GRAPH_PARTS = {"prefill": PREFILL, "step": STEP, "score": SCORE}
"""Name of a function to the part that holds its graph."""

REQUIRED_PARTS = (FROZEN, ITEMS, DEFAULT_PLAN)
"""Parts without which a bundle cannot be verified."""

MANIFEST_FILE = "manifest.pb"
PARTS_FOLDER = "parts"


def write_bundle(
    folder: Path, manifest_without_parts: Manifest, parts: Mapping[str, bytes]
) -> Manifest:
    """Write a bundle folder: parts first, the manifest last, every file atomically.

    Args:
        folder: Created if absent.
        manifest_without_parts: Everything but ``parts``, which must be empty.
        parts: Part name to content.

    Returns:
        The manifest, its parts filled in.

    Raises:
        ConfigError: The manifest lists parts already, or a part is empty or too large.
        OSError: A file could not be written.
    """
    if manifest_without_parts.parts:
        raise ConfigError("manifest: expected no parts yet; they are taken from the contents")
    infos = tuple(
        PartInfo(
            name=name, sha256=hashlib.sha256(parts[name]).digest(), length_bytes=len(parts[name])
        )
        for name in sorted(parts)
    )
    manifest = replace(manifest_without_parts, parts=infos)
    content = encode_manifest(manifest)
    parts_folder = folder / PARTS_FOLDER
    parts_folder.mkdir(parents=True, exist_ok=True)
    for info in infos:
        write_atomically(parts_folder / info.sha256.hex(), parts[info.name])
    write_atomically(folder / MANIFEST_FILE, content)
    return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFolder:
    """A bundle folder whose manifest has been read.

    Attributes:
        path: The folder.
        manifest: What the bundle says it is.
        digest: SHA-256 of the manifest file, 32 bytes.
    """

    path: Path
    manifest: Manifest
    digest: bytes

    @classmethod
    def open(cls, folder: Path) -> BundleFolder:
        """Read the manifest; parts are read when asked for.

        Raises:
            MalformedArtifactError: The manifest is malformed.
            IncompatibleArtifactError: The manifest is of an unknown major version.
            FileNotFoundError: The folder holds no bundle.
            OSError: The manifest cannot be read.
        """
        try:
            with (folder / MANIFEST_FILE).open("rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError as exc:
            advice = f"expected a bundle, a folder with {MANIFEST_FILE}; bundle build makes one"
            raise FileNotFoundError(exc.errno, advice, str(folder)) from exc
        return cls(path=folder, manifest=decode_manifest(data), digest=manifest_digest(data))

    def part_path(self, name: str) -> Path:
        """Return where a part lies.

        Raises:
            IncompatibleArtifactError: The bundle has no such part.
        """
        return self.path / PARTS_FOLDER / self.manifest.part(name).sha256.hex()

    def read(self, name: str) -> bytes:
        """Return a part's content, after checking its length and digest.

        Raises:
            IncompatibleArtifactError: The bundle has no such part.
            IntegrityError: The file is absent, or is not what the manifest promises.
            OSError: The file cannot be read.
        """
        info = self.manifest.part(name)
        try:
            with self.part_path(name).open("rb") as file:
                is_whole = os.fstat(file.fileno()).st_size == info.length_bytes
                content = file.read() if is_whole else b""
        except FileNotFoundError as error:
            raise IntegrityError(f"part {name!r} is missing; fetch the bundle again") from error
        if not is_whole or hashlib.sha256(content).digest() != info.sha256:
            raise IntegrityError(
                f"part {name!r} is not the {info.length_bytes} bytes with SHA-256 "
                f"{info.sha256.hex()} that the manifest promises; fetch the bundle again"
            )
        return content

    @property
    def model_digest(self) -> bytes:
        """SHA-256 of the frozen part, 32 bytes: what plans are bound to.

        Raises:
            IncompatibleArtifactError: The bundle has no frozen part.
        """
        return self.manifest.part(FROZEN).sha256

    def read_frozen(self) -> FrozenModel:
        """Return the frozen part.

        Raises:
            MalformedArtifactError: It is malformed, or its layers are not the manifest's.
        """
        frozen = FrozenModel.from_bytes(self.read(FROZEN))
        if frozen.layers != self.manifest.layers:
            raise MalformedArtifactError(
                "expected the layers of the frozen part, in its order", field="manifest.layers"
            )
        return frozen

    def read_items(self) -> ItemTable:
        """Return the item table.

        Raises:
            MalformedArtifactError: It is malformed, or not the one the manifest describes.
        """
        items = ItemTable.from_bytes(self.read(ITEMS))
        found = ItemTableInfo.of(items)
        if found != self.manifest.items:
            raise MalformedArtifactError(
                f"expected {self.manifest.items}, found {found}", field="manifest.items"
            )
        if items.embedding_dim != self.manifest.backbone.embedding_dim:
            raise MalformedArtifactError(
                f"expected rows of {self.manifest.backbone.embedding_dim} dimensions, got "
                f"{items.embedding_dim}",
                field="rows",
            )
        return items

    def read_default_plan(self) -> Plan:
        """Return the plan for everybody: unsigned, version 0, bound to the frozen part.

        Raises:
            MalformedArtifactError: It is malformed, signed, personal or versioned.
            IncompatibleArtifactError: It is for another model.
        """
        plan = decode_plan(self.read(DEFAULT_PLAN))
        if plan.key_id or plan.version or plan.subject:
            raise MalformedArtifactError(
                "expected an unsigned plan of version 0 for nobody in particular",
                field=DEFAULT_PLAN,
            )
        check_applies(plan, self.manifest.layers, self.model_digest)
        return plan

    def read_vectors(self) -> TestVectors:
        """Return the test vectors.

        Raises:
            MalformedArtifactError: They are malformed, or name items that do not exist.
        """
        vectors = TestVectors.from_bytes(self.read(VECTORS))
        for number, case in enumerate(vectors.cases):
            self._check_indices(VECTORS, number, case.history, case.candidates)
        return vectors

    def read_extractor(self) -> Extractor:
        """Return the extractor that the graph ``extract`` computes.

        Raises:
            MalformedArtifactError: The graph is malformed, or of another dimension.
            IncompatibleArtifactError: There is no such part, or it keeps another contract.
        """
        extractor = read_extract_graph(self.read(EXTRACT), EXTRACT)
        dim = self.manifest.backbone.embedding_dim
        if extractor.embedding_dim != dim:
            raise MalformedArtifactError(
                f"expected an extractor of {dim} dimensions, got {extractor.embedding_dim}",
                field=EXTRACT,
            )
        return extractor

    def read_extract_vectors(self) -> ExtractVectors:
        """Return the extractor's test vectors.

        Raises:
            MalformedArtifactError: They are malformed, name items that do not exist, or
                are of another dimension.
            IncompatibleArtifactError: There is no such part.
        """
        vectors = ExtractVectors.from_bytes(self.read(EXTRACT_VECTORS))
        dim = self.manifest.backbone.embedding_dim
        for number, case in enumerate(vectors.cases):
            self._check_indices(EXTRACT_VECTORS, number, case.history)
            if case.z.shape != (dim,):
                raise MalformedArtifactError(
                    f"case {number}: expected z of {dim} dimensions, got {case.z.shape}",
                    field=EXTRACT_VECTORS,
                )
        return vectors

    def verify(self) -> None:
        """Check every part against its digest, and the known ones against each other.

        Raises:
            IncompatibleArtifactError: A required part is absent, or the default plan is
                for another model.
            IntegrityError: A part is not what the manifest promises.
            MalformedArtifactError: A part is malformed, or contradicts the manifest.
        """
        self.read_frozen()
        self.read_items()
        self.read_default_plan()
        for part in self.manifest.parts:
            if part.name == VECTORS:
                self.read_vectors()
            elif part.name not in REQUIRED_PARTS:
                self.read(part.name)
        self._verify_extractor()

    def _verify_extractor(self) -> None:
        names = {part.name for part in self.manifest.parts}
        if self.manifest.extractor is not None:
            self.read_extractor()
            self.read_extract_vectors()
        elif odd := names & {EXTRACT, EXTRACT_VECTORS}:
            raise MalformedArtifactError(
                f"expected the window of {min(odd)!r}, found none", field="manifest.extractor"
            )

    def _check_indices(self, part: str, number: int, *indices: NDArray[np.int32]) -> None:
        n_items = self.manifest.items.n_items
        if max(int(array.max()) for array in indices) > n_items:
            raise MalformedArtifactError(
                f"case {number}: expected item indices of 0..{n_items}", field=part
            )
