# SPDX-License-Identifier: Apache-2.0
"""The admin calls about pushes: give an order, take it back, list those that hold."""

from __future__ import annotations

from pocketrec.errors import ConfigError, MalformedArtifactError, RejectedError
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService, write_audit
from pocketrec_cloud.delivery.boundary.refusals import blaming_the_caller
from pocketrec_cloud.delivery.cohorts import Cohort
from pocketrec_cloud.delivery.plans.drafting import draft_from_codes
from pocketrec_cloud.delivery.plans.rules import PlanSettings
from pocketrec_cloud.delivery.push.orders import settings_of
from pocketrec_cloud.delivery.records import AudienceKind, OrderRecord
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.checks import check_integer, check_name, check_text
from pocketrec_quantization.levels import WIDTHS
from pocketrec_quantization.limits import MAX_PLAN_BYTES, MAX_SUBJECT_LENGTH
from pocketrec_quantization.plan import DIGEST_BYTES

__all__ = ["MAX_LIFETIME_S", "MAX_ORDERS", "cancel_push", "list_pushes", "push_plan"]

MAX_ORDERS = 10_000
"""Orders that may hold at once: every process keeps them in memory."""

MAX_LIFETIME_S = 10 * 365 * 24 * 3600
"""The longest that a push can be made to last, but for ever."""

_MAX_ID_CHARS = 128
_INVALID = "INVALID_ARGUMENT"


def push_plan(
    service: AdminService, request: pb.PushPlanRequest, admin: AdminIdentity
) -> pb.PushPlanResponse:
    """Give an order, and wake who watches; a known ``request_id`` changes nothing.

    Raises:
        RejectedError: A field is out of bounds, the model or its planner is unknown, the codes
            do not fit, or too many orders hold.
        ArtifactError: What was published is damaged.
        StoreError: The database fails.
        OSError: A file cannot be read.
    """
    desk = service.pushes
    with blaming_the_caller():
        order = _read(request, admin.name, int(service.clock()))
    _check_model(service, settings_of(order), order.model_digest)
    if len(desk.orders.book.orders) >= MAX_ORDERS:
        raise RejectedError(
            f"{MAX_ORDERS} pushes hold already; cancel some", code="RESOURCE_EXHAUSTED"
        )
    newest = service.store.last_sequence()
    stored = service.store.add_order(order)
    if stored.sequence > newest:
        write_audit(service, admin.name, "PushPlan", str(stored.sequence), _details(stored))
        desk.orders.refresh()
    return pb.PushPlanResponse(sequence=stored.sequence, n_watching=desk.count_watching(stored))


def cancel_push(
    service: AdminService, request: pb.CancelPushRequest, admin: AdminIdentity
) -> pb.CancelPushResponse:
    """Take a push back, and wake who watches; doing so twice changes nothing.

    Raises:
        RejectedError: There never was such a push.
        StoreError: The database fails.
    """
    now_s, sequence = int(service.clock()), request.sequence
    newest = service.store.last_sequence()
    is_known = 0 < sequence <= newest
    # Sequences may have gaps, and the one that was asked for may be a cancellation.
    found = service.store.list_orders(after=sequence - 1)[:1] if is_known else []
    if not found or found[0].sequence != sequence or found[0].cancels:
        raise RejectedError(f"there is no push {sequence}", code="NOT_FOUND")
    cancellation = OrderRecord(
        sequence=0,
        request_id=f"cancel:{sequence}",
        audience=found[0].audience,
        audience_value=found[0].audience_value,
        model_digest=b"",
        planner="",
        average_bits=0.0,
        codes=b"",
        created_at_s=now_s,
        expires_at_s=0,
        admin=admin.name,
        cancels=sequence,
    )
    stored = service.store.add_order(cancellation)
    if stored.sequence > newest:
        write_audit(service, admin.name, "CancelPush", str(sequence), {})
        service.pushes.orders.refresh()
    return pb.CancelPushResponse()


def list_pushes(
    service: AdminService,
    request: pb.ListPushesRequest,  # noqa: ARG001  it has no fields
    admin: AdminIdentity,  # noqa: ARG001  as every handler has it
) -> pb.ListPushesResponse:
    """Return the pushes that hold, the oldest first.

    Raises:
        StoreError: The database fails.
    """
    service.pushes.orders.refresh()
    orders = service.pushes.orders.book.orders.values()
    return pb.ListPushesResponse(pushes=[_message(order) for order in orders])


