# SPDX-License-Identifier: Apache-2.0
"""What a delivery server would answer, without a server: for syncs by the hundred."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pocketrec.errors import RejectedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore, open_artifacts
from pocketrec_cloud.delivery.publishing.layout import metadata_name, target_name
from pocketrec_cloud.delivery.publishing.publication import read_publication
from pocketrec_cloud.delivery.serving.server import ServerConfig
from pocketrec_device.transport import PlanRequest, Registration
from pocketrec_proto.v1.device_service_pb2 import DeviceProfile
from pocketrec_quantization.plan import Plan, encode_plan

__all__ = ["OfflineService"]

CHUNK_BYTES = 4096


@dataclass
class OfflineService:
    """Answers like ``ServiceClient`` from a server's folders; there is one plan to be had.

    Args:
        config: Where the server's folders are.
        plan: Unsigned; the director of those folders signs it.
    """

    config: ServerConfig
    plan: Plan
    target: str = "offline:1"
    fetched_bytes: int = 0

    def register(self, profile: DeviceProfile, key: SigningKey) -> Registration:
        """See ``ServiceClient.register``."""
        return Registration(device_id="device", token="token", lifetime_s=3600)

    def authenticate(self, token: str) -> None:
        """See ``ServiceClient.authenticate``."""

    def get_metadata(self, filename: str) -> bytes:
        """See ``ServiceClient.get_metadata``."""
        try:
            return self._artifacts.read(metadata_name(filename))
        except FileNotFoundError as exc:
            raise RejectedError(f"nothing is published as {filename}", code="NOT_FOUND") from exc

    def get_targets(self, model_name: str, bundle_digest: bytes) -> bytes:
        """See ``ServiceClient.get_targets``: everybody runs the current bundle."""
        return b""

    def fetch(self, target_path: str, offset_bytes: int) -> Iterator[bytes]:
        """See ``ServiceClient.fetch``."""
        file = read_publication(self._artifacts).files[target_path]
        content = self._artifacts.read(target_name(file.sha256))
        for start in range(offset_bytes, len(content), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            if target_path.startswith("parts/"):
                self.fetched_bytes += len(chunk)
            yield chunk

    def get_plan(self, request: PlanRequest) -> bytes:
        """See ``ServiceClient.get_plan``."""
        if request.installed_version == self.plan.version:
            return b""
        key = SigningKey.load(self.config.keys / "online" / "director.pem")
        plan = replace(self.plan, key_id=key.public.key_id, subject=request.subject)
        return encode_plan(plan, key.sign)

    @property
    def _artifacts(self) -> ArtifactStore:
        return open_artifacts(self.config.store)
