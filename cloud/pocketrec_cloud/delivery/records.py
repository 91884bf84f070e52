# SPDX-License-Identifier: Apache-2.0
"""What the server remembers, as values: devices, models, plans, orders, rollouts, admins.

Tokens are known by their digests only, and no item or event is ever stored. Where records are
kept is behind ``store_protocols``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

__all__ = [
    "AdminRecord",
    "AdminRole",
    "AudienceKind",
    "AuditRecord",
    "DeviceRecord",
    "DeviceSession",
    "DeviceStatusRecord",
    "ModelRecord",
    "OrderRecord",
    "Outcome",
    "PlanRecord",
    "PlanSwap",
    "RolloutRecord",
    "RolloutState",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device that registered, and the one token that is good for it now.

    Args:
        device_id: Follows from the public key.
        public_key: 32 bytes, Ed25519.
        token_sha256: 32 bytes.
        token_expires_at_s: Unix seconds.
        backend: What the device said of itself, like the next five.
        app_version: e.g. "2.14.1".
        os: e.g. "Android".
        ram_bytes: 0 = not told.
        locale: BCP 47; empty = not told.
        tags: What the app calls the device.
        created_at_s: Unix seconds of the first registration.
        seen_at_s: Unix seconds of the newest registration.
        revoked_at_s: Unix seconds; 0 = not revoked.
    """

    device_id: str
    public_key: bytes
    token_sha256: bytes
    token_expires_at_s: int
    backend: str
    app_version: str
    os: str
    ram_bytes: int
    created_at_s: int
    seen_at_s: int
    locale: str = ""
    tags: tuple[str, ...] = ()
    revoked_at_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSession:
    """Whom a token stands for."""

    device_id: str
    expires_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A bundle that was published, and the frozen model inside it."""

    bundle_digest: bytes
    model_digest: bytes
    model_name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """The newest plan of one subject for one model; ``container`` is what was sent."""

    subject: str
    model_digest: bytes
    version: int
    planner: str
    budget_bytes: int
    issued_at_s: int
    expires_at_s: int
    container: bytes


PlanSwap: TypeAlias = tuple[PlanRecord, int | None]
"""A plan to store, and the version that the newest one must still have; None = there is none."""


class AudienceKind(StrEnum):
    """Whom something is for."""

    SUBJECT = "subject"
    COHORT = "cohort"
    EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRecord:
    """What plans of an audience should be like until further notice: a push that lasts.

    Args:
        sequence: Place among all orders; 0 = given by the store when it is added.
        request_id: Chosen by who ordered; unique.
        audience: Whom it is for.
        audience_value: The subject, or the cohort rule; empty = everybody.
        model_digest: 32 bytes; empty = every model.
        planner: By name; empty = as usual.
        average_bits: 0 = as usual.
        codes: Packed 2-bit codes instead of a planner; empty = none.
        created_at_s: Unix seconds.
        expires_at_s: Unix seconds; 0 = never.
        cancels: Sequence of an order that this one takes back; 0 = none. Such a record
            says nothing else.
        admin: Who ordered.
    """

    sequence: int
    request_id: str
    audience: AudienceKind
    audience_value: str
    model_digest: bytes
    planner: str
    average_bits: float
    codes: bytes
    created_at_s: int
    expires_at_s: int
    admin: str
    cancels: int = 0


class RolloutState(StrEnum):
    """Where a rollout stands; the last three are final."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABORTED = "aborted"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A bundle, or plan settings, on their way to a growing share of devices.

    Args:
        rollout_id: Made by the server.
        request_id: Chosen by who started it; unique.
        model_name: Model line.
        bundle_digest: 32 bytes; empty = a rollout of plan settings.
        planner: Of a rollout of plan settings, like the next two; see ``OrderRecord``.
        average_bits: As there.
        codes: As there.
        cohort: Rule on device facts; empty = every device.
        stages_percent: Rising, up to 100.
        success_threshold: Share of a stage's reports from which on it is passed.
        error_threshold: Share of a stage's reports from which on the rollout stops.
        min_reports: Reports of a stage before either counts.
        min_stage_s: Seconds a stage lasts at least.
        state: Where it stands.
        stage: Index of the current stage.
        stages_started_at_s: Unix seconds, one per stage begun.
        created_at_s: Unix seconds.
        changed_at_s: Unix seconds.
        reason: Why it stopped; empty = it did not.
        admin: Who started it.
        revision: Counts the changes up, for compare-and-swap.
    """

    rollout_id: str
    request_id: str
    model_name: str
    bundle_digest: bytes
    planner: str
    average_bits: float
    codes: bytes
    cohort: str
    stages_percent: tuple[float, ...]
    success_threshold: float
    error_threshold: float
    min_reports: int
    min_stage_s: int
    state: RolloutState
    stage: int
    stages_started_at_s: tuple[int, ...]
    created_at_s: int
    changed_at_s: int
    admin: str
    reason: str = ""
    revision: int = 1


class Outcome(StrEnum):
    """How an update went on a device; as in ``UpdateOutcome``."""

    RUNNING = "running"
    INSTALLED = "installed"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"
    REVERTED = "reverted"

    @property
    def is_failure(self) -> bool:
        """Whether it speaks against what was attempted."""
        return self in (Outcome.UNHEALTHY, Outcome.FAILED, Outcome.REVERTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatusRecord:
    """What a device said last about one model line.

    Args:
        device_id: Whose.
        model_name: Model line.
        bundle_digest: 32 bytes, what runs; empty = nothing.
        attempted_bundle_digest: 32 bytes, what the update was about; empty = nothing.
        plan_version: 0 = none.
        outcome: How the update went.
        error: Name of the error; empty = none.
        reported_at_s: Unix seconds.
    """

    device_id: str
    model_name: str
    bundle_digest: bytes
    attempted_bundle_digest: bytes
    plan_version: int
    outcome: Outcome
    error: str
    reported_at_s: int


class AdminRole(StrEnum):
    """What an admin may do; each may do what those before it may."""

    VIEWER = "viewer"
    PUBLISHER = "publisher"
    OPERATOR = "operator"

    def may_act_as(self, role: AdminRole) -> bool:
        """Whether this role includes another one."""
        ranks = list(AdminRole)
        return ranks.index(self) >= ranks.index(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRecord:
    """Somebody who may call the admin service with a token.

    Args:
        name: Unique.
        role: What they may do.
        token_sha256: 32 bytes.
        created_at_s: Unix seconds.
        expires_at_s: Unix seconds; 0 = never.
    """

    name: str
    role: AdminRole
    token_sha256: bytes
    created_at_s: int
    expires_at_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One thing that was done.

    Args:
        number: Place in the log; 0 = given by the store when it is added.
        at_s: Unix seconds.
        admin: Who did it; "server" for what a server did by itself.
        action: e.g. "PushPlan".
        subject: What it was done to.
        details: JSON; no secrets.
    """

    number: int
    at_s: int
    admin: str
    action: str
    subject: str
    details: str
