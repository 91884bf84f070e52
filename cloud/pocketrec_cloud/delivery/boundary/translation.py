# SPDX-License-Identifier: Apache-2.0
"""Ends a call that failed with the status the catalogue gives, and logs what does not go out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.boundary.error_catalogue import describe_error

__all__ = ["Context", "translated"]

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_LOG = logging.getLogger(__name__)
_OUR_FAULT = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
)


@asynccontextmanager
async def translated(context: Context, rpc: str) -> AsyncIterator[None]:
    """End the call with the status the catalogue gives, and log what does not go out."""
    try:
        yield
    except grpc.aio.AbortError:
        raise  # ended already, further in
    except Exception as exc:  # noqa: BLE001  the boundary: only the catalogue's text goes out
        status, message = describe_error(exc)
        is_ours = status in _OUR_FAULT and not isinstance(exc, RejectedError)
        is_ours |= status is grpc.StatusCode.INTERNAL
        level = logging.ERROR if is_ours else logging.INFO
        if rpc == "GetMetadata" and status is grpc.StatusCode.NOT_FOUND:
            level = logging.DEBUG  # how a TUF client learns that there is no newer root
        _LOG.log(level, "%s: %s: %s", rpc, status.name, exc, exc_info=level == logging.ERROR)
        await context.abort(status, message)
