# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bundle: what a model is, and the digest of every part of it.

Its own SHA-256 is the *bundle digest*. ``docs/format.md`` §7.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields

from pocketrec.errors import ConfigError, IncompatibleArtifactError, MalformedArtifactError
from pocketrec_proto.v1 import artifacts_pb2
from pocketrec_quantization.backbone import BACKBONE_KINDS, BackboneConfig
from pocketrec_quantization.checks import (
    check_integer,
    check_major,
    check_name,
    check_text,
    reading,
)
from pocketrec_quantization.item_table_info import (
    CodebookInfo,
    ItemTableInfo,
    items_from_proto,
    items_to_proto,
)
from pocketrec_quantization.layers import LayerTable, check_layers
from pocketrec_quantization.limits import (
    MAX_LAYER_SIDE,
    MAX_MANIFEST_BYTES,
    MAX_PART_BYTES,
    MAX_PARTS,
    MAX_TEXT_LENGTH,
)
from pocketrec_quantization.wire import (
    check_canonical,
    layers_from_proto,
    layers_to_proto,
    parse_message,
    serialize_message,
)

__all__ = [
    "EXTRACTOR_KINDS",
    "MANIFEST_VERSION",
    "BackboneConfig",
    "CodebookInfo",
    "ExtractorInfo",
    "ItemTableInfo",
    "Manifest",
    "PartInfo",
    "decode_manifest",
    "encode_manifest",
    "manifest_digest",
    "schema_minor_of",
]

MANIFEST_VERSION = (1, 2)
"""Newest major and minor schema version of the manifests this release reads."""

_MINOR_OF_KIND = {"sasrec": 0, "caser": 1}

EXTRACTOR_KINDS = ("gru",)
"""Extractors this release knows."""

