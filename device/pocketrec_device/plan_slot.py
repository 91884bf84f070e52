# SPDX-License-Identifier: Apache-2.0
"""Where a plan goes: which bundle and subject it is for, what is there, and what may follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from pocketrec_device.install import held_plan, kept_plan
from pocketrec_device.transport import PlanRequest
from pocketrec_device.updater import PlanRules, accept_plan, is_expired
from pocketrec_quantization.plan import decode_plan

if TYPE_CHECKING:
    from pocketrec.signing import PublicKey
    from pocketrec_device.extraction import CodedEmbedding
    from pocketrec_device.state import DeviceState
    from pocketrec_device.store import Store
    from pocketrec_quantization.bundle import BundleFolder

__all__ = ["PlanSlot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSlot:
    """A place for a plan, as of now.

    Args:
        bundle: What the plan has to fit.
        subject: Whom it has to be for; empty = everybody.
        held: The newest plan that was accepted, if it is here and has not expired.
        floor: Its version, or that of the one that is gone; 0 = there was none.
        now_s: Unix seconds, not before any signed time seen.
    """

    bundle: BundleFolder
    subject: str
    held: bytes | None
    floor: int
    now_s: int

    @classmethod
    def of(
        cls, store: Store, state: DeviceState, bundle: BundleFolder, subject: str, *, now_s: int
    ) -> Self:
        """Return the place for the plan of a bundle and a subject.

        Args:
            store: Where plans are.
            state: What the device remembers.
            bundle: What the plan has to fit.
            subject: Whom it has to be for.
            now_s: Unix seconds.
        """
        now_s = max(now_s, state.time_floor_s)
        floor = state.plan_floor(bundle.model_digest, subject)
        held = held_plan(store, state, bundle, subject) or kept_plan(
            store, state, bundle, subject, floor
        )
        if held is not None and is_expired(decode_plan(held), now_s):
            held = None
        return cls(bundle=bundle, subject=subject, held=held, floor=floor, now_s=now_s)

    def request(
        self, average_bits: float, user_embedding: CodedEmbedding | None = None
    ) -> PlanRequest:
        """Return what to ask the server for.

        Args:
            average_bits: Average bits per coded weight; 0 = the server decides.
            user_embedding: What is known about the user; None = nothing.
        """
        return PlanRequest(
            model_digest=self.bundle.model_digest,
            bundle_digest=self.bundle.digest,
            subject=self.subject,
            average_bits=average_bits,
            installed_version=self.floor if self.held else 0,
            user_embedding=user_embedding,
        )

    def accept(self, data: bytes, state: DeviceState, *, keys: Sequence[PublicKey]) -> DeviceState:
        """Return a state that accepts no older plan than one that has come, any more.

        Args:
            data: A plan container, straight from the network.
            state: What the device remembers.
            keys: Keys that may sign plans.

        Raises:
            ArtifactError: The plan cannot be accepted; ``updater.accept_plan`` says why.
        """
        rules = PlanRules(
            model_digest=self.bundle.model_digest,
            layers=self.bundle.manifest.layers,
            subject=self.subject,
            minimum_version=self.floor + 1 if self.held else max(self.floor, 1),
            now_s=self.now_s,
        )
        plan = accept_plan(data, keys=keys, rules=rules)
        state = state.with_plan_floor(self.bundle.model_digest, self.subject, plan.version)
        return replace(state, time_floor_s=max(state.time_floor_s, plan.issued_at_s))
