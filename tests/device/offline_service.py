# SPDX-License-Identifier: Apache-2.0
"""What a delivery server would answer, without a server: for syncs by the hundred."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.cloud.delivery.folders import StoreFolder
from tuf.api.metadata import Metadata, Targets

from pocketrec.errors import RejectedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.server import ServerConfig
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
        path = self._layout.metadata / filename
        if not path.exists():
            raise RejectedError(f"nothing is published as {filename}", code="NOT_FOUND")
        return path.read_bytes()

    def get_targets(self, model_name: str, bundle_digest: bytes) -> bytes:
        """See ``ServiceClient.get_targets``: everybody runs the current bundle."""
        return b""

    def fetch(self, target_path: str, offset_bytes: int) -> Iterator[bytes]:
        """See ``ServiceClient.fetch``."""
        newest = max(self._layout.metadata.glob("*.targets.json"), key=_version)
        published = Metadata[Targets].from_file(str(newest)).signed.targets
        content = self._layout.target(published[target_path].hashes["sha256"]).read_bytes()
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
    def _layout(self) -> StoreFolder:
        return StoreFolder(self.config.store)


def _version(path: object) -> int:
    return int(str(path).rpartition("/")[2].split(".")[0])
