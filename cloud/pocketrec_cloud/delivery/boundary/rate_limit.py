# SPDX-License-Identifier: Apache-2.0
"""How often one caller may ask: a token bucket per caller, in bounded memory."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import unquote

__all__ = ["RateLimiter", "peer_key"]

_MAX_CALLERS = 10_000


class RateLimiter:
    """Lets each caller burst up to a minute's worth of calls, then paces it.

    Callers not seen for long are forgotten when more than 10 000 are known. Safe to
    share between threads.

    Args:
        per_minute: Calls a minute one caller may make.
        clock: Seconds, never going back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._capacity = float(per_minute)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, caller: str) -> bool:
        """Take one call from the caller's bucket; False when it is empty."""
        now = self._clock()
        with self._lock:
            tokens = self._tokens(caller, now)
            self._buckets.pop(caller, None)
            allowed = tokens >= 1
            self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
            if len(self._buckets) > _MAX_CALLERS:
                self._buckets.popitem(last=False)
        return allowed

    def is_exhausted(self, caller: str) -> bool:
        """Whether the caller's next call would be refused; takes none."""
        with self._lock:
            return self._tokens(caller, self._clock()) < 1

    def _tokens(self, caller: str, now: float) -> float:
        """Return how many calls a caller may make now; the lock is held."""
        tokens, since = self._buckets.get(caller, (self._capacity, now))
        return min(self._capacity, tokens + (now - since) * self._capacity / 60)


def peer_key(peer: str) -> str:
    """Reduce a gRPC peer to what one party controls: IPv4 address, or IPv6 /64 network.

    Example:
        >>> peer_key("ipv4:192.0.2.7:50123"), peer_key("ipv6:[2001:db8::7]:50123")
        ('192.0.2.7', '2001:db8::/64')
    """
    family, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    if family != "ipv6":
        return host or peer
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network(f"{address}/64", strict=False))
