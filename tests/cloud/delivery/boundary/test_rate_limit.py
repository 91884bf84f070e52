# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from pocketrec_cloud.delivery.boundary import rate_limit
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter, peer_key


class StepClock:
    now_s = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


class TestRateLimiter:
    def test_burst_is_allowed_then_refused(self) -> None:
        """A caller gets a minute's worth at once, and no more."""
        limiter = RateLimiter(2, StepClock())

        assert [limiter.allow("a") for _ in range(3)] == [True, True, False]

    def test_waiting_refills(self) -> None:
        """At 2 a minute, half a minute buys one call."""
        clock = StepClock()
        limiter = RateLimiter(2, clock)
        limiter.allow("a")
        limiter.allow("a")

        clock.now_s = 30

        assert [limiter.allow("a"), limiter.allow("a")] == [True, False]

    def test_looking_takes_nothing(self) -> None:
        """Whether a caller has calls left can be asked without using one up."""
        clock = StepClock()
        limiter = RateLimiter(1, clock)

        assert [limiter.is_exhausted("a") for _ in range(3)] == [False] * 3
        assert limiter.allow("a")
        assert limiter.is_exhausted("a")
        clock.now_s = 60
        assert not limiter.is_exhausted("a")

    def test_callers_do_not_share(self) -> None:
        """One caller's greed costs nobody else."""
        limiter = RateLimiter(1, StepClock())
        limiter.allow("a")

        assert limiter.allow("b")

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The caller seen longest ago is forgotten first."""
        monkeypatch.setattr(rate_limit, "_MAX_CALLERS", 2)
        limiter = RateLimiter(1, StepClock())
        for caller in ("a", "b", "c"):
            limiter.allow(caller)

        assert not limiter.allow("c")
        assert limiter.allow("a")


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("ipv4:192.0.2.7:50123", "192.0.2.7"),
        ("ipv6:[2001:db8:1:2:3::7]:50123", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:3::7%5D:50123", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:192.0.2.7]:50123", "192.0.2.7"),
        ("unix:", "unix:"),
    ],
)
def test_peer_is_reduced_to_who_controls_it(peer: str, key: str) -> None:
    """A new port, or a new address in the same IPv6 network, is the same caller."""
    assert peer_key(peer) == key
