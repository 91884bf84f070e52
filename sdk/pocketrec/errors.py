# SPDX-License-Identifier: Apache-2.0
"""Every error pocketrec raises on purpose, as one tree.

Families are named by who has to act::

    PocketRecError
    ├─ ConfigError (also ValueError)      the caller built a value with impossible fields
    ├─ DataError                          an interaction file cannot be read as it stands
    ├─ ArtifactError                      bytes we received or found cannot be accepted
    │   ├─ MalformedArtifactError         the bytes break the format
    │   ├─ IntegrityError                 digest, length or signature differs
    │   ├─ RollbackError                  older than what is installed
    │   ├─ ExpiredArtifactError           past its expiry
    │   ├─ IncompatibleArtifactError      well formed, but not for this model or this release
    │   └─ HealthCheckError               the bundled test vectors do not come out
    ├─ PlanError
    │   └─ InfeasibleBudgetError          no plan fits the budget
    ├─ QuantizationError                  these weights or widths cannot be quantized
    ├─ BackendError                       inference failed on the device
    │   └─ MissingExtraError (also ImportError)   names the pip command that helps
    ├─ StoreError                         the store on disk cannot be used as it is
    │   ├─ StoreLockedError               another process is writing to it
    │   └─ StoreAccessError (also OSError)    the system refused to read or write it
    │       ├─ DiskFullError              there is no room: names bytes needed and free
    │       └─ StoreReadOnlyError         it may be read, not written
    └─ ServiceError                       the remote call failed
        ├─ ServiceUnavailableError        nobody answered, or the stream broke: try later
        ├─ DeadlineError                  no answer in time: try later
        └─ RejectedError                  the server understood and refused: do not repeat

A message says what was expected, what came, and what to do. Facts a program may
need are attributes. The operating system's own errors stay ``OSError``; those that a
device's store meets are ``StoreAccessError`` as well.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "BackendError",
    "ConfigError",
    "DataError",
    "DeadlineError",
    "DiskFullError",
    "ExpiredArtifactError",
    "HealthCheckError",
    "IncompatibleArtifactError",
    "InfeasibleBudgetError",
    "IntegrityError",
    "MalformedArtifactError",
    "MissingExtraError",
    "PlanError",
    "PocketRecError",
    "QuantizationError",
    "RejectedError",
    "RollbackError",
    "ServiceError",
    "ServiceUnavailableError",
    "StoreAccessError",
    "StoreError",
    "StoreLockedError",
    "StoreReadOnlyError",
]


class PocketRecError(Exception):
    """The root: catch it to catch everything pocketrec raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        """Say how to make it again in another process, whatever its constructor takes."""
        facts = dict(self.__dict__)
        if isinstance(self, OSError):  # which keeps its number elsewhere
            facts["errno"] = self.errno
        return (_restored, (type(self), self.args, facts))


def _restored(
    kind: type[PocketRecError], args: tuple[object, ...], facts: dict[str, object]
) -> PocketRecError:
    error = kind.__new__(kind, *args)
    error.args = args
    for name, value in facts.items():
        setattr(error, name, value)
    return error


class ConfigError(PocketRecError, ValueError):
    """A value object was built with fields that cannot be true together."""


class DataError(PocketRecError):
    """An interaction file cannot be read as it stands.

    Attributes:
        path: The file, as the caller named it.
        line: The line number, counted from 1, or None when the whole file is meant.
    """

    def __init__(self, message: str, *, path: str, line: int | None = None) -> None:
        where = path if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.line = line


class ArtifactError(PocketRecError):
    """Bytes that were received or found cannot be accepted."""


class MalformedArtifactError(ArtifactError):
    """The bytes break the format.

    Attributes:
        field: The field of ``docs/format.md`` that is wrong.
        offset: Where it starts, in bytes from the start of the artifact, or None.
    """

    def __init__(self, message: str, *, field: str, offset: int | None = None) -> None:
        where = field if offset is None else f"{field} at byte {offset}"
        super().__init__(f"{where}: {message}")
        self.field = field
        self.offset = offset


class IntegrityError(ArtifactError):
    """A digest, a length or a signature differs from what was promised."""


class RollbackError(ArtifactError):
    """An artifact is older than the one that was accepted before.

    Attributes:
        installed: The version accepted last.
        offered: The version refused now.
    """

    def __init__(self, message: str, *, installed: int, offered: int) -> None:
        super().__init__(message)
        self.installed = installed
        self.offered = offered


class ExpiredArtifactError(ArtifactError):
    """An artifact is past its expiry."""


class IncompatibleArtifactError(ArtifactError):
    """An artifact is well formed, but not for this model or this release."""


class HealthCheckError(ArtifactError):
    """The bundled test vectors do not come out on this device."""


class PlanError(PocketRecError):
    """A plan cannot be made or does not apply."""


class InfeasibleBudgetError(PlanError):
    """No plan, or no item table, fits the budget.

    Attributes:
        requested_bytes: The budget asked for.
        minimum_bytes: The size of the smallest one there is.
    """

    def __init__(self, message: str, *, requested_bytes: int, minimum_bytes: int) -> None:
        super().__init__(message)
        self.requested_bytes = requested_bytes
        self.minimum_bytes = minimum_bytes


class QuantizationError(PocketRecError):
    """Weights or widths that cannot be quantized."""


class BackendError(PocketRecError):
    """Inference failed on the device."""


class MissingExtraError(BackendError, ImportError):
    """An optional dependency is absent; the message names the pip command."""


class StoreError(PocketRecError):
    """The store on disk cannot be used as it is."""


class StoreLockedError(StoreError):
    """Another process is writing to the store."""


class StoreAccessError(StoreError, OSError):
    """The system refused to read or write the store.

    Attributes:
        errno: The system's number for it, or None.
    """

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class DiskFullError(StoreAccessError):
    """There is no room for what the store would have to write.

    Attributes:
        needed_bytes: Free bytes that are needed, or None when the system gave up first.
        free_bytes: Free bytes that there were, or None likewise.
    """

    def __init__(
        self,
        message: str,
        *,
        errno: int | None = None,
        needed_bytes: int | None = None,
        free_bytes: int | None = None,
    ) -> None:
        super().__init__(message, errno=errno)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class StoreReadOnlyError(StoreAccessError):
    """The store may be read, so ranking goes on, but not written."""


class ServiceError(PocketRecError):
    """A remote call failed.

    Attributes:
        code: The gRPC status code's name, such as ``"UNAVAILABLE"``.
        retryable: Whether the same call may succeed later.
    """

    retryable = False

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class ServiceUnavailableError(ServiceError):
    """Nobody answered, or the stream broke in the middle."""

    retryable = True


class DeadlineError(ServiceError):
    """No answer came in time."""

    retryable = True


class RejectedError(ServiceError):
    """The server understood the call and refused it."""
