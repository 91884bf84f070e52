# SPDX-License-Identifier: Apache-2.0
"""One record of each kind, for the tests of stores."""

from __future__ import annotations

from pocketrec_cloud.delivery.records import (
    AdminRecord,
    AdminRole,
    AudienceKind,
    AuditRecord,
    DeviceRecord,
    DeviceStatusRecord,
    ModelRecord,
    OrderRecord,
    Outcome,
    PlanRecord,
    RolloutRecord,
    RolloutState,
)
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = [
    "ADMIN",
    "AUDIT",
    "DEVICE",
    "LONG_S",
    "MODEL",
    "ORDER",
    "PLAN",
    "ROLLOUT",
    "STATUS",
    "put",
]

LONG_S = 30.0

DEVICE = DeviceRecord(
    device_id="d1",
    public_key=b"k" * 32,
    token_sha256=b"t" * 32,
    token_expires_at_s=5000,
    backend="onnxruntime",
    app_version="1.0",
    os="android",
    ram_bytes=2**33,
    created_at_s=1000,
    seen_at_s=1000,
    locale="de-CH",
    tags=("beta", 'of "two"', ""),
)
STATUS = DeviceStatusRecord(
    device_id="d1",
    model_name="demo",
    bundle_digest=b"b" * 32,
    attempted_bundle_digest=b"",
    plan_version=3,
    outcome=Outcome.RUNNING,
    error="",
    reported_at_s=1200,
)
MODEL = ModelRecord(bundle_digest=b"b" * 32, model_digest=b"m" * 32, model_name="demo", version=1)
PLAN = PlanRecord(
    subject="alice",
    model_digest=b"m" * 32,
    version=1,
    planner="global",
    budget_bytes=100,
    issued_at_s=1,
    expires_at_s=2,
    container=bytes(range(256)),
)
ORDER = OrderRecord(
    sequence=0,
    request_id="r-1",
    audience=AudienceKind.COHORT,
    audience_value='os == "android"',
    model_digest=b"",
    planner="global",
    average_bits=3.3,
    codes=b"\x00\xff",
    created_at_s=1000,
    expires_at_s=0,
    admin="ops",
)
ROLLOUT = RolloutRecord(
    rollout_id="o-1",
    request_id="r-1",
    model_name="demo",
    bundle_digest=b"b" * 32,
    planner="",
    average_bits=0.1,
    codes=b"",
    cohort="",
    stages_percent=(0.1, 10.0, 100.0),
    success_threshold=0.95,
    error_threshold=0.05,
    min_reports=20,
    min_stage_s=3600,
    state=RolloutState.RUNNING,
    stage=0,
    stages_started_at_s=(1000,),
    created_at_s=1000,
    changed_at_s=1000,
    admin="ops",
)
ADMIN = AdminRecord(name="ada", role=AdminRole.OPERATOR, token_sha256=b"a" * 32, created_at_s=1000)
AUDIT = AuditRecord(
    number=0, at_s=1000, admin="ada", action="PushPlan", subject="alice", details='{"bits": 3}'
)


def put(store: DeliveryStore, device: DeviceRecord, challenge: bytes = b"c") -> bool:
    """Store a registration whose challenge lives a minute."""
    return store.put_device(
        device, challenge=challenge, challenge_expires_at_s=device.seen_at_s + 60
    )
