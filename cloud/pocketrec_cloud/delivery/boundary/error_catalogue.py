# SPDX-License-Identifier: Apache-2.0
"""Which gRPC status each error becomes, and what the caller gets to read.

A refusal (``RejectedError``) is written for the caller and goes out as it is; so does
``InfeasibleBudgetError``, which the caller can act upon. Every other message may name
paths or keys: it is logged here, and only the public text leaves the process.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from grpc import StatusCode

from pocketrec import errors

__all__ = ["CATALOGUE", "REFUSALS", "ErrorSpec", "describe_error"]


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One row of the catalogue; ``public_message`` None lets the error's own text out."""

    status: StatusCode
    public_message: str | None


_DAMAGED = ErrorSpec(StatusCode.DATA_LOSS, "a published file is damaged on the server")
_UNUSABLE = ErrorSpec(StatusCode.FAILED_PRECONDITION, "the published model cannot be used")
_BUSY = ErrorSpec(StatusCode.UNAVAILABLE, "the server's storage does not answer; try again later")
# A disk that is full or failing; whatever else the system refuses is our mistake.
_STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_FAILED = "the server failed; its log says why"
_INTERNAL = ErrorSpec(StatusCode.INTERNAL, _FAILED)

CATALOGUE: Mapping[type[errors.PocketRecError], ErrorSpec] = MappingProxyType(
    {
        errors.PocketRecError: _INTERNAL,
        errors.ConfigError: _INTERNAL,
        errors.DataError: _INTERNAL,
        errors.ArtifactError: _DAMAGED,
        errors.MalformedArtifactError: _DAMAGED,
        errors.IntegrityError: _DAMAGED,
        errors.RollbackError: _UNUSABLE,
        errors.ExpiredArtifactError: _UNUSABLE,
        errors.IncompatibleArtifactError: _UNUSABLE,
        errors.HealthCheckError: _UNUSABLE,
        errors.PlanError: ErrorSpec(StatusCode.FAILED_PRECONDITION, "no plan can be made"),
        errors.InfeasibleBudgetError: ErrorSpec(StatusCode.INVALID_ARGUMENT, None),
        errors.QuantizationError: _INTERNAL,
        errors.BackendError: _INTERNAL,
        errors.MissingExtraError: _INTERNAL,
        errors.StoreError: _BUSY,
        errors.StoreLockedError: _BUSY,
        errors.StoreAccessError: _BUSY,
        errors.DiskFullError: _BUSY,
        errors.StoreReadOnlyError: _BUSY,
        errors.ServiceError: _INTERNAL,
        errors.ServiceUnavailableError: _BUSY,
        errors.DeadlineError: ErrorSpec(StatusCode.DEADLINE_EXCEEDED, "no answer in time"),
        # Stands for a refusal whose code is not in REFUSALS, which would be our mistake.
        errors.RejectedError: _INTERNAL,
    }
)

REFUSALS: Mapping[str, StatusCode] = MappingProxyType(
    {
        status.name: status
        for status in (
            StatusCode.ABORTED,
            StatusCode.ALREADY_EXISTS,
            StatusCode.FAILED_PRECONDITION,
            StatusCode.INVALID_ARGUMENT,
            StatusCode.NOT_FOUND,
            StatusCode.OUT_OF_RANGE,
            StatusCode.PERMISSION_DENIED,
            StatusCode.RESOURCE_EXHAUSTED,
            StatusCode.UNAUTHENTICATED,
        )
    }
)


def describe_error(error: BaseException) -> tuple[StatusCode, str]:
    """Return the status and the text that a caller gets for an error."""
    if isinstance(error, errors.RejectedError) and error.code in REFUSALS:
        return REFUSALS[error.code], str(error)
    for cls in type(error).__mro__:
        if cls in CATALOGUE:
            spec = CATALOGUE[cls]
            return spec.status, str(error) if spec.public_message is None else spec.public_message
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        return _BUSY.status, str(_BUSY.public_message)
    return StatusCode.INTERNAL, _FAILED
