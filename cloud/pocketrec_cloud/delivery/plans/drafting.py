# SPDX-License-Identifier: Apache-2.0
"""Which codes a subject's plan should have now: planner, budget and users, many at once.

Requests for the same model, planner and budget share one call of the planner. What is wrong
with one of them is its own failure. What operators ordered (``rules``) comes first.
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import (
    ConfigError,
    InfeasibleBudgetError,
    MalformedArtifactError,
    PocketRecError,
    RejectedError,
)
from pocketrec_cloud.delivery.plans.models import ModelCatalogue, PlannedModel
from pocketrec_cloud.delivery.plans.rules import NoRules, PlanRules, PlanSettings
from pocketrec_quantization.bitpack import unpack_codes
from pocketrec_quantization.budget import budget_bytes, coded_bytes
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.levels import DEFAULT_LEVELS, WIDTHS, LevelTable, check_codes
from pocketrec_quantization.personal_fit import PERSONAL
from pocketrec_quantization.plan import Plan, model_id
from pocketrec_quantization.planners import Planner, RandomPlanner, UniformPlanner

__all__ = [
    "ORDERED",
    "Draft",
    "Drafter",
    "Failure",
    "PlanPolicy",
    "PlanRequest",
    "draft_from_codes",
]

ORDERED = "ordered"
"""What plans of ordered codes are said to be made by, unless the order says."""

_LOG = logging.getLogger(__name__)
_budget_bytes = functools.lru_cache(maxsize=256)(budget_bytes)  # few budgets, many requests
_INVALID = "INVALID_ARGUMENT"

Failure: TypeAlias = PocketRecError | OSError
"""Why one request gets no plan."""


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
    empty for the newest bundle; ``installed_version`` 0 means none; ``device_id`` is who asks,
    empty for nobody in particular.
    """

    subject: str
    model_digest: bytes
    average_bits: float = 0.0
    planner: str = ""
    bundle_digest: bytes = b""
    user_embedding: NDArray[np.float32] | None = None
    installed_version: int = 0
    device_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """The plan a subject should have, without version and dates; codes are (C_total,) uint8."""

    subject: str
    model: PlannedModel
    planner: str
    levels: LevelTable
    budget_bytes: int
    codes: NDArray[np.uint8]

    def plan(self, *, version: int, issued_at_s: int, expires_at_s: int, key_id: bytes) -> Plan:
        """Return it with what was missing."""
        return Plan(
            model_id=model_id(self.model.model_digest),
            levels=self.levels,
            layers=self.model.layers,
            codes=self.codes,
            budget_bytes=self.budget_bytes,
            subject=self.subject,
            planner=self.planner,
            version=version,
            issued_at_s=issued_at_s,
            expires_at_s=expires_at_s,
            key_id=key_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Question:
    """A request whose model, planner and budget are known and allowed."""

    request: PlanRequest
    model: PlannedModel
    name: str
    planner: Planner
    average_bits: float
    budget_bytes: int

    def kind(self) -> Hashable:
        """What requests have in common that one call of a planner can answer."""
        if isinstance(self.planner, RandomPlanner):  # a row's plan depends on those before it
            return id(self)
        return id(self.planner), self.budget_bytes

    def draft(self, codes: NDArray[np.uint8]) -> Draft:
        return Draft(
            subject=self.request.subject,
            model=self.model,
            planner=self.name,
            levels=self.planner.levels,
            budget_bytes=self.budget_bytes,
            codes=codes,
        )


_Wanted: TypeAlias = tuple[PlanRequest, PlanSettings | None]
_VAIN = (RejectedError, InfeasibleBudgetError, MalformedArtifactError, ConfigError)


class Drafter:
    """Drafts plans; safe to share between threads.

    Args:
        models: What can be planned for.
        policy: What a plan is like when nobody says.
        rules: What operators want plans to be like; None = nothing.
    """

    def __init__(
        self, models: ModelCatalogue, policy: PlanPolicy, rules: PlanRules | None = None
    ) -> None:
        self._models = models
        self._policy = policy
        self._rules = rules or NoRules()

    def draft_all(self, requests: Sequence[PlanRequest]) -> list[Draft | Failure]:
        """Return a draft per request, or why there is none, in order.

        What may be wrong with one: the model, the bundle or the planner is unknown, the
        numbers make no sense (``RejectedError``), no plan is that small
        (``InfeasibleBudgetError``), what was published is damaged (``ArtifactError``) or
        cannot be read (``OSError``), or the database fails (``StoreError``).
        """
        drafts: dict[int, Draft | Failure] = {}
        wanted: dict[int, _Wanted] = {}
        for number, request in enumerate(requests):
            try:
                settings = self._rules.settings_for(
                    request.subject, request.device_id, request.model_digest
                )
            except PocketRecError as failure:
                drafts[number] = failure
            else:
                wanted[number] = (request, settings)
        found = self._draft(wanted)
        passed_over = {
            number: (requests[number], None)
            for number, draft in found.items()
            if wanted[number][1] is not None and isinstance(draft, _VAIN)
        }
        for number in passed_over:
            _LOG.info("an order cannot be obeyed and is passed over: %s", found[number])
        drafts |= found | self._draft(passed_over)
        return [drafts[number] for number in range(len(requests))]

    def _draft(self, wanted: Mapping[int, _Wanted]) -> dict[int, Draft | Failure]:
        """Return a draft, or why there is none, per number."""
        drafts: dict[int, Draft | Failure] = {}
        kinds: defaultdict[Hashable, dict[int, _Question]] = defaultdict(dict)
        for number, (request, settings) in wanted.items():
            try:
                if settings is not None and settings.codes:
                    drafts[number] = self._ordered(request, settings)
                    continue
                question = self._question(request, settings or PlanSettings())
            except (PocketRecError, OSError) as failure:
                drafts[number] = failure
            else:
                kinds[question.kind()][number] = question
        for questions in kinds.values():
            drafts.update(zip(questions, _answers(list(questions.values())), strict=True))
        return drafts

    def _ordered(self, request: PlanRequest, settings: PlanSettings) -> Draft:
        """Return a draft with exactly the codes that were ordered."""
        model = self._models.find(request.model_digest, request.bundle_digest)
        draft = draft_from_codes(model, settings, subject=request.subject)
        if request.average_bits and draft.budget_bytes > _budget_bytes(
            model.layers, request.average_bits
        ):
            raise InfeasibleBudgetError(
                f"the ordered codes take {draft.budget_bytes} bytes, more than "
                f"{request.average_bits:g} bits per weight",
                requested_bytes=_budget_bytes(model.layers, request.average_bits),
                minimum_bytes=draft.budget_bytes,
            )
        return draft

    def _question(self, request: PlanRequest, settings: PlanSettings) -> _Question:
        model = self._models.find(request.model_digest, request.bundle_digest)
        name = settings.planner or request.planner or self._default_planner(model, request)
        planner = model.planners.get(name)
        if planner is None:
            known = ", ".join(sorted(model.planners))
            raise RejectedError(f"expected a planner of {known}, got {name!r}", code=_INVALID)
        _check_embedding(request.user_embedding, model)
        average_bits = settings.bits_within(request.average_bits)
        return _Question(
            request=request,
            model=model,
            name=name,
            planner=planner,
            average_bits=average_bits,
            budget_bytes=self._budget_bytes(model, planner, average_bits),
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


def draft_from_codes(model: PlannedModel, settings: PlanSettings, *, subject: str) -> Draft:
    """Return a draft with exactly the codes that settings name.

    Args:
        model: What the codes are for.
        settings: With codes.
        subject: Whom the plan is for.

    Raises:
        MalformedArtifactError: They are not packed codes of as many channels.
        ConfigError: A code stands for no tier.
    """
    codes = unpack_codes(settings.codes, total_channels(model.layers))
    check_codes(codes)
    return Draft(
        subject=subject,
        model=model,
        planner=settings.planner or ORDERED,
        levels=DEFAULT_LEVELS,
        budget_bytes=coded_bytes(model.layers, DEFAULT_LEVELS.widths(codes)),
        codes=codes,
    )


def _answers(questions: list[_Question]) -> Sequence[Draft | Failure]:
    """Plan for questions of one kind: together, or one by one if one of them is to blame."""
    first = questions[0]
    try:
        users = [question.request.user_embedding for question in questions]
        rows = first.planner.plan(users, first.budget_bytes)
    except PocketRecError as failure:
        if len(questions) > 1:
            return [answer for question in questions for answer in _answers([question])]
        return [_explained(failure, first)]
    return [question.draft(codes) for question, codes in zip(questions, rows, strict=True)]


def _explained(failure: PocketRecError, question: _Question) -> PocketRecError:
    """Return what a caller is told about a planner's refusal."""
    explained = failure
    if isinstance(failure, InfeasibleBudgetError):
        explained = _infeasible(question)
    elif isinstance(failure, ConfigError):  # numbers that no extractor gives
        explained = RejectedError(str(failure), code=_INVALID)
    if explained is not failure:
        explained.__cause__ = failure
    return explained


def _check_embedding(user_embedding: NDArray[np.float32] | None, model: PlannedModel) -> None:
    """Refuse a user embedding that is not of the model's dimension, or not finite."""
    if user_embedding is None:
        return
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


def _infeasible(question: _Question) -> InfeasibleBudgetError:
    """Return the refusal of a budget, which says what is feasible."""
    planner, layers = question.planner, question.model.layers
    least = planner.bits if isinstance(planner, UniformPlanner) else planner.levels.bits[1]
    minimum, maximum = (budget_bytes(layers, bits) for bits in (least, max(WIDTHS)))
    return InfeasibleBudgetError(
        f"average_bits: expected {least} to {max(WIDTHS)} ({minimum} to {maximum} bytes), got "
        f"{question.average_bits:g} ({question.budget_bytes} bytes)",
        requested_bytes=question.budget_bytes,
        minimum_bytes=minimum,
    )
