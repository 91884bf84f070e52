# SPDX-License-Identifier: Apache-2.0
"""The director: decides which plan a subject gets, signs it, and counts its version up.

A version only ever goes up, per subject and model, because a device refuses anything
else. It is settled by compare-and-swap in the database, so several processes may issue
plans side by side. A plan that is still good is not issued again: asking twice gives the
same bytes, or nothing when the device holds them already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    InfeasibleBudgetError,
    RejectedError,
    StoreError,
)
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.models import ModelCatalogue, PlannedModel
from pocketrec_cloud.delivery.store import DeliveryStore, PlanRecord
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.levels import WIDTHS
from pocketrec_quantization.personal_fit import PERSONAL
from pocketrec_quantization.plan import Plan, decode_plan, encode_plan, model_id
from pocketrec_quantization.planners import Planner, UniformPlanner

__all__ = ["Director", "PlanPolicy", "PlanRequest"]

_budget_bytes = functools.lru_cache(maxsize=256)(budget_bytes)  # few budgets, many requests
_INVALID = "INVALID_ARGUMENT"
_MAX_ATTEMPTS = 8
# A device may be ahead of a database that was restored from a copy. Within this bound its
# word is taken, so that it accepts the next plan; beyond it the number is not ours.
_MAX_CLAIMED_VERSION = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPolicy:
    """What a plan is like when the device does not say.

    Args:
        planner: Of requests about whose user nothing is known, or for models without a
            personal planner.
        is_personal: Whether a request with a user embedding gets the model's personal
            planner.
        average_bits: Bits per coded weight, scales apart.
        ttl_s: Seconds until a plan expires.

    Raises:
        ConfigError: ``average_bits`` is not within 2..8, or ``ttl_s`` is below a minute.
    """

    planner: str = "global"
    is_personal: bool = True
    average_bits: float = 3.0
    ttl_s: int = 7 * 24 * 3600

    def __post_init__(self) -> None:
        if not 2 <= self.average_bits <= max(WIDTHS):
            raise ConfigError(f"expected average_bits of 2..8, got {self.average_bits}")
        if self.ttl_s < 60:
            raise ConfigError(f"expected ttl_s of at least a minute, got {self.ttl_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What a device asks for.

    ``average_bits`` 0 and ``planner`` "" leave the choice to the policy;
    ``user_embedding`` is (D,) float32 or None, made by the extractor of ``bundle_digest``,
    empty for the newest bundle; ``installed_version`` 0 means none.
    """

    subject: str
    model_digest: bytes
    average_bits: float = 0.0
    planner: str = ""
    bundle_digest: bytes = b""
    user_embedding: NDArray[np.float32] | None = None
    installed_version: int = 0


