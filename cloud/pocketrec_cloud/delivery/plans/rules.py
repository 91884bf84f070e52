# SPDX-License-Identifier: Apache-2.0
"""What operators want plans to be like, asked by the drafter before it plans.

A rule wins over the server's policy and over what a device leaves open. The bits a device
asks for are a budget: a rule may stay below them, never go above. A rule that cannot be obeyed
for a device, such as a planner its model does not have, is passed over for that device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["FirstRule", "NoRules", "PlanRules", "PlanSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What a plan should be like.

    Args:
        planner: By name; empty = as usual. With ``codes``, what their plan says made it.
        average_bits: Bits per coded weight; 0 = as usual.
        codes: Packed 2-bit codes of every channel instead of a planner; empty = none.
    """

    planner: str = ""
    average_bits: float = 0.0
    codes: bytes = b""

    def bits_within(self, asked: float) -> float:
        """Return the bits to plan for when a device asks for some; 0 = nobody says."""
        return (
            min(asked, self.average_bits)
            if asked and self.average_bits
            else (asked or self.average_bits)
        )


class PlanRules(Protocol):
    """Says what a device's plan should be like; safe to share between threads."""

    def settings_for(
        self, subject: str, device_id: str, model_digest: bytes
    ) -> PlanSettings | None:
        """Return what holds for a device now; None = as usual.

        Args:
            subject: Whom the plan is for.
            device_id: Who asks; empty = nobody in particular.
            model_digest: 32 bytes, of the frozen model the plan is for.

        Raises:
            StoreError: The database fails.
        """


class NoRules:
    """Everything is as usual."""

    def settings_for(
        self,
        subject: str,  # noqa: ARG002  as PlanRules has it
        device_id: str,  # noqa: ARG002
        model_digest: bytes,  # noqa: ARG002
    ) -> PlanSettings | None:
        """Return None."""
        return None


class FirstRule:
    """Asks several rules; the first that says something holds.

    Args:
        rules: The most special one first.
    """

    def __init__(self, rules: Sequence[PlanRules]) -> None:
        self._rules = tuple(rules)

    def settings_for(
        self, subject: str, device_id: str, model_digest: bytes
    ) -> PlanSettings | None:
        """Return what the first rule says that says something.

        Raises:
            StoreError: The database fails.
        """
        said = (rule.settings_for(subject, device_id, model_digest) for rule in self._rules)
        return next((settings for settings in said if settings is not None), None)
