# SPDX-License-Identifier: Apache-2.0
"""Sees to it that a server knows this device, and that its token has time left.

Only differences of the device's own clock count: a clock that is wrong by years changes
nothing, and one that is set while a token lives costs a registration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pocketrec_device.facts import profile_sha256
from pocketrec_device.state import DeviceState
from pocketrec_device.store import Store
from pocketrec_proto.v1.device_service_pb2 import DeviceProfile

if TYPE_CHECKING:
    from pocketrec.signing import SigningKey
    from pocketrec_device.transport import Registration

__all__ = ["Registrar", "forget_token", "needs_token", "registered"]

_MIN_LEFT_S = 60
_MIN_LEFT_SHARE = 0.1


class Registrar(Protocol):
    """The part of ``ServiceClient`` that registers."""

    target: str

    def register(self, profile: DeviceProfile, key: SigningKey) -> Registration:
        """Make the device known to the server."""

    def authenticate(self, token: str) -> None:
        """Send a token with every later call."""


def registered(
    store: Store, client: Registrar, profile: DeviceProfile, *, clock: Callable[[], float]
) -> DeviceState:
    """Return a state that has a good token of a server; the client uses it from now on.

    Args:
        store: Its lock is held.
        client: A connection to that server.
        profile: What to tell of this device.
        clock: Seconds, by the device's own clock.

    Raises:
        RejectedError: The server does not want this device, for example because it was revoked.
        ServiceError: The server could not be asked.
        OSError: The store cannot be written.
    """
    state, now_s = store.load(), int(clock())
    if needs_token(state, client.target, profile, now_s):
        known = client.register(profile, store.device_key())
        state = replace(
            state,
            server=client.target,
            device_id=known.device_id,
            token=known.token,
            token_lifetime_s=known.lifetime_s,
            token_ends_at_s=now_s + known.lifetime_s,
            profile_sha256=profile_sha256(profile),
        )
        store.save(state)
    client.authenticate(state.token)
    return state


def needs_token(state: DeviceState, target: str, profile: DeviceProfile, now_s: int) -> bool:
    """Whether to register: no token of this server, little time left, or other facts to tell.

    Args:
        state: What the device remembers.
        target: Which server.
        profile: What to tell of this device.
        now_s: By the device's own clock.
    """
    if not state.token or state.server != target:
        return True
    if state.profile_sha256 != profile_sha256(profile):
        return True
    left_s = state.token_ends_at_s - now_s
    # More than its whole life is left only if the clock was set back meanwhile.
    least_s = max(_MIN_LEFT_S, state.token_lifetime_s * _MIN_LEFT_SHARE)
    return not least_s <= left_s <= state.token_lifetime_s


def forget_token(store: Store) -> None:
    """Drop a token that its server does not take.

    Args:
        store: Its lock is held.

    Raises:
        OSError: The store cannot be written.
    """
    store.save(replace(store.load(), token=""))
