# SPDX-License-Identifier: Apache-2.0
"""Notices that another publication is in force, by what TUF vouches for.

A publication counts once its timestamp is written, so that is looked at, again and again. Who
publishes tells nobody, and may die at any moment: what is in force is noticed, nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable

from pocketrec_cloud.delivery.publishing.publication import PublicationCache

__all__ = ["PublicationWatch"]


class PublicationWatch:
    """Knows which publication it has told of; belongs to one thread at a time.

    Args:
        publication: What TUF vouches for.
        hear: Told that it is another one than before.

    Raises:
        StoreError: The store has no repository.
        ArtifactError: The store's metadata is damaged.
        OSError: A file cannot be read.
    """

    def __init__(self, publication: PublicationCache, hear: Callable[[], object]) -> None:
        self._publication = publication
        self._hear = hear
        self._version = self._targets_version()

    def look(self) -> None:
        """Tell, if there is something to tell; after an error the next look does.

        Raises:
            StoreError: The store has no repository.
            ArtifactError: The store's metadata is damaged.
            OSError: A file cannot be read.
        """
        version = self._targets_version()
        if version != self._version:
            self._hear()
            self._version = version

    def _targets_version(self) -> int:
        return self._publication.current().targets.signed.version
