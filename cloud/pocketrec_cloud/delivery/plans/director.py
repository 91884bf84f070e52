# SPDX-License-Identifier: Apache-2.0
"""The director: decides which plan a subject gets, signs it, and counts its version up.

A version only ever goes up, per subject and model, because a device refuses anything
else. It is settled by compare-and-swap in the database, so several processes may issue
plans side by side. A plan that is still good is not issued again: asking twice gives the
same bytes, or nothing when the device holds them already.

Requests are worked on together: one look at the database, one call of each planner and one
transaction serve all of them, and the failure of one is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from pocketrec.errors import ConfigError, PocketRecError, StoreError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.plans.drafting import Draft, Drafter, Failure, PlanPolicy, PlanRequest
from pocketrec_cloud.delivery.plans.models import ModelCatalogue
from pocketrec_cloud.delivery.plans.rules import PlanRules
from pocketrec_cloud.delivery.records import PlanRecord
from pocketrec_cloud.delivery.store_protocols import PlanStore
from pocketrec_quantization.bitpack import pack_codes
from pocketrec_quantization.plan import SIGNATURE_BYTES, Plan, encode_plan, plan_message

__all__ = ["Director", "Outcome", "PlanPolicy", "PlanRequest"]

_MAX_ATTEMPTS = 8
# A device may be ahead of a database that was restored from a copy. Within this bound its
# word is taken, so that it accepts the next plan; beyond it the number is not ours.
_MAX_CLAIMED_VERSION = 2**32

Outcome: TypeAlias = bytes | Failure
"""A signed plan container, nothing when the installed plan is current, or why there is none."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Turn:
    """A request that has no outcome yet."""

    number: int
    request: PlanRequest
    draft: Draft
    n_lost: int = 0
    is_signed: bool = False

    @property
    def row(self) -> tuple[str, bytes]:
        """Whose version it counts up."""
        return self.request.subject, self.request.model_digest


