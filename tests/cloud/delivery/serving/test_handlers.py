# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pocketrec.errors import IntegrityError, RejectedError, StoreError
from pocketrec_cloud.delivery.publishing.artifacts import FolderArtifacts
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.serving import handlers
from pocketrec_cloud.delivery.serving.handlers import DeliveryService
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_quantization.bundle import CARD, BundleFolder

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

MAX_CHUNK_BYTES = 1024 * 1024


def refusal_of(call: object, *args: object) -> tuple[str, str]:
    """Return code and message of the refusal that a call ends with."""
    with pytest.raises(RejectedError) as refusal:
        call(*args)  # type: ignore[operator]
    return refusal.value.code, str(refusal.value)


class TestGetMetadata:
    @pytest.mark.parametrize("name", ["timestamp.json", "1.root.json", "1.targets.json"])
    def test_metadata_is_sent_as_it_lies(
        self, deployment: Deployment, service: DeliveryService, name: str
    ) -> None:
        """Signed bytes go out unchanged."""
        response = handlers.get_metadata(service, pb.GetMetadataRequest(filename=name))

        assert response.content == (deployment.layout.metadata / name).read_bytes()

    def test_next_root_is_not_found_until_there_is_one(self, service: DeliveryService) -> None:
        """A device asks for the next root on every sync; usually there is none."""
        request = pb.GetMetadataRequest(filename="2.root.json")

        assert refusal_of(handlers.get_metadata, service, request)[0] == "NOT_FOUND"

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "../pocketrec.db",
            "../../keys/online/director.pem",
            "/etc/passwd",
            "1.root.json/../../pocketrec.db",
            "root.json",
            "0.root.json",
            "timestamp.json\n",
            "timestampXjson",
            "1.root.json\x00",
            "..\\pocketrec.db",
        ],
    )
    def test_path_traversal_is_refused(self, service: DeliveryService, name: str) -> None:
        """Only names of metadata files ever reach the disk."""
        request = pb.GetMetadataRequest(filename=name)

        assert refusal_of(handlers.get_metadata, service, request)[0] == "INVALID_ARGUMENT"


class TestFetchChunk:
    def test_chunks_add_up_to_the_part(
        self, service: DeliveryService, bundle: BundleFolder
    ) -> None:
        """From any offset on, the chunks are the rest of the file, none above 1 MiB."""
        path = f"parts/{bundle.manifest.part(CARD).sha256.hex()}"
        content = bundle.read(CARD)
        start = 1234

        received = fetch(service, path, start)

        assert b"".join(received) == content[start:]
        assert len(received) == 2
        assert max(map(len, received)) <= MAX_CHUNK_BYTES

    def test_offset_at_the_end_is_an_empty_stream(
        self, service: DeliveryService, bundle: BundleFolder
    ) -> None:
        """A download that was complete already resumes to nothing."""
        part = bundle.manifest.part(CARD)

        assert fetch(service, f"parts/{part.sha256.hex()}", part.length_bytes) == []

    def test_offset_beyond_the_end_is_refused(
        self, service: DeliveryService, bundle: BundleFolder
    ) -> None:
        """A device that holds more than was published has to start again."""
        part = bundle.manifest.part(CARD)
        request = pb.FetchChunkRequest(
            target_path=f"parts/{part.sha256.hex()}", offset_bytes=part.length_bytes + 1
        )

        assert refusal_of(handlers.find_target, service, request)[0] == "OUT_OF_RANGE"

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "demo",
            "parts",
            "../pocketrec.db",
            "parts/../../pocketrec.db",
            "parts/..",
            "/etc/passwd",
            "demo/../demo/manifest.pb",
            "parts/" + "g" * 64,
            "parts/" + "A" * 64,
            "parts/" + "0" * 64,
            "demo/manifest.pb\x00",
            "planners/" + "0" * 64 + ".safetensors",
        ],
    )
    def test_path_traversal_is_not_found(
        self, service: DeliveryService, bundle: BundleFolder, path: str
    ) -> None:
        """A path that was not published leads nowhere."""
        request = pb.FetchChunkRequest(target_path=path)

        assert refusal_of(handlers.find_target, service, request)[0] == "NOT_FOUND"

    def test_download_goes_on_across_a_publication(
        self, deployment: Deployment, service: DeliveryService, bundle: BundleFolder
    ) -> None:
        """A part of the previous bundle stays available to who is fetching it."""
        path = f"parts/{bundle.manifest.part(CARD).sha256.hex()}"
        deployment.publish(deployment.bundle(version=2))

        assert b"".join(fetch(service, path, 0)) == bundle.read(CARD)

    def test_truncated_file_is_found(
        self, deployment: Deployment, service: DeliveryService, bundle: BundleFolder
    ) -> None:
        """A file that shrank on the server's disk is not sent as if it were whole."""
        sha256 = bundle.manifest.part(CARD).sha256.hex()
        file = deployment.layout.target(sha256)
        published = service.publication.current().files[f"parts/{sha256}"]
        file.write_bytes(file.read_bytes()[:-1])

        with pytest.raises(IntegrityError, match="shorter on disk"):
            handlers.read_chunk(service, published, published.length_bytes - 10)


def test_store_without_a_repository_is_named(
    deployment: Deployment, service: DeliveryService
) -> None:
    """A folder that holds no repository is an error that says what to run."""
    empty = FolderArtifacts(deployment.folder / "nothing")
    lost = replace(service, artifacts=empty, publication=PublicationCache(empty))

    with pytest.raises(StoreError, match="pocketrec keys init"):
        handlers.find_target(lost, pb.FetchChunkRequest(target_path="demo/manifest.pb"))


def fetch(service: DeliveryService, path: str, start: int) -> list[bytes]:
    """Return the chunks of a target from an offset on."""
    request = pb.FetchChunkRequest(target_path=path, offset_bytes=start)
    file = handlers.find_target(service, request)
    chunks, offset = [], start
    while offset < file.length_bytes:
        chunk = handlers.read_chunk(service, file, offset)
        assert chunk.offset_bytes == offset
        chunks.append(chunk.content)
        offset += len(chunk.content)
    return chunks
