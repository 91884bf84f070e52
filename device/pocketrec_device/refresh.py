# SPDX-License-Identifier: Apache-2.0
"""Decides whether it is time to sync: facts in, verdict out; no disk, no network, no clock.

A sync is asked for by the first of these that holds: nothing is installed, the plan has
expired, it expires soon, a session starts, the user has moved on, enough events came in.
It is put off while the network costs money, or when the last attempt was a moment ago.
A plan that has expired keeps ranking, so not even that overrides what the app set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Obstacle",
    "PlanAge",
    "Reason",
    "RefreshFacts",
    "RefreshPolicy",
    "Verdict",
    "decide",
    "drift_between",
    "plan_age",
]


class PlanAge(StrEnum):
    """How the installed plan stands with its expiry."""

    ABSENT = "absent"
    VALID = "valid"
    EXPIRES_SOON = "expires soon"
    EXPIRED = "expired"


class Reason(StrEnum):
    """What asks for a sync; in the order in which they are looked at."""

    NOTHING_INSTALLED = "nothing is installed"
    PLAN_EXPIRED = "the plan has expired"
    PLAN_EXPIRES_SOON = "the plan expires soon"
    SESSION_START = "a session starts"
    DRIFT = "the user has moved on"
    EVENTS = "enough events came in"


class Obstacle(StrEnum):
    """Why there is no sync now."""

    NOT_NEEDED = "nothing asks for it"
    NETWORK = "the network is not free"
    TOO_SOON = "the last attempt was a moment ago"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """When an app wants to sync.

    Args:
        every_events: After so many events since the last sync, from 1; None = never for
            their number.
        at_session_start: Whether when a session starts.
        max_drift: When the user's state has turned further than this since the last
            sync, 0 to 2 as ``drift_between`` has it; None = never for that.
        needs_free_network: Whether only while the app says that the network is free.
        min_interval_s: Seconds between two attempts, whatever came of the first.

    Raises:
        ConfigError: A number is out of its range.
    """

    every_events: int | None = None
    at_session_start: bool = True
    max_drift: float | None = None
    needs_free_network: bool = True
    min_interval_s: float = 900.0

    def __post_init__(self) -> None:
        if self.every_events is not None and self.every_events < 1:
            raise ConfigError(f"every_events: expected 1 or more, got {self.every_events}")
        if self.max_drift is not None and not 0 <= self.max_drift <= 2:
            raise ConfigError(f"max_drift: expected 0 to 2, got {self.max_drift}")
        if not 0 <= self.min_interval_s < math.inf:
            raise ConfigError(f"min_interval_s: expected 0 or more, got {self.min_interval_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshFacts:
    """What is known at the moment of deciding.

    Args:
        n_events: Events since the last sync that went through.
        is_session_start: Whether a session has just started.
        drift: How far the user's state has turned since then; None = not known, as
            without a history.
        is_network_free: What the app says.
        since_attempt_s: Seconds since the last attempt to sync; None = none yet. Below 0
            the clock was set back, which counts as long ago.
        plan: How the installed plan stands.
    """

    n_events: int = 0
    is_session_start: bool = False
    drift: float | None = None
    is_network_free: bool = True
    since_attempt_s: float | None = None
    plan: PlanAge = PlanAge.VALID


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do, and why.

    Args:
        reason: What asks for a sync; None = nothing.
        obstacle: Why there is none now; None = there is one.
    """

    reason: Reason | None
    obstacle: Obstacle | None

    @property
    def is_due(self) -> bool:
        """Whether to sync now."""
        return self.obstacle is None

    def __str__(self) -> str:
        if self.reason is None or self.obstacle is None:
            return f"sync: {self.reason}" if self.reason else f"no sync: {self.obstacle}"
        return f"no sync although {self.reason}: {self.obstacle}"


def decide(policy: RefreshPolicy, facts: RefreshFacts) -> Verdict:
    """Return whether to sync now.

    Args:
        policy: What the app wants.
        facts: What is known now.
    """
    reason = _reason(policy, facts)
    if reason is None:
        return Verdict(reason=None, obstacle=Obstacle.NOT_NEEDED)
    if policy.needs_free_network and not facts.is_network_free:
        return Verdict(reason=reason, obstacle=Obstacle.NETWORK)
    since_s = facts.since_attempt_s
    if since_s is not None and 0 <= since_s < policy.min_interval_s:
        return Verdict(reason=reason, obstacle=Obstacle.TOO_SOON)
    return Verdict(reason=reason, obstacle=None)


def drift_between(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """Return 1 minus the cosine of two states: 0 the same direction, 2 the opposite one.

    Args:
        before: (D,) float32, the user's state at the last sync.
        now: (D,) float32, the user's state.

    Returns:
        0 to 2; 1 if one of them has no direction, 0 if neither has.
    """
    a, b = before.astype(np.float64), now.astype(np.float64)
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(lengths):
        return 1.0 if any(lengths) else 0.0
    cosine = float((a / lengths[0]) @ (b / lengths[1]))
    return 1.0 - min(1.0, max(-1.0, cosine))


def plan_age(expires_at_s: int, now_s: float, *, soon_s: float) -> PlanAge:
    """Return how a plan that is installed stands with its expiry.

    Args:
        expires_at_s: Unix seconds; 0 = never.
        now_s: Unix seconds, not before any signed time seen.
        soon_s: Seconds before the expiry from which on it is near.
    """
    if not expires_at_s or now_s < expires_at_s - soon_s:
        return PlanAge.VALID
    return PlanAge.EXPIRES_SOON if now_s < expires_at_s else PlanAge.EXPIRED


def _reason(policy: RefreshPolicy, facts: RefreshFacts) -> Reason | None:
    """Return the first reason that holds."""
    every, drift, limit = policy.every_events, facts.drift, policy.max_drift
    holds = {
        Reason.NOTHING_INSTALLED: facts.plan is PlanAge.ABSENT,
        Reason.PLAN_EXPIRED: facts.plan is PlanAge.EXPIRED,
        Reason.PLAN_EXPIRES_SOON: facts.plan is PlanAge.EXPIRES_SOON,
        Reason.SESSION_START: policy.at_session_start and facts.is_session_start,
        Reason.DRIFT: drift is not None and limit is not None and drift > limit,
        Reason.EVENTS: every is not None and facts.n_events >= every,
    }
    return next((reason for reason in Reason if holds[reason]), None)