def _read(request: pb.PushPlanRequest, admin: str, now_s: int) -> OrderRecord:
    """Return the order in a request.

    Raises:
        ConfigError: A field is out of bounds.
    """
    check_text(request.request_id, field="request_id", maximum=_MAX_ID_CHARS)
    if not request.request_id:
        raise ConfigError("request_id: expected something of the caller's choice, got nothing")
    audience, value = _audience(request.audience)
    settings = _settings(request)
    if len(request.model_digest) not in {0, DIGEST_BYTES}:
        raise ConfigError(f"model_digest: expected {DIGEST_BYTES} bytes, or none")
    check_integer(request.lifetime_s, field="lifetime_s", maximum=MAX_LIFETIME_S)
    return OrderRecord(
        sequence=0,
        request_id=f"push:{request.request_id}",
        audience=audience,
        audience_value=value,
        model_digest=request.model_digest,
        planner=settings.planner,
        average_bits=settings.average_bits,
        codes=settings.codes,
        created_at_s=now_s,
        expires_at_s=now_s + request.lifetime_s if request.lifetime_s else 0,
        admin=admin,
    )


def _audience(audience: pb.Audience) -> tuple[AudienceKind, str]:
    kind = audience.WhichOneof("who")
    if kind == "subject":
        check_text(audience.subject, field="subject", maximum=MAX_SUBJECT_LENGTH)
        if not audience.subject:
            raise ConfigError("subject: expected a pseudonym, got nothing")
        return AudienceKind.SUBJECT, audience.subject
    if kind == "cohort":
        cohort = Cohort.parse(audience.cohort)
        if cohort.is_everybody:
            raise ConfigError("cohort: expected a rule, got nothing; say everybody to mean all")
        return AudienceKind.COHORT, str(cohort)
    if kind == "everybody":
        return AudienceKind.EVERYBODY, ""
    raise ConfigError("audience: expected a subject, a cohort or everybody, got nothing")


def _settings(request: pb.PushPlanRequest) -> PlanSettings:
    settings, bits = request.settings, request.settings.average_bits
    if settings.planner:
        check_name(settings.planner, field="planner")
    if bits != 0 and not WIDTHS[1] <= bits <= WIDTHS[-1]:
        raise ConfigError(f"average_bits: expected 0, or {WIDTHS[1]} to {WIDTHS[-1]}, got {bits:g}")
    if settings.codes and (bits or not request.model_digest):
        raise ConfigError("codes: expected with the model they are for, and without average_bits")
    if len(settings.codes) > MAX_PLAN_BYTES:
        raise ConfigError(f"codes: expected at most {MAX_PLAN_BYTES} bytes")
    if not (settings.planner or bits or settings.codes):
        raise ConfigError("settings: expected a planner, average_bits or codes, got nothing")
    return PlanSettings(planner=settings.planner, average_bits=bits, codes=settings.codes)


def _check_model(service: AdminService, settings: PlanSettings, model_digest: bytes) -> None:
    """Refuse what cannot be obeyed for the model that is named, if one is."""
    if not model_digest:
        return
    model = service.pushes.models.find(model_digest)
    if settings.codes:
        try:
            draft_from_codes(model, settings, subject="")
        except (ConfigError, MalformedArtifactError) as exc:
            raise RejectedError(f"codes: {exc}", code=_INVALID) from exc
    elif settings.planner and settings.planner not in model.planners:
        known = ", ".join(sorted(model.planners))
        raise RejectedError(
            f"planner: expected one of {known}, got {settings.planner!r}", code=_INVALID
        )


def _details(order: OrderRecord) -> dict[str, object]:
    return {
        "audience": str(order.audience),
        "audience_value": order.audience_value,
        "model_digest": order.model_digest.hex(),
        "planner": order.planner,
        "average_bits": order.average_bits,
        "n_code_bytes": len(order.codes),
        "expires_at_s": order.expires_at_s,
    }


def _message(order: OrderRecord) -> pb.Push:
    audience = pb.Audience()
    if order.audience is AudienceKind.SUBJECT:
        audience.subject = order.audience_value
    elif order.audience is AudienceKind.COHORT:
        audience.cohort = order.audience_value
    else:
        audience.everybody.SetInParent()
    return pb.Push(
        sequence=order.sequence,
        audience=audience,
        settings=pb.PlanSettings(
            planner=order.planner, average_bits=order.average_bits, codes=order.codes
        ),
        model_digest=order.model_digest,
        created_at_s=order.created_at_s,
        expires_at_s=order.expires_at_s,
        admin=order.admin,
    )
