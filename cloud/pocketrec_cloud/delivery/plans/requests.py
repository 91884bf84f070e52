# SPDX-License-Identifier: Apache-2.0
"""Reads what a device asks for with a request for a plan, and bounds every field."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.boundary.refusals import blaming_the_caller
from pocketrec_cloud.delivery.plans.drafting import PlanRequest
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_quantization.checks import check_integer, check_name, check_text
from pocketrec_quantization.limits import MAX_SUBJECT_LENGTH
from pocketrec_quantization.plan import DIGEST_BYTES

__all__ = ["blaming_the_caller", "check_watch_request", "read_plan_request"]

_MAX_SCALE = float(np.finfo(np.float32).max) / 128  # every dequantized value stays finite


def read_plan_request(request: pb.GetPlanRequest, device_id: str = "") -> PlanRequest:
    """Return what a device asks the director for.

    Args:
        request: What it sent.
        device_id: Who asks; empty = nobody in particular.

    Raises:
        RejectedError: A field is out of bounds.
    """
    with blaming_the_caller():
        check_text(request.subject, field="subject", maximum=MAX_SUBJECT_LENGTH)
        if request.planner:
            check_name(request.planner, field="planner")
    _check_digests(request)
    return PlanRequest(
        subject=request.subject,
        model_digest=request.model_digest,
        average_bits=request.average_bits,
        planner=request.planner,
        bundle_digest=request.bundle_digest,
        user_embedding=_user_embedding(request),
        installed_version=request.installed_version,
        device_id=device_id,
    )


def check_watch_request(request: pb.WatchPlansRequest) -> None:
    """Refuse what no device would send; the request for a plan inside is not looked at.

    Raises:
        RejectedError: A field is out of bounds.
    """
    with blaming_the_caller():
        check_integer(request.last_sequence, field="last_sequence")
        if request.model_name:
            check_name(request.model_name, field="model_name")


def _check_digests(request: pb.GetPlanRequest) -> None:
    """Refuse what is no digest; whose extractor made an embedding has to be said."""
    if len(request.model_digest) != DIGEST_BYTES:
        raise RejectedError(
            f"expected a model_digest of {DIGEST_BYTES} bytes, got {len(request.model_digest)}",
            code="INVALID_ARGUMENT",
        )
    expected = {DIGEST_BYTES} if request.HasField("user_embedding") else {0, DIGEST_BYTES}
    if len(request.bundle_digest) not in expected:
        raise RejectedError(
            f"bundle_digest: expected {DIGEST_BYTES} bytes, needed with a user_embedding, got "
            f"{len(request.bundle_digest)}",
            code="INVALID_ARGUMENT",
        )


def _user_embedding(request: pb.GetPlanRequest) -> NDArray[np.float32] | None:
    """Return the dequantized user embedding, (D,) float32, or None when it is absent."""
    if not request.HasField("user_embedding"):
        return None
    scale = request.user_embedding.scale
    if not 0 < scale <= _MAX_SCALE:
        raise RejectedError(
            f"expected user_embedding.scale above 0 and at most {_MAX_SCALE:.3g}, got {scale}",
            code="INVALID_ARGUMENT",
        )
    return np.frombuffer(request.user_embedding.codes, np.int8) * np.float32(scale)