_EXTRACTOR_MINOR = 1
_CODEBOOKS_MINOR = 2
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorInfo:
    """What turns a history into a user embedding.

    Args:
        kind: ``gru``.
        window: How many events it looks back at most.

    Raises:
        ConfigError: A field is outside its range.
    """

    kind: str
    window: int

    def __post_init__(self) -> None:
        if self.kind not in EXTRACTOR_KINDS:
            raise ConfigError(
                f"extractor.kind: expected one of {EXTRACTOR_KINDS}, got {self.kind!r:.80}"
            )
        check_integer(self.window, field="extractor.window", minimum=1, maximum=MAX_LAYER_SIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartInfo:
    """One part of a bundle, stored as ``parts/<sha256 in hex>``.

    Args:
        name: Its role.
        sha256: 32 bytes.
        length_bytes: 1 byte to 2 GiB.

    Raises:
        ConfigError: A field is outside its range.
    """

    name: str
    sha256: bytes
    length_bytes: int

    def __post_init__(self) -> None:
        check_name(self.name, field="part.name")
        if len(self.sha256) != _DIGEST_BYTES:
            raise ConfigError(f"part {self.name!r}: expected a sha256 of {_DIGEST_BYTES} bytes")
        check_integer(self.length_bytes, field="length_bytes", minimum=1, maximum=MAX_PART_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle is.

    Args:
        model_name: The model line; one line has one current bundle.
        version: Only ever goes up, per model line.
        created_at_s: Unix seconds.
        backbone: The architecture.
        items: The item table.
        layers: The coded matrices, equal to those of the frozen part.
        parts: At most 64, by name; the writer sorts them.
        license: SPDX identifier, or free text, of the terms the weights are under.
        producer: What made the bundle.
        extractor: What makes user embeddings; None = nothing does.
        schema_major: Major version of the manifest's schema.
        schema_minor: Minor version of the manifest's schema; ``schema_minor_of`` what is in
            it at least.

    Raises:
        ConfigError: A field is outside its range, or a part is named twice.
    """

    model_name: str
    version: int
    created_at_s: int
    backbone: BackboneConfig
    items: ItemTableInfo
    layers: LayerTable
    parts: tuple[PartInfo, ...] = ()
    license: str = ""
    producer: str = ""
    extractor: ExtractorInfo | None = None
    schema_major: int = MANIFEST_VERSION[0]
    schema_minor: int = 0

    def __post_init__(self) -> None:
        check_name(self.model_name, field="model_name")
        for name in ("version", "created_at_s", "schema_major", "schema_minor"):
            check_integer(getattr(self, name), field=name)
        least_minor = schema_minor_of(self.backbone, self.extractor, self.items)
        if self.schema_minor < least_minor:
            raise ConfigError(
                f"schema_minor: expected at least {least_minor} for the backbone "
                f"{self.backbone.kind!r}{' and an extractor' if self.extractor else ''}"
                f"{' and codebooks' if self.items.codebooks else ''}, got {self.schema_minor}"
            )
        check_layers(self.layers)
        check_text(self.license, field="license", maximum=MAX_TEXT_LENGTH)
        check_text(self.producer, field="producer", maximum=MAX_TEXT_LENGTH)
        if len(self.parts) > MAX_PARTS:
            raise ConfigError(f"parts: expected at most {MAX_PARTS}, got {len(self.parts)}")
        if len({part.name for part in self.parts}) != len(self.parts):
            raise ConfigError("parts: a name occurs twice")

    def part(self, name: str) -> PartInfo:
        """Return one part's entry.

        Raises:
            IncompatibleArtifactError: The bundle has no such part.
        """
        for part in self.parts:
            if part.name == name:
                return part
        names = ", ".join(part.name for part in self.parts)
        raise IncompatibleArtifactError(
            f"bundle {self.model_name!r} version {self.version} has no part {name!r}, only {names}"
        )


def schema_minor_of(
    backbone: BackboneConfig,
    extractor: ExtractorInfo | None = None,
    items: ItemTableInfo | None = None,
) -> int:
    """Return the minor version whose readers know what is in a bundle; older ones refuse it.

    Args:
        backbone: Of the bundle.
        extractor: Likewise; None = there is none.
        items: Likewise; None = a table of one plain codebook.
    """
    minors = [_MINOR_OF_KIND[backbone.kind]]
    if extractor is not None:
        minors.append(_EXTRACTOR_MINOR)
    if items is not None and items.codebooks:
        minors.append(_CODEBOOKS_MINOR)
    return max(minors)


def encode_manifest(manifest: Manifest) -> bytes:
    """Write ``manifest.pb``; equal manifests give equal bytes.

    Raises:
        ConfigError: The manifest is of another major version.
    """
    if manifest.schema_major != MANIFEST_VERSION[0]:
        raise ConfigError(f"schema_major: expected {MANIFEST_VERSION[0]} to write")
    message = artifacts_pb2.BundleManifest(
        schema_major=manifest.schema_major,
        schema_minor=manifest.schema_minor,
        model_name=manifest.model_name,
        version=manifest.version,
        created_at_s=manifest.created_at_s,
        backbone=artifacts_pb2.BackboneConfig(**asdict(manifest.backbone)),
        items=items_to_proto(manifest.items),
        layers=layers_to_proto(manifest.layers),
        parts=[
            artifacts_pb2.Part(name=p.name, sha256=p.sha256, length_bytes=p.length_bytes)
            for p in sorted(manifest.parts, key=lambda part: part.name)
        ],
        license=manifest.license,
        producer=manifest.producer,
        extractor=_extractor_to_proto(manifest.extractor),
    )
    return serialize_message(message)


def decode_manifest(data: bytes) -> Manifest:
    """Read ``manifest.pb``.

    Raises:
        MalformedArtifactError: The bytes are no manifest.
        IncompatibleArtifactError: The schema's major version or the backbone is unknown.
    """
    if not 1 <= len(data) <= MAX_MANIFEST_BYTES:
        raise MalformedArtifactError(
            f"expected 1..{MAX_MANIFEST_BYTES} bytes, got {len(data)}", field="manifest", offset=0
        )
    message = parse_message(artifacts_pb2.BundleManifest, data, field="manifest", offset=0)
    if message.schema_major == 0:
        raise MalformedArtifactError("expected 1 or more", field="schema_major", offset=0)
    version = (message.schema_major, message.schema_minor)
    check_major(version, MANIFEST_VERSION, what="the manifest")
    if message.schema_minor <= MANIFEST_VERSION[1]:
        check_canonical(message, data, field="manifest", offset=0)
    if message.backbone.kind not in BACKBONE_KINDS:
        raise IncompatibleArtifactError(
            f"this release runs the backbones {BACKBONE_KINDS}, the bundle has "
            f"{message.backbone.kind!r:.80}; update pocketrec"
        )
    if message.HasField("extractor") and message.extractor.kind not in EXTRACTOR_KINDS:
        raise IncompatibleArtifactError(
            f"this release runs the extractors {EXTRACTOR_KINDS}, the bundle has "
            f"{message.extractor.kind!r:.80}; update pocketrec"
        )
    with reading("manifest"):
        return _from_message(message)


def manifest_digest(data: bytes) -> bytes:
    """Return the bundle digest: SHA-256 of ``manifest.pb``, 32 bytes."""
    return hashlib.sha256(data).digest()


def _from_message(message: artifacts_pb2.BundleManifest) -> Manifest:
    if len(message.parts) > MAX_PARTS:
        raise ConfigError(f"parts: expected at most {MAX_PARTS}, got {len(message.parts)}")
    names = [part.name for part in message.parts]
    if names != sorted(names):
        raise ConfigError("parts: expected them in the order of their names")
    return Manifest(
        schema_major=message.schema_major,
        schema_minor=message.schema_minor,
        model_name=message.model_name,
        version=message.version,
        created_at_s=message.created_at_s,
        backbone=BackboneConfig(
            **{each.name: getattr(message.backbone, each.name) for each in fields(BackboneConfig)}
        ),
        items=items_from_proto(message.items),
        layers=layers_from_proto(message.layers),
        parts=tuple(
            PartInfo(name=p.name, sha256=p.sha256, length_bytes=p.length_bytes)
            for p in message.parts
        ),
        license=message.license,
        producer=message.producer,
        extractor=_extractor_from_message(message),
    )


def _extractor_to_proto(extractor: ExtractorInfo | None) -> artifacts_pb2.ExtractorInfo | None:
    if extractor is None:
        return None
    return artifacts_pb2.ExtractorInfo(kind=extractor.kind, window=extractor.window)


def _extractor_from_message(message: artifacts_pb2.BundleManifest) -> ExtractorInfo | None:
    if not message.HasField("extractor"):
        return None
    return ExtractorInfo(kind=message.extractor.kind, window=message.extractor.window)