class Director:
    """Issues signed plans; safe to share between threads.

    Args:
        models: What can be planned for.
        store: Remembers the newest plan of each subject.
        key: Signs; devices know its public half from ``director.json``.
        clock: Unix seconds.
        policy: What a plan is like when nobody says.
        rules: What operators want plans to be like; None = nothing.
        observe: Told after each batch what became of its requests, and how many plans were
            signed for it; None = nobody.
    """

    def __init__(
        self,
        *,
        models: ModelCatalogue,
        store: PlanStore,
        key: SigningKey,
        clock: Callable[[], float],
        policy: PlanPolicy | None = None,
        rules: PlanRules | None = None,
        observe: Callable[[Sequence[Outcome], int], None] | None = None,
    ) -> None:
        self._store = store
        self._observe = observe
        self._sign = key.signer()
        self._key_id = key.public.key_id
        self._clock = clock
        self._policy = policy or PlanPolicy()
        self._drafter = Drafter(models, self._policy, rules)

    def issue(self, request: PlanRequest) -> bytes:
        """Return a signed plan container, or nothing when the installed plan is current.

        Raises:
            RejectedError: The model, the bundle or the planner is unknown, or the numbers
                make no sense.
            InfeasibleBudgetError: No plan is that small.
            ArtifactError: What was published is damaged.
            StoreError: The database fails, or too many requests compete for one subject.
            OSError: A file cannot be read.
        """
        outcome = self.issue_all([request])[0]
        if not isinstance(outcome, bytes):
            raise outcome
        return outcome

    def issue_all(self, requests: Sequence[PlanRequest]) -> list[Outcome]:
        """Issue plans together, as if each had been asked for alone, one after the other.

        Returns:
            One outcome per request, in order; a failure is what :meth:`issue` would raise.
        """
        outcomes: dict[int, Outcome] = {}
        turns: list[_Turn] = []
        for number, draft in enumerate(self._drafter.draft_all(requests)):
            if isinstance(draft, Draft):
                turns.append(_Turn(number=number, request=requests[number], draft=draft))
            else:
                outcomes[number] = draft
        waiting = turns
        while waiting:
            # Each row's first.
            chosen = list({turn.row: turn for turn in reversed(waiting)}.values())
            outcomes.update(self._outcomes(chosen))
            waiting = [turn for turn in waiting if turn.number not in outcomes]
        answers = [outcomes[number] for number in range(len(requests))]
        if self._observe is not None:
            self._observe(answers, sum(turn.is_signed for turn in turns))
        return answers

    def _outcomes(self, turns: list[_Turn]) -> dict[int, Outcome]:
        """Return what is settled of requests for different rows, by number; losers are not."""
        outcomes: dict[int, Outcome] = {}
        swaps: list[tuple[_Turn, PlanRecord, int | None]] = []
        try:
            found = self._store.find_plans([turn.row for turn in turns])
            for turn, latest in zip(turns, found, strict=True):
                try:
                    answer = self._answer(turn, latest)
                except PocketRecError as failure:
                    outcomes[turn.number] = failure
                    continue
                if isinstance(answer, bytes):
                    outcomes[turn.number] = answer
                else:
                    swaps.append((turn, answer, None if latest is None else latest.version))
            won = self._store.swap_plans([(record, replaces) for _, record, replaces in swaps])
        except StoreError as failure:
            return dict.fromkeys((turn.number for turn in turns), failure) | outcomes
        for (turn, record, _), is_stored in zip(swaps, won, strict=True):
            turn.n_lost += not is_stored
            turn.is_signed = is_stored
            if is_stored:
                outcomes[turn.number] = record.container
            elif turn.n_lost == _MAX_ATTEMPTS:
                outcomes[turn.number] = StoreError(
                    f"{_MAX_ATTEMPTS} attempts to issue a plan met other writers; try again later"
                )
        return outcomes

    def _answer(self, turn: _Turn, latest: PlanRecord | None) -> bytes | PlanRecord:
        """Return what is sent as it is, or a record that has to be stored first."""
        now_s, installed = int(self._clock()), turn.request.installed_version
        if latest is not None and self._is_current(latest, turn.draft, now_s):
            if installed == latest.version:
                return b""
            if installed < latest.version:
                return latest.container
        plan = turn.draft.plan(
            version=_next_version(latest, installed),
            issued_at_s=now_s,
            expires_at_s=now_s + self._policy.ttl_s,
            key_id=self._key_id,
        )
        return _record(plan, turn.request.model_digest, encode_plan(plan, self._sign))

    def _is_current(self, latest: PlanRecord, draft: Draft, now_s: int) -> bool:
        """Whether the stored plan says the same, is signed by today's key, and is young."""
        half_life_s = (latest.expires_at_s - latest.issued_at_s) / 2
        if now_s - latest.issued_at_s > half_life_s:
            return False
        codes, end = pack_codes(draft.codes), len(latest.container) - SIGNATURE_BYTES
        if latest.container[end - len(codes) : end] != codes:
            return False  # which is far cheaper to see than to write the plan anew
        # Whoever made it and for which budget: same codes, key and format are the same bytes.
        same = replace(draft, planner=latest.planner, budget_bytes=latest.budget_bytes)
        try:
            plan = same.plan(
                version=latest.version,
                issued_at_s=latest.issued_at_s,
                expires_at_s=latest.expires_at_s,
                key_id=self._key_id,
            )
        except ConfigError:  # a row that this release would not write
            return False
        return latest.container[:-SIGNATURE_BYTES] == plan_message(plan)


def _next_version(latest: PlanRecord | None, claimed: int) -> int:
    """Return a version above both the newest one and a believable claim of the device."""
    stored = 0 if latest is None else latest.version
    return max(stored, claimed if claimed <= _MAX_CLAIMED_VERSION else 0) + 1


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
