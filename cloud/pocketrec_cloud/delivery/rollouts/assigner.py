# SPDX-License-Identifier: Apache-2.0
"""Signs assignments: what ``line`` says, for one device, for a day.

Nothing is kept but the versions of bundles, which never change: every process gives the answer
that follows from the store as it is, so a device that asks two of them is told the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import MappingProxyType

from pocketrec.errors import ConfigError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.publishing.targets import manifest_target
from pocketrec_cloud.delivery.records import DeviceRecord
from pocketrec_cloud.delivery.rollouts.line import ModelLine, choose
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_quantization.assignment import Assignment, encode_assignment

__all__ = ["DEFAULT_LIFETIME_S", "Assigner"]

DEFAULT_LIFETIME_S = 24 * 3600
"""A day, as long as the TUF timestamp."""

_MANIFEST = ".pb"


class Assigner:
    """Says, signed, which published bundle a device should run; safe to share between threads.

    Args:
        store: Where rollouts, devices and bundles are.
        publication: What TUF vouches for.
        key: The director key.
        clock: Unix seconds.
        lifetime_s: Seconds until an assignment expires.

    Raises:
        ConfigError: ``lifetime_s`` is below a minute.
    """

    def __init__(
        self,
        store: DeliveryStore,
        publication: PublicationCache,
        key: SigningKey,
        clock: Callable[[], float],
        *,
        lifetime_s: int = DEFAULT_LIFETIME_S,
    ) -> None:
        if lifetime_s < 60:
            raise ConfigError(f"expected lifetime_s of at least a minute, got {lifetime_s}")
        self._store = store
        self._publication = publication
        self._sign = key.signer()
        self._key_id = key.public.key_id
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._lock = threading.Lock()
        self._versions: dict[bytes, int] = {}

    def line(self, model_name: str) -> ModelLine | None:
        """Return a model line as it is now; None when it has no current bundle.

        Raises:
            ArtifactError: The store's metadata is damaged.
            StoreError: The database fails, or the store has no repository.
            OSError: A file cannot be read.
        """
        published = self._publication.current()
        current = published.files.get(manifest_target(model_name))
        if current is None:
            return None
        prefix = f"{model_name}/bundles/"
        candidates = frozenset(
            bytes.fromhex(file.sha256)
            for path, file in published.files.items()
            if path == f"{prefix}{file.sha256}{_MANIFEST}"
        )
        rollouts = tuple(self._store.list_rollouts(model_name))
        digest = bytes.fromhex(current.sha256)
        known = {rollout.bundle_digest for rollout in rollouts if rollout.bundle_digest}
        return ModelLine(
            current=digest,
            candidates=candidates,
            versions=self._versions_of(known | candidates | {digest}),
            rollouts=rollouts,
            publication_version=published.targets.signed.version,
        )

    def assign(self, model_name: str, device_id: str) -> bytes:
        """Return a device's signed assignment; empty when the line never had a rollout.

        Args:
            model_name: The model line that the device follows.
            device_id: Who asks.

        Raises:
            ArtifactError: The store's metadata is damaged.
            StoreError: The database fails, or the store has no repository.
            OSError: A file cannot be read.
        """
        line = self.line(model_name)
        if line is None or not line.of_bundles:
            return b""

        def device() -> DeviceRecord | None:
            return self._store.find_device(device_id)

        choice = choose(line, device_id, device)
        now_s = int(self._clock())
        assignment = Assignment(
            model_name=model_name,
            device_id=device_id,
            bundle_digest=choice.bundle_digest,
            withdrawn=choice.withdrawn,
            version=line.version,
            issued_at_s=now_s,
            expires_at_s=now_s + self._lifetime_s,
            key_id=self._key_id,
        )
        return encode_assignment(assignment, self._sign)

    def _versions_of(self, digests: set[bytes]) -> MappingProxyType[bytes, int]:
        with self._lock:
            for digest in digests - self._versions.keys():
                bundle = self._store.find_bundle(digest)
                if bundle is not None:
                    self._versions[digest] = bundle.version
            return MappingProxyType({d: self._versions[d] for d in digests & self._versions.keys()})