class Director:
    """Issues signed plans; safe to share between threads.

    Args:
        models: What can be planned for.
        store: Remembers the newest plan of each subject.
        key: Signs; devices know its public half from ``director.json``.
        clock: Unix seconds.
        policy: What a plan is like when the device does not say.
    """

    def __init__(
        self,
        *,
        models: ModelCatalogue,
        store: DeliveryStore,
        key: SigningKey,
        clock: Callable[[], float],
        policy: PlanPolicy | None = None,
    ) -> None:
        self._models = models
        self._store = store
        self._key = key
        self._key_id = key.public.key_id
        self._clock = clock
        self._policy = policy or PlanPolicy()

    def issue(self, request: PlanRequest) -> bytes:
        """Return a signed plan container, or nothing when the installed plan is current.

        Raises:
            RejectedError: The model, the bundle or the planner is unknown, or the numbers
                make no sense.
            InfeasibleBudgetError: No plan is that small.
            ArtifactError: What was published is damaged.
            StoreError: The database fails, or too many requests compete for one subject.
        """
        model = self._models.find(request.model_digest, request.bundle_digest)
        draft = self._draft(model, request)
        for _ in range(_MAX_ATTEMPTS):
            latest = self._store.find_plan(request.subject, request.model_digest)
            if latest is not None and self._is_current(latest, draft):
                if request.installed_version == latest.version:
                    return b""
                if request.installed_version < latest.version:
                    return latest.container
            plan = replace(draft, version=_next_version(latest, request.installed_version))
            record = _record(plan, request.model_digest, encode_plan(plan, self._key.sign))
            replaces = None if latest is None else latest.version
            if self._store.swap_plan(record, replaces=replaces):
                return record.container
        raise StoreError(
            f"{_MAX_ATTEMPTS} attempts to issue a plan met other writers; try again later"
        )

    def _draft(self, model: PlannedModel, request: PlanRequest) -> Plan:
        """Return the plan the subject should have now, without a version."""
        name = request.planner or self._default_planner(model, request)
        planner = model.planners.get(name)
        if planner is None:
            known = ", ".join(sorted(model.planners))
            raise RejectedError(f"expected a planner of {known}, got {name!r}", code=_INVALID)
        budget = self._budget_bytes(model, planner, request.average_bits)
        user_embedding = _checked(request.user_embedding, model)
        try:
            codes = planner.plan([user_embedding], budget)[0]
        except InfeasibleBudgetError as exc:
            raise _infeasible(model, planner, request.average_bits, budget) from exc
        except ConfigError as exc:  # numbers that no extractor gives
            raise RejectedError(str(exc), code=_INVALID) from exc
        now_s = int(self._clock())
        return Plan(
            model_id=model_id(model.model_digest),
            levels=planner.levels,
            layers=model.layers,
            codes=codes,
            budget_bytes=budget,
            subject=request.subject,
            planner=name,
            version=0,
            issued_at_s=now_s,
            expires_at_s=now_s + self._policy.ttl_s,
            key_id=self._key_id,
        )

    def _default_planner(self, model: PlannedModel, request: PlanRequest) -> str:
        """Return the policy's choice: without an embedding, what is measured to be good for all.

        A personal planner would plan for the population's mean then, which says no more
        about this user, and which nobody measured on these weights.
        """
        is_known = request.user_embedding is not None and PERSONAL in model.planners
        return PERSONAL if is_known and self._policy.is_personal else self._policy.planner

    def _budget_bytes(self, model: PlannedModel, planner: Planner, average_bits: float) -> int:
        if not 0 <= average_bits <= max(WIDTHS):
            raise RejectedError(
                f"expected average_bits between 0 and {max(WIDTHS)}, got {average_bits}",
                code=_INVALID,
            )
        if average_bits == 0 and isinstance(planner, UniformPlanner):
            return planner.needed_bytes
        return _budget_bytes(model.layers, average_bits or self._policy.average_bits)

    def _is_current(self, latest: PlanRecord, draft: Plan) -> bool:
        """Whether the stored plan says the same, is signed by today's key, and is young."""
        half_life_s = (latest.expires_at_s - latest.issued_at_s) / 2
        if draft.issued_at_s - latest.issued_at_s > half_life_s:
            return False
        try:
            stored = decode_plan(latest.container)
        except IncompatibleArtifactError:  # of another release
            return False
        return stored.key_id == draft.key_id and np.array_equal(stored.codes, draft.codes)


def _next_version(latest: PlanRecord | None, claimed: int) -> int:
    """Return a version above both the newest one and a believable claim of the device."""
    stored = 0 if latest is None else latest.version
    return max(stored, claimed if claimed <= _MAX_CLAIMED_VERSION else 0) + 1


def _checked(
    user_embedding: NDArray[np.float32] | None, model: PlannedModel
) -> NDArray[np.float32] | None:
    """Return a user embedding of the model's dimension, if any."""
    if user_embedding is None:
        return None
    if user_embedding.shape != (model.embedding_dim,):
        raise RejectedError(
            f"user_embedding.codes: expected one byte for each of {model.embedding_dim} "
            f"dimensions, got {user_embedding.size}; send what the bundle's extractor gives",
            code=_INVALID,
        )
    if not np.isfinite(user_embedding).all():
        raise RejectedError(
            "user_embedding: expected finite numbers, got NaN or infinity", code=_INVALID
        )
    return user_embedding


def _infeasible(
    model: PlannedModel, planner: Planner, average_bits: float, budget: int
) -> InfeasibleBudgetError:
    """Return the refusal of a budget, which says what is feasible."""
    least = planner.bits if isinstance(planner, UniformPlanner) else planner.levels.bits[1]
    minimum, maximum = (budget_bytes(model.layers, bits) for bits in (least, max(WIDTHS)))
    return InfeasibleBudgetError(
        f"average_bits: expected {least} to {max(WIDTHS)} ({minimum} to {maximum} bytes), got "
        f"{average_bits:g} ({budget} bytes)",
        requested_bytes=budget,
        minimum_bytes=minimum,
    )


def _record(plan: Plan, model_digest: bytes, container: bytes) -> PlanRecord:
    return PlanRecord(
        subject=plan.subject,
        model_digest=model_digest,
        version=plan.version,
        planner=plan.planner,
        budget_bytes=plan.budget_bytes,
        issued_at_s=plan.issued_at_s,
        expires_at_s=plan.expires_at_s,
        container=container,
    )
